"""Codes of several digits: ids for their embeddings, and a head that gives one distribution after another.

    B records   L T tokens   D width   K most digits of a code   V sizes of a code's digits   J width within the head

p(code | h) = Π_k p(digit_k | h, digits before it), so that a codebook of V1·V2·V3 codes needs V1 + V2 + V3 logits. A
codebook of one digit has a linear head and one embedding for each code, as it always had.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavedp.tokenizers import Span

HEAD_WIDTH = 32  # J; small, as a private fit noises every weight


class DigitHead(nn.Module):
    """forward(h B T D, digits, one B T for each) -> logits, one B T V for each digit, given the digits before it.

    The logits of digit k are linear in gelu(a linear map of h + an embedding of each earlier digit). Every layer is
    called once, as some ways to split a gradient by record ask.
    """

    def __init__(self, width: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes
        self.hidden = nn.Linear(width, len(sizes) * HEAD_WIDTH)
        # A row for each value of each earlier digit, for every digit that sees it.
        self.earlier = nn.Embedding(sum(sum(sizes[:k]) for k in range(len(sizes))), HEAD_WIDTH)
        self.logits = nn.ModuleList(nn.Linear(HEAD_WIDTH, size) for size in sizes)

    def forward(self, h: Tensor, digits: list[Tensor]) -> list[Tensor]:
        seen = [self._rows(k, digits[:k]) for k in range(1, len(self.sizes))]  # B T k each
        embedded = self.earlier(torch.cat(seen, -1).flatten(1)).view(*h.shape[:2], -1, HEAD_WIDTH)
        earlier = embedded.split([rows.shape[-1] for rows in seen], 2)
        first, *rest = self.hidden(h).chunk(len(self.sizes), -1)  # B T J each
        inputs = [first, *(part + rows.sum(2) for part, rows in zip(rest, earlier, strict=True))]
        return [layer(F.gelu(each)) for layer, each in zip(self.logits, inputs, strict=True)]

    def following(self, h: Tensor, digits: list[Tensor]) -> Tensor:
        """Logits B V of the digit after `digits`, B each, for one token: h B D."""
        k = len(digits)
        own = slice(k * HEAD_WIDTH, (k + 1) * HEAD_WIDTH)
        x = F.linear(h, self.hidden.weight[own], self.hidden.bias[own])
        if digits:
            x = x + self.earlier(self._rows(k, digits)).sum(1)
        logits: Tensor = self.logits[k](F.gelu(x))
        return logits

    def _rows(self, k: int, digits: list[Tensor]) -> Tensor:
        """The rows of `earlier` by which digit k sees the k digits before it: ... k."""
        start = sum(sum(self.sizes[:other]) for other in range(k))
        return torch.stack([digit + start + sum(self.sizes[:j]) for j, digit in enumerate(digits)], -1)


def head_of(width: int, span: Span) -> nn.Module:
    """A linear head for codes of one digit, else a `DigitHead`."""
    return nn.Linear(width, span.size) if len(span.digits) == 1 else DigitHead(width, span.digits)


def most_digits(spans: tuple[Span, ...]) -> int:
    """K."""
    return max(len(span.digits) for span in spans)


def n_rows(spans: tuple[Span, ...]) -> int:
    """Number of embeddings of all codebooks, one for each value of each digit: all codes, where each is one digit."""
    return sum({span.codebook: sum(span.digits) for span in spans}.values())


def id_tables(spans: tuple[Span, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Divisors, sizes and offsets, each L K int64: digit k of a code is code // divisor % size, its id that + offset.

    Ids are unique across codebooks and digits. A digit that a code lacks is 0, its id `n_rows` + 1, without embedding;
    `n_rows` itself is the id of a missing token."""
    most, blank = most_digits(spans), n_rows(spans) + 1
    starts, rows = {}, 0
    for codebook, digits in sorted({span.codebook: span.digits for span in spans}.items()):
        starts[codebook], rows = rows, rows + sum(digits)
    tables: list[list[list[int]]] = [[], [], []]
    for span in spans:
        digits, missing = span.digits, most - len(span.digits)
        divisors = [math.prod(digits[k + 1 :]) for k in range(len(digits))] + [1] * missing
        offsets = [starts[span.codebook] + sum(digits[:k]) for k in range(len(digits))] + [blank] * missing
        for table, row in zip(tables, (divisors, [*digits, *[1] * missing], offsets), strict=True):
            table += [row] * (span.stop - span.start)
    divisors_, sizes_, offsets_ = (torch.tensor(table) for table in tables)
    return divisors_, sizes_, offsets_

"""What all decoders over tokens share: logits of every token from those before it, and draws, one token after another.

Shapes: B records, L tokens, P text tokens before them, K most digits of a code, D width, V sizes of the codebooks'
digits, H attention heads.

A decoder embeds the tokens before each position and the condition (`inputs`), and has `blocks`, causal self-attention
that a `Cache` shortens, a `norm` and a head for each span. The tokens of a sentence (TokenCondition) stand before the
image's: attention sees them as it sees earlier tokens of the image, and no logits are made of them. A code of several
digits (wavedp.tokenizers.Span) is drawn one digit after another (wavedp.generators.digits).

Opacus can compute a gradient per record because no operation mixes records (norms of single positions, no dropout),
index tensors are expanded to B L, and input and output weights are not tied (ghost clipping does not support tied
weights).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavedp.errors import UserError
from wavedp.generators.conditions import Condition, TokenCondition
from wavedp.generators.digits import DigitHead, id_tables, most_digits, n_rows
from wavedp.tokenizers import Tokenizer


class TokenDecoder(nn.Module):
    """forward(codes B L int64, conditions) -> one logits tensor B (stop - start) V for each digit of each span.

    conditions: input of `condition`, class labels B int64, sentence embeddings B E float32 or states of a sentence's
    tokens B P E+1. A subclass makes
    `blocks`, `norm` and `heads` (wavedp.generators.digits.head_of, or linear), and says what a position is shown
    (`inputs`).
    """

    blocks: nn.ModuleList
    norm: nn.Module
    heads: nn.ModuleList

    def __init__(self, tokenizer: Tokenizer, condition: Condition) -> None:
        super().__init__()
        self.divisors: Tensor
        self.sizes: Tensor
        self.offsets: Tensor
        self.spans, self.length = tokenizer.spans, tokenizer.length
        self.n_positions = self.length  # of the sequence that the blocks see
        for name, table in zip(("divisors", "sizes", "offsets"), id_tables(self.spans), strict=True):
            self.register_buffer(name, table, persistent=False)
        self.digits = most_digits(self.spans)  # K
        self.none = n_rows(self.spans)  # id of a missing token
        self.condition = condition

    def inputs(self, ids: Tensor, shown: Tensor, start: int, stop: int) -> Tensor:
        """Embeddings of positions start..stop-1, B stop-start D, from what is known before each.

        ids: B L+1 K, of all tokens, those from stop - 1 on not looked at; the last of L+1 is a missing token. shown:
        the conditions' embeddings, B 1 D."""
        raise NotImplementedError

    def conditioned(self, conditions: Tensor) -> tuple[Tensor | None, Tensor]:
        """What stands before the image's tokens, B P D (None: nothing), and what `inputs` are shown, B 1 D."""
        embedded = self.condition(conditions)
        if isinstance(self.condition, TokenCondition):
            return embedded, torch.zeros_like(embedded[:, :1])
        return None, embedded

    def forward(self, codes: Tensor, conditions: Tensor) -> list[Tensor]:
        before, shown = self.conditioned(conditions)
        h = joined(before, self.inputs(self._ids(codes), shown, 0, self.length))
        for block in self.blocks:
            h = block(h)
        h = self.norm(h[:, -self.length :])
        logits = []
        for head, span in zip(self.heads, self.spans, strict=True):
            shown = h[:, span.start : span.stop]
            if isinstance(head, DigitHead):
                logits += head(shown, span.split(codes[:, span.start : span.stop]))
            else:
                logits.append(head(shown))
        return logits

    @torch.inference_mode()
    def sample(
        self,
        conditions: Tensor,
        uniforms: Tensor,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float = 1.0,
        prefix: Tensor | None = None,
        cached: bool = True,
    ) -> Tensor:
        """Draw codes B L for B conditions by inverse-CDF sampling with uniforms B L K in [0, 1), one for each digit, or
        B L where all codes are one digit.

        Equal uniforms give equal draws from equal distributions, so models can be compared sample by sample. top_k and
        top_p apply to each digit.
        guidance: logits are unconditional + guidance · (conditional - unconditional) (Ho & Salimans, arXiv 2207.12598).
        prefix: the first k codes, B k; only the rest is drawn. Raises UserError when it is longer than the sequence.
        cached: False recomputes everything for each token, the reference for testing the cache. Raises UserError too
        for logits that are not finite, and for fewer than K uniforms a token.
        """
        uniforms = uniforms.double().view(*uniforms.shape[:2], -1)
        if uniforms.shape[2] < self.digits:
            raise UserError(
                f"codes of {self.digits} digits need as many uniforms each, got shape {tuple(uniforms.shape)}: give "
                "records × tokens × digits."
            )
        batch, given = len(conditions), 0 if prefix is None else prefix.shape[1]
        if given > self.length:
            raise UserError(f"a prefix of {given} codes is longer than the sequence of {self.length}: give fewer.")
        codes = torch.zeros(batch, self.length, dtype=torch.long, device=conditions.device)
        if prefix is not None:
            codes[:, :given] = prefix
        guided = guidance != 1
        if guided:
            conditions = torch.cat([conditions, self.condition.absent(conditions)])
        # All that is the same for every token comes first: a token is a few dozen small kernels.
        ids, (before, shown) = self._ids(codes), self.conditioned(conditions)
        caches = [Cache(self.n_positions + (0 if before is None else before.shape[1])) for _ in self.blocks]
        seen = 0  # number of positions in the caches
        masses = torch.ones_like(uniforms)  # looked at when all is drawn: no wait at every token
        for span, head in zip(self.spans, self.heads, strict=True):
            for t in range(max(span.start, given), span.stop):
                h = self.inputs(ids.repeat(2, 1, 1) if guided else ids, shown, seen, t + 1)
                h = h if seen else joined(before, h)
                for block, cache in zip(self.blocks, caches, strict=True):
                    h = block(h, cache if cached else None)
                seen = t + 1 if cached else 0
                state, drawn = self.norm(h[:, -1]), list[Tensor]()
                for k in range(len(span.digits)):
                    if isinstance(head, DigitHead):
                        logits = head.following(state, [each.repeat(2) for each in drawn] if guided else drawn)
                    else:
                        logits = head(state)
                    if guided:
                        conditional, unconditional = logits.chunk(2)
                        logits = unconditional + guidance * (conditional - unconditional)
                    digit, masses[:, t, k : k + 1] = draw(logits, uniforms[:, t, k], temperature, top_k, top_p)
                    drawn.append(digit)
                    torch.add(digit, self.offsets[t, k], out=ids[:, t, k])
        if not masses.isfinite().all():
            raise UserError(
                "the distributions that codes are drawn from are not finite: the model diverged, or "
                f"temperature={temperature} is too low; lower a learning rate or raise the temperature."
            )
        return ((ids[:, :-1] - self.offsets) * self.divisors).sum(2)

    def _ids(self, codes: Tensor) -> Tensor:
        """Return B L+1 K ids, unique across codebooks and digits; the last of L+1 is a missing token."""
        ids = F.pad(codes.unsqueeze(2) // self.divisors % self.sizes + self.offsets, (0, 0, 0, 1), value=self.none)
        ids[:, -1, 1:] = self.none + 1
        return ids


class Cache:
    """Keys and values B H t D/H of the positions that one block has seen, in memory for all `length` of them."""

    def __init__(self, length: int) -> None:
        self.length, self.seen = length, 0
        self.both: Tensor | None = None  # 2 B H length D/H

    def append(self, new: Tensor) -> Tensor:
        """Add these keys and values, 2 B H t D/H; returns all so far."""
        if self.both is None:
            self.both = new.new_empty(*new.shape[:3], self.length, new.shape[4])
        start, self.seen = self.seen, self.seen + new.shape[3]
        self.both[:, :, :, start : self.seen] = new
        return self.both[:, :, :, : self.seen]


def joined(before: Tensor | None, h: Tensor) -> Tensor:
    """B P D and B t D, one after the other, B P+t D."""
    return h if before is None else torch.cat([before, h], 1)


def split_heads(qkv: Tensor, heads: int) -> Tensor:
    """Queries, keys and values side by side, B t 3D -> 3 B H t D/H."""
    return qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)


def attended(qkv: Tensor, cache: Cache | None) -> Tensor:
    """Causal self-attention of queries, keys and values 3 B H t D/H: B t D. With a cache, they are of the newest t
    positions, which also attend to all cached ones."""
    q, k, v = qkv
    length = q.shape[2]
    if cache is not None:
        k, v = cache.append(qkv[1:])
    assert length == 1 or k.shape[2] == length, "several new positions after cached ones need a mask of their own"
    return F.scaled_dot_product_attention(q, k, v, is_causal=length > 1).transpose(1, 2).flatten(2)


def draw(
    logits: Tensor, uniforms: Tensor, temperature: float, top_k: int | None, top_p: float | None
) -> tuple[Tensor, Tensor]:
    """Draw one code per row of logits B V with uniforms B, by inverting the cumulative distribution; and the mass that
    each was drawn from, NaN where there is no distribution."""
    probabilities = (logits.double() / temperature).softmax(-1)
    if top_k is not None or top_p is not None:
        ranked, order = probabilities.sort(dim=-1, descending=True)
        before = ranked.cumsum(-1) - ranked  # total probability of the likelier codes
        drop = torch.zeros_like(ranked, dtype=torch.bool)
        if top_k is not None:
            drop[:, top_k:] = True
        if top_p is not None:
            drop |= before >= top_p
        probabilities = probabilities.scatter(-1, order, ranked.masked_fill(drop, 0.0))
    cumulative = probabilities.cumsum(-1)
    mass = cumulative[:, -1:]
    codes = torch.searchsorted(cumulative, uniforms.double()[:, None] * mass, right=True).squeeze(-1)
    return codes.clamp(max=logits.shape[-1] - 1), mass

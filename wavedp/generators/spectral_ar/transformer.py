"""A decoder-only transformer over the tokens of a coarse-to-fine tokenizer.

Shapes: B records, L tokens, D width, H heads, N neighbours of a token, V codes of a codebook, K most digits of a code.

p(codes | condition) = Π_t p(code_t | code_<t, condition). The input at position t is the sum of a position embedding,
the condition's embedding and a projection of the adjacent earlier codes: left, above and above-right on its own scale,
and on the next coarser scale the token that covers it and that token's four neighbours. Attention sees every earlier
position; the neighbour codes only save it from having to find the adjacent ones. A code of several digits
(wavedp.tokenizers.Span) is embedded as the sum of its digits' embeddings.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavedp.errors import UserError
from wavedp.generators.conditions import Condition
from wavedp.generators.digits import head_of, most_digits, n_rows
from wavedp.generators.token_decoder import Cache, TokenDecoder, attended, split_heads
from wavedp.tokenizers import Tokenizer

CODE_WIDTH = 32  # embedding width of a neighbour's code; small, as codes are few and a private fit noises every weight


class SpectralTransformer(TokenDecoder):
    """See wavedp.generators.token_decoder."""

    def __init__(self, tokenizer: Tokenizer, condition: Condition, width: int, depth: int, heads: int) -> None:
        super().__init__(tokenizer, condition)
        self.neighbours: Tensor
        neighbours = neighbour_table(tokenizer.positions)
        self.register_buffer("neighbours", neighbours, persistent=False)
        self.position = nn.Embedding(self.length, width)
        blank = self.none + 1 if self.digits > 1 else None  # id of a digit that a code lacks: its embedding is 0
        self.code = nn.Embedding(self.none + (1 if blank is None else 2), CODE_WIDTH, padding_idx=blank)
        self.context = nn.Linear(neighbours.shape[1] * CODE_WIDTH, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(head_of(width, span) for span in self.spans)
        nn.init.normal_(self.position.weight, std=0.02)

    def inputs(self, ids: Tensor, shown: Tensor, start: int, stop: int) -> Tensor:
        """Return the summed embeddings of positions start..stop-1, B stop-start D. shown: the conditions', B 1 D."""
        batch, table = len(ids), self.neighbours[start:stop]
        near = self._embedded(ids, table.flatten()).view(batch, stop - start, -1)
        index = torch.arange(start, stop, device=ids.device).expand(batch, -1).contiguous()
        return self.context(near) + self.position(index) + shown

    def _embedded(self, ids: Tensor, places: Tensor) -> Tensor:
        """Return the embeddings of the tokens at `places`, B n CODE_WIDTH, of ids B L+1 K."""
        if self.digits == 1:
            embedded: Tensor = self.code(ids[:, places, 0])
            return embedded
        few = len(places) < ids.shape[1]  # else each token's embedding, a sum over digits, is made once
        chosen = ids[:, places] if few else ids
        embedded = self.code(chosen.flatten(1)).view(*chosen.shape, -1).sum(2)
        # A copy of the places: they are kept for the backward pass, and whoever puts buffers back would change them.
        return embedded if few else embedded.index_select(1, places.clone())


class Block(nn.Module):
    """Pre-norm causal self-attention and a GELU feed-forward of 4 D."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.n_heads = heads
        self.norm_attention, self.norm_feedforward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h: Tensor, cache: Cache | None = None) -> Tensor:
        """Map h B t D to B t D. With a cache, h holds the newest t positions, which also attend to all cached ones."""
        h = h + self.out(attended(split_heads(self.qkv(self.norm_attention(h)), self.n_heads), cache))
        return h + self.down(F.gelu(self.up(self.norm_feedforward(h))))


def neighbour_table(positions: Tensor) -> Tensor:
    """Return L N int64: for each token the sequence indices of its N earlier neighbours, L where there is none.

    positions: L 3 (scale, row, column), scales ascending. Tokens of several channels share a position; the neighbour is
    then the latest of them before the token.
    """
    length = len(positions)
    extents = {int(s): positions[positions[:, 0] == s].amax(0)[1:] + 1 for s in positions[:, 0].unique()}
    latest: dict[tuple[int, int, int], int] = {}
    table = []
    for t, (scale, row, column) in enumerate(positions.tolist()):
        near = [(scale, row, column - 1), (scale, row - 1, column), (scale, row - 1, column + 1), (scale, row, column)]
        if scale > 0:
            (rows, columns), (above_rows, above_columns) = extents[scale].tolist(), extents[scale - 1].tolist()
            up, left = row * above_rows // rows, column * above_columns // columns
            near += [(scale - 1, up + i, left + j) for i, j in ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))]
        else:
            near += [(-1, 0, 0)] * 5
        table.append([latest.get(place, length) for place in near])
        latest[scale, row, column] = t
    return torch.tensor(table)


def cut(weights: dict[str, Tensor], public: Tokenizer, private: Tokenizer) -> dict[str, Tensor]:
    """Reduce the weights of a model over the tokens of `public` to the tokens of `private`, a prefix of them.

    Positions, codes and heads of finer scales are dropped, so that a private fit computes no loss or gradient for them
    and adds no noise to them. Raises UserError as `require_prefix` does.
    """
    require_prefix(public, private)
    rows, last = n_rows(private.spans), n_rows(public.spans)
    special = 1 + (most_digits(private.spans) > 1)  # the row of a missing token, and that of a missing digit
    unused = tuple(f"heads.{i}." for i in range(len(private.spans), len(public.spans)))
    kept = {name: value for name, value in weights.items() if not unused or not name.startswith(unused)}
    kept["position.weight"] = kept["position.weight"][: private.length]
    kept["code.weight"] = torch.cat([kept["code.weight"][:rows], kept["code.weight"][last : last + special]])
    return kept


def require_prefix(public: Tokenizer, private: Tokenizer) -> None:
    """Raise UserError unless the tokens of `private` are the first ones of `public`, over the same codebooks."""
    n = private.length
    same = n <= public.length and torch.equal(public.positions[:n], private.positions)
    mine, theirs = ([s.digits for s in each.spans[: len(private.spans)]] for each in (private, public))
    if not same or mine != theirs:
        raise UserError(
            f"the private tokens ({n}, codebooks {_sizes(private)}) are no prefix of those the generator was "
            f"pretrained on ({public.length}, codebooks {_sizes(public)}): use one tokenizer for both, and a level it "
            "reaches."
        )


def _sizes(tokenizer: Tokenizer) -> list[str]:
    return ["×".join(str(size) for size in span.digits) for span in tokenizer.spans]

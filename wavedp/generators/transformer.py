"""A decoder-only transformer over the tokens of a coarse-to-fine tokenizer.

Shapes: B records, L tokens, D width, H heads, N neighbours of a token, V codes of a codebook.

p(codes | class) = Π_t p(code_t | code_<t, class). The input of position t sums a position embedding, a class embedding
and a projection of the codes that lie next to it and come before it: left, above, above-right on its own scale, and on
the next coarser scale the token over it with its four neighbours. Attention sees every earlier position; the neighbour
codes only spare it from having to find the adjacent ones.

Opacus sees one gradient a record because no operation mixes records (LayerNorm, no dropout), index tensors are expanded
to B L, and input and output weights are not tied (ghost clipping refuses tied weights).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavedp.tokenizers import Tokenizer

CODE_WIDTH = 32  # of one neighbour's code before projection: codes are few, and every weight is noised in a private fit


class SpectralTransformer(nn.Module):
    """forward(codes B L int64, labels B int64) -> one logits tensor B (stop - start) V for each of the spans."""

    def __init__(self, tokenizer: Tokenizer, n_classes: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.neighbours: Tensor
        self.offsets: Tensor
        self.spans, self.length = tokenizer.spans, tokenizer.length
        neighbours = neighbour_table(tokenizer.positions)
        offsets = torch.cat([torch.full((s.stop - s.start,), _offset(tokenizer, s.codebook)) for s in self.spans])
        self.register_buffer("neighbours", neighbours, persistent=False)
        self.register_buffer("offsets", offsets, persistent=False)
        self.none = sum({s.codebook: s.size for s in self.spans}.values())  # the id of a neighbour that does not exist
        self.label = nn.Embedding(n_classes, width)
        self.position = nn.Embedding(self.length, width)
        self.code = nn.Embedding(self.none + 1, CODE_WIDTH)
        self.context = nn.Linear(neighbours.shape[1] * CODE_WIDTH, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, s.size) for s in self.spans)
        for table in (self.label, self.position):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, codes: Tensor, labels: Tensor) -> list[Tensor]:
        h = self._inputs(self._ids(codes), labels, 0, self.length)
        for block in self.blocks:
            h = block(h)
        h = self.norm(h)
        return [head(h[:, s.start : s.stop]) for head, s in zip(self.heads, self.spans, strict=True)]

    @torch.inference_mode()
    def sample(
        self,
        labels: Tensor,
        uniforms: Tensor,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        cached: bool = True,
    ) -> Tensor:
        """Codes B L for labels B by inverse-CDF sampling with uniforms B L in [0, 1).

        Equal uniforms give the same draw from equal distributions, so models can be compared sample by sample.
        `cached=False` recomputes the whole prefix for each token: the reference the cache is tested against.
        """
        batch = len(labels)
        codes = labels.new_zeros(batch, self.length)
        caches: list[Cache] = [Cache() for _ in self.blocks]
        for span, head in zip(self.spans, self.heads, strict=True):
            for t in range(span.start, span.stop):
                h = self._inputs(self._ids(codes), labels, t if cached else 0, t + 1)
                for block, cache in zip(self.blocks, caches, strict=True):
                    h = block(h, cache if cached else None)
                logits = head(self.norm(h[:, -1]))
                codes[:, t] = _draw(logits, uniforms[:, t], temperature, top_k, top_p)
        return codes

    def _ids(self, codes: Tensor) -> Tensor:
        """B L+1: codes made unique across codebooks; the last column is the id of a missing neighbour."""
        return F.pad(codes + self.offsets, (0, 1), value=self.none)

    def _inputs(self, ids: Tensor, labels: Tensor, start: int, stop: int) -> Tensor:
        """B stop-start D: the summed embeddings of positions start..stop-1."""
        batch, table = len(labels), self.neighbours[start:stop]
        near = self.code(ids[:, table.flatten()]).view(batch, stop - start, -1)
        index = torch.arange(start, stop, device=ids.device).expand(batch, -1).contiguous()
        # Times √D: a class has B / classes records a step to move its row, and a short fit is over before it has.
        label = self.label(labels[:, None]) * self.label.embedding_dim**0.5
        return self.context(near) + self.position(index) + label


class Cache:
    """Keys and values B H t D/H of the positions one block has seen."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values so far, the given ones included."""
        if self.keys is not None and self.values is not None:
            keys, values = torch.cat([self.keys, keys], 2), torch.cat([self.values, values], 2)
        self.keys, self.values = keys, values
        return keys, values


class Block(nn.Module):
    """Pre-norm causal self-attention and a GELU feed-forward of 4 D."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.n_heads = heads
        self.norm_attention, self.norm_feedforward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h: Tensor, cache: Cache | None = None) -> Tensor:
        """h B t D -> B t D. With a cache, h holds the newest position alone and attends to all cached ones."""
        batch, length, width = h.shape
        qkv = self.qkv(self.norm_attention(h)).view(batch, length, 3, self.n_heads, width // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v = cache.append(k, v)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=cache is None)
        h = h + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return h + self.down(F.gelu(self.up(self.norm_feedforward(h))))


def neighbour_table(positions: Tensor) -> Tensor:
    """L N int64: for each token the sequence index of its N earlier neighbours, L where there is none.

    positions: L 3 (scale, row, column), scales ascending; tokens of several channels share a position, and the
    neighbour is then the latest of them before the token.
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


def _offset(tokenizer: Tokenizer, codebook: int) -> int:
    sizes = {span.codebook: span.size for span in tokenizer.spans}
    return sum(size for book, size in sizes.items() if book < codebook)


def _draw(logits: Tensor, uniforms: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
    """One code per row of logits B V at uniforms B, by inverting the cumulative distribution."""
    probabilities = (logits.double() / temperature).softmax(-1)
    if top_k is not None or top_p is not None:
        ranked, order = probabilities.sort(dim=-1, descending=True)
        before = ranked.cumsum(-1) - ranked  # the mass of likelier codes
        drop = torch.zeros_like(ranked, dtype=torch.bool)
        if top_k is not None:
            drop[:, top_k:] = True
        if top_p is not None:
            drop |= before >= top_p
        probabilities = probabilities.scatter(-1, order, ranked.masked_fill(drop, 0.0))
    cumulative = probabilities.cumsum(-1)
    target = uniforms.double()[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)

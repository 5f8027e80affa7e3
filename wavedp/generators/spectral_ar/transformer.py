"""A decoder-only transformer over the tokens of a coarse-to-fine tokenizer.

Shapes: B records, L tokens, D width, H heads, N neighbours of a token, V codes of a codebook, K most digits of a code.

p(codes | condition) = Π_t p(code_t | code_<t, condition). The input at position t is the sum of a position embedding,
the condition's embedding and a projection of the adjacent earlier codes: left, above and above-right on its own scale,
and on the next coarser scale the token that covers it and that token's four neighbours. Attention sees every earlier
position; the neighbour codes only save it from having to find the adjacent ones. A code of several digits
(wavedp.tokenizers.Span) is embedded as the sum of its digits' embeddings, and drawn one digit after another
(wavedp.generators.spectral_ar.digits).

Opacus can compute a gradient per record because no operation mixes records (LayerNorm, no dropout), index tensors are
expanded to B L, and input and output weights are not tied (ghost clipping does not support tied weights).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavedp.errors import UserError
from wavedp.generators.conditions import Condition
from wavedp.generators.spectral_ar.digits import DigitHead, head_of, id_tables, most_digits, n_rows
from wavedp.tokenizers import Tokenizer

CODE_WIDTH = 32  # embedding width of a neighbour's code; small, as codes are few and a private fit noises every weight


class SpectralTransformer(nn.Module):
    """forward(codes B L int64, conditions) -> one logits tensor B (stop - start) V for each digit of each span.

    conditions: input of `condition`, class labels B int64 or sentence embeddings B E float32.
    """

    def __init__(self, tokenizer: Tokenizer, condition: Condition, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.neighbours: Tensor
        self.divisors: Tensor
        self.sizes: Tensor
        self.offsets: Tensor
        self.spans, self.length = tokenizer.spans, tokenizer.length
        neighbours = neighbour_table(tokenizer.positions)
        tables = zip(("divisors", "sizes", "offsets"), id_tables(self.spans), strict=True)
        for name, table in (("neighbours", neighbours), *tables):
            self.register_buffer(name, table, persistent=False)
        self.digits = most_digits(self.spans)  # K
        self.none = n_rows(self.spans)  # id of a missing neighbour
        self.condition = condition
        self.position = nn.Embedding(self.length, width)
        blank = self.none + 1 if self.digits > 1 else None  # id of a digit that a code lacks: its embedding is 0
        self.code = nn.Embedding(self.none + (1 if blank is None else 2), CODE_WIDTH, padding_idx=blank)
        self.context = nn.Linear(neighbours.shape[1] * CODE_WIDTH, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(head_of(width, span) for span in self.spans)
        nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, codes: Tensor, conditions: Tensor) -> list[Tensor]:
        h = self._inputs(self._ids(codes), self.condition(conditions), 0, self.length)
        for block in self.blocks:
            h = block(h)
        h = self.norm(h)
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
        ids, shown = self._ids(codes), self.condition(conditions)
        caches = [Cache(self.length) for _ in self.blocks]
        seen = 0  # number of positions in the caches
        masses = torch.ones_like(uniforms)  # looked at when all is drawn: no wait at every token
        for span, head in zip(self.spans, self.heads, strict=True):
            for t in range(max(span.start, given), span.stop):
                h = self._inputs(ids.repeat(2, 1, 1) if guided else ids, shown, seen, t + 1)
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
                    digit, masses[:, t, k : k + 1] = _draw(logits, uniforms[:, t, k], temperature, top_k, top_p)
                    drawn.append(digit)
                    torch.add(digit, self.offsets[t, k], out=ids[:, t, k])
        if not masses.isfinite().all():
            raise UserError(
                "the distributions that codes are drawn from are not finite: the model diverged, or "
                f"temperature={temperature} is too low; lower a learning rate or raise the temperature."
            )
        return ((ids[:, :-1] - self.offsets) * self.divisors).sum(2)

    def _ids(self, codes: Tensor) -> Tensor:
        """Return B L+1 K ids, unique across codebooks and digits; the last of L+1 is a missing neighbour."""
        ids = F.pad(codes.unsqueeze(2) // self.divisors % self.sizes + self.offsets, (0, 0, 0, 1), value=self.none)
        ids[:, -1, 1:] = self.none + 1
        return ids

    def _inputs(self, ids: Tensor, shown: Tensor, start: int, stop: int) -> Tensor:
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
        batch, length, width = h.shape
        qkv = self.qkv(self.norm_attention(h)).view(batch, length, 3, self.n_heads, width // self.n_heads)
        q, k, v = (qkv := qkv.permute(2, 0, 3, 1, 4))
        if cache is not None:
            k, v = cache.append(qkv[1:])
        assert length == 1 or k.shape[2] == length, "several new positions after cached ones need a mask of their own"
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=length > 1)
        h = h + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
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


def _draw(
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

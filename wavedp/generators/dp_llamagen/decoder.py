"""The Llama-shaped decoder over one grid of tokens.

Shapes: B records, L tokens, D width, H heads, V codes.

p(codes | condition) = Π_t p(code_t | code_<t, condition). The sequence is the condition as a prefix, of one token or of
those of a sentence, then the codes in raster order; position t is shown the code before it, or the prefix's last.
Blocks are Llama's: RMSNorm, attention whose queries and keys are turned by their place, a gated feed-forward (SwiGLU,
arXiv 2002.05202), no bias.

2-D rotary positions (arXiv 2104.09864 for each axis): one half of a head's pairs turns by the row of the token that is
shown, the other half by its column, pair j of the D/4H of an axis by 10000^(-4jH/D) a row or column. The prefix is
not turned (LlamaGen sets both its cosine and sine to 0, so that its query and key vanish). The two numbers of a pair
are half a head apart, as in transformers' Llama; in LlamaGen they are neighbours, another order of the weights' rows.

Source: LlamaGen (arXiv 2406.06525; autoregressive/models/gpt.py at 5a50452): sizes of layers, ε of norms, initial
weights of standard deviation 0.02, and 0 in the head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavedp.generators.conditions import Condition, TokenCondition
from wavedp.generators.token_decoder import Cache, TokenDecoder, attended, split_heads
from wavedp.tokenizers import Tokenizer

ROTARY_BASE, NORM_EPS, INITIAL_STD = 10_000.0, 1e-5, 0.02


class LlamaDecoder(TokenDecoder):
    """See wavedp.generators.token_decoder. tokenizer: of one span, whose positions are L places of a grid."""

    def __init__(self, tokenizer: Tokenizer, condition: Condition, width: int, depth: int, heads: int) -> None:
        super().__init__(tokenizer, condition)
        (span,) = self.spans
        self.code = nn.Embedding(span.size, width)
        text = condition.length if isinstance(condition, TokenCondition) else 1
        rotation = rotations(tokenizer.positions[:-1, 1:], width // heads, text)
        self.blocks = nn.ModuleList(LlamaBlock(width, heads, rotation) for _ in range(depth))
        self.norm = nn.RMSNorm(width, eps=NORM_EPS)
        head = nn.Linear(width, span.size, bias=False)
        self.heads = nn.ModuleList([head])
        nn.init.normal_(self.code.weight, std=INITIAL_STD)
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=INITIAL_STD)
        nn.init.zeros_(head.weight)

    def conditioned(self, conditions: Tensor) -> tuple[Tensor | None, Tensor]:
        """The last token of a prefix is what position 0 is shown."""
        embedded = self.condition(conditions)
        return (embedded[:, :-1] if embedded.shape[1] > 1 else None), embedded[:, -1:]

    def inputs(self, ids: Tensor, shown: Tensor, start: int, stop: int) -> Tensor:
        """Position 0 is the condition, position t the code before it."""
        if start:
            return self.code(ids[:, start - 1 : stop - 1, 0])
        # Not by concatenation, whose gradients are strided, as the ghost norms of an embedding refuse.
        embedded = self.code(F.pad(ids[:, : stop - 1, 0], (1, 0)))
        first = torch.arange(stop, device=ids.device) == 0
        return torch.where(first[:, None], shown, embedded)


class LlamaBlock(nn.Module):
    """Pre-norm causal self-attention and SwiGLU. rotation: 2 L D/2H, cosines and sines of all positions."""

    def __init__(self, width: int, heads: int, rotation: Tensor) -> None:
        super().__init__()
        self.rotation: Tensor
        self.register_buffer("rotation", rotation, persistent=False)
        self.n_heads, inner = heads, feedforward_width(width)
        self.norm_attention, self.norm_feedforward = (nn.RMSNorm(width, eps=NORM_EPS) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, h: Tensor, cache: Cache | None = None) -> Tensor:
        """Map h B t D to B t D. With a cache, h holds the newest t positions, which also attend to all cached ones."""
        start = 0 if cache is None else cache.seen
        qkv = split_heads(self.qkv(self.norm_attention(h)), self.n_heads)
        # A copy: it is kept for the backward pass, and whoever puts buffers back would change it.
        turned = rotated(qkv[:2], self.rotation[:, start : start + h.shape[1]].clone())
        h = h + self.out(attended(torch.cat([turned, qkv[2:]]), cache))
        seen = self.norm_feedforward(h)
        return h + self.down(F.silu(self.gate(seen)) * self.up(seen))


def feedforward_width(width: int) -> int:
    """Two thirds of 4 D, so that three matrices have as many weights as the two of an ordinary block, rounded up to a
    multiple of 256, or of 16 for narrower models."""
    multiple = 256 if width >= 256 else 16
    return -(-(8 * width // 3) // multiple) * multiple


def rotations(places: Tensor, head_width: int, prefix: int = 1) -> Tensor:
    """Cosines and sines by which pairs are turned, 2 prefix+n head_width/2, of a prefix and n tokens at places n 2."""
    speeds = ROTARY_BASE ** (-torch.arange(0, head_width // 2, 2) / (head_width / 2))
    angles = (places[:, :, None] * speeds).flatten(1)  # those of the row, then those of the column
    angles = torch.cat([torch.zeros(prefix, head_width // 2), angles])
    return torch.stack([angles.cos(), angles.sin()])


def rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn pairs (x_j, x_{j + half}) of x ... t d by their angles. rotation: 2 t d/2."""
    cosines, sines = rotation
    first, second = x.float().chunk(2, -1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], -1).to(x.dtype)

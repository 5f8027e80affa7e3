"""Transformer with separate parameters for approximation and detail tokens, in one sequence.

Shapes: B records, L tokens, D width, S scales, N tokens of a scale.

Keys, queries, values, layer norms and feed-forwards have one set of parameters for approximation tokens (scale 0) and
one for detail tokens (scales 1..S-1); attention runs over all of them together. Source: arXiv 2412.09607
(ADTransformer). The attention's output projection is shared, since the paper does not list it among the unshared parts.
Without details (`details=False`) it is a plain pre-norm transformer.

With `scale_causal`, a token of scale s attends only to scales 0..s: the mask is block lower triangular, and attention
within a scale is bidirectional.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ADTransformer(nn.Module):
    """forward(h B L D, ends) -> B L D, including the final layer norm. ends: where each scale's tokens end, up to L."""

    def __init__(self, width: int, depth: int, heads: int, scale_causal: bool, details: bool) -> None:
        super().__init__()
        self.scale_causal = scale_causal
        self.blocks = nn.ModuleList(ADBlock(width, heads, details) for _ in range(depth))
        self.norm = PerKind(lambda: nn.LayerNorm(width), details)

    def forward(self, h: Tensor, ends: list[int]) -> Tensor:
        for block in self.blocks:
            h = block(h, ends[0], ends if self.scale_causal else ends[-1:])
        return self.norm(h, ends[0])


class ADBlock(nn.Module):
    """Pre-norm attention and a GELU feed-forward of 4 D."""

    def __init__(self, width: int, heads: int, details: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = PerKind(lambda: nn.LayerNorm(width), details)
        self.qkv = PerKind(lambda: nn.Linear(width, 3 * width), details)
        self.out = nn.Linear(width, width)
        self.norm_feedforward = PerKind(lambda: nn.LayerNorm(width), details)
        self.up = PerKind(lambda: nn.Linear(width, 4 * width), details)
        self.down = PerKind(lambda: nn.Linear(4 * width, width), details)

    def forward(self, h: Tensor, n_approximation: int, ends: list[int]) -> Tensor:
        """Return B L D. ends: tokens from one end (at first 0) to the next attend to all tokens before the latter."""
        batch, length, width = h.shape
        qkv = self.qkv(self.norm_attention(h, n_approximation), n_approximation)
        q, k, v = qkv.view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        # One dense attention per scale: equal to masking with less work, and bit for bit independent of finer scales,
        # because their keys are not in the product.
        starts = [0, *ends]
        mixed = torch.cat(
            [
                F.scaled_dot_product_attention(q[:, :, start:end], k[:, :, :end], v[:, :, :end])
                for start, end in zip(starts, ends, strict=False)
            ],
            dim=2,
        )
        h = h + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        normed = self.norm_feedforward(h, n_approximation)
        return h + self.down(F.gelu(self.up(normed, n_approximation)), n_approximation)


class PerKind(nn.Module):
    """One module for the first n tokens (approximation) and another for the rest (details), if any."""

    def __init__(self, make: Callable[[], nn.Module], details: bool) -> None:
        super().__init__()
        self.approximation = make()
        self.details = make() if details else None

    def forward(self, h: Tensor, n: int) -> Tensor:
        if n == h.shape[1]:
            return self.approximation(h)
        assert self.details is not None
        return torch.cat([self.approximation(h[:, :n]), self.details(h[:, n:])], dim=1)

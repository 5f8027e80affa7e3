"""Vector quantisation to the nearest of V learned directions.

Shapes: B records, L tokens, d code width, V codes.

Vectors and codes are compared on the unit sphere (ViT-VQGAN, arXiv 2110.04627: more codes stay in use). Gradients use
the straight-through estimator, the commitment loss |z - sg[c]|² pulls the encoder towards the codes (van den Oord et
al., 2017, arXiv 1711.00937), and every code follows the moving average of the vectors that chose it (appendix A.1
there): in short runs the codes settle sooner than by gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DECAY = 0.95  # of the moving averages, per step


@dataclass(frozen=True)
class Quantised:
    """vectors: B L d, unit length, with the straight-through gradient. codes: B L int64. commitment: the commitment
    loss, averaged over tokens."""

    vectors: Tensor
    codes: Tensor
    commitment: Tensor


class Codebook(nn.Module):
    """V unit codes of width d. In training mode, the first forward initialises them and each forward updates them."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.codes: Tensor
        self.sums: Tensor
        self.placed = False
        self.register_buffer("codes", F.normalize(torch.randn(size, width), dim=-1))
        # Moving average of the sum of the vectors that chose a code; its direction is that of their mean.
        self.register_buffer("sums", torch.zeros(size, width), persistent=False)

    def forward(self, z: Tensor) -> Quantised:
        z = F.normalize(z, dim=-1)
        if self.training and not self.placed:
            self._place(torch.arange(len(self.codes), device=z.device), z.detach().flatten(0, -2))
            self.placed = True
        codes = self.nearest(z)
        chosen = self.look_up(codes)
        if self.training:
            self._follow(codes.flatten(), z.detach().flatten(0, -2))
        commitment = (z - chosen).square().sum(-1).mean()
        return Quantised(z + (chosen - z).detach(), codes, commitment)

    def nearest(self, z: Tensor) -> Tensor:
        """Return B L int64, the codes nearest in angle to z B L d of any length."""
        return (z.detach() @ self.codes.T).argmax(-1)

    def look_up(self, codes: Tensor) -> Tensor:
        """Return the unit vectors B L d of codes B L."""
        return self.codes[codes]

    def restart_dead(self, counts: Tensor, z: Tensor) -> int:
        """Move every unused code (counts V) to a random encoder output of z (n d); returns how many."""
        dead = (counts == 0).nonzero().squeeze(1)
        self._place(dead, z.detach())
        return len(dead)

    def _place(self, which: Tensor, z: Tensor) -> None:
        # Not in place: this step's gradient still needs the old tensor.
        drawn = F.normalize(z[torch.randint(len(z), (len(which),), device=z.device)], dim=-1)
        self.codes = self.codes.index_copy(0, which, drawn)
        self.sums = self.sums.index_copy(0, which, drawn)

    def _follow(self, codes: Tensor, z: Tensor) -> None:
        chosen = F.one_hot(codes, len(self.codes)).to(z.dtype)  # n V
        self.sums = DECAY * self.sums + (1 - DECAY) * (chosen.T @ z)
        self.codes = F.normalize(self.sums, dim=-1)


def health(counts: Tensor) -> dict[str, float]:
    """Measure how well a codebook is used, from counts V of its codes: `usage`, the share of codes that occur, and
    `perplexity`, the exponential of the entropy of their frequencies (1..V)."""
    p = counts.double() / counts.sum()
    entropy = -(p[p > 0] * p[p > 0].log()).sum()
    return {"usage": float((counts > 0).double().mean()), "perplexity": float(entropy.exp())}

"""Vector quantisation to the nearest of V learned directions.

Shapes: B records, L tokens, d code width, V codes.

Vectors and codes are compared on the unit sphere (ViT-VQGAN, arXiv 2110.04627: more codes stay in use). Gradients use
the straight-through estimator, the commitment loss |z - sg[c]|² pulls the encoder towards the codes (van den Oord et
al., 2017, arXiv 1711.00937), and every code follows the moving average of the vectors that chose it (appendix A.1
there): in short runs the codes settle sooner than by gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DECAY = 0.95  # of the moving averages, per step
ROOM = 2**26
"""Vectors × codes that are compared at once: all of a batch of 256² with 8,192 codes would take gigabytes."""


@dataclass(frozen=True)
class Quantised:
    """given: B L d, what was quantised, of unit length, without gradient. vectors: B L d, unit length, with the
    straight-through gradient. codes: B L int64. commitment: the commitment loss, averaged over tokens."""

    given: Tensor
    vectors: Tensor
    codes: Tensor
    commitment: Tensor


class Codebook(nn.Module):
    """V unit codes of width d. A training begins with `place`, and calls `follow` after each step."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.codes: Tensor
        self.sums: Tensor
        self.register_buffer("codes", F.normalize(torch.randn(size, width), dim=-1))
        # Moving average of the sum of the vectors that chose a code; its direction is that of their mean.
        self.register_buffer("sums", torch.zeros(size, width), persistent=False)

    def forward(self, z: Tensor) -> Quantised:
        z = F.normalize(z, dim=-1)
        codes = self.nearest(z)
        chosen = self.look_up(codes)
        commitment = (z - chosen).square().sum(-1).mean()
        return Quantised(z.detach(), z + (chosen - z).detach(), codes, commitment)

    def nearest(self, z: Tensor) -> Tensor:
        """Return B L int64, the codes nearest in angle to z B L d of any length."""
        flat = z.detach().flatten(0, -2)
        return torch.cat([(part @ self.codes.T).argmax(-1) for part in self._parts(flat)]).view(z.shape[:-1])

    def look_up(self, codes: Tensor) -> Tensor:
        """Return the unit vectors B L d of codes B L."""
        return self.codes[codes]

    def place(self, z: Tensor) -> None:
        """Put every code on one of the vectors z B L d, drawn from torch's generator."""
        self._place(torch.arange(len(self.codes), device=z.device), F.normalize(z.detach().flatten(0, -2), dim=-1))

    def follow(self, passes: Sequence[Quantised]) -> None:
        """Move every code to the moving average of what chose it in the passes of a step."""
        # n V one-hot rows, a part at a time: a sum by index would depend on the order of a GPU's threads.
        sums = [
            F.one_hot(codes, len(self.codes)).to(z.dtype).T @ z
            for done in passes
            for codes, z in zip(self._parts(done.codes.flatten()), self._parts(done.given.flatten(0, -2)), strict=True)
        ]
        self.sums = DECAY * self.sums + (1 - DECAY) * reduce(Tensor.add, sums)
        self.codes = F.normalize(self.sums, dim=-1)

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

    def _parts(self, rows: Tensor) -> tuple[Tensor, ...]:
        return rows.split(max(1, ROOM // len(self.codes)))


def health(counts: Tensor) -> dict[str, float]:
    """Measure how well a codebook is used, from counts V of its codes: `usage`, the share of codes that occur, and
    `perplexity`, the exponential of the entropy of their frequencies (1..V)."""
    p = counts.double() / counts.sum()
    entropy = -(p[p > 0] * p[p > 0].log()).sum()
    return {"usage": float((counts > 0).double().mean()), "perplexity": float(entropy.exp())}

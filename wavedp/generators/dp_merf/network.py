"""A small convolutional generator of coarse images, conditioned on their class.

Shapes: B images, C h w pixels, K classes, Z width of the noise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODE = 32
"""Z: independent normal numbers that an image is made from."""


class ConvGenerator(nn.Module):
    """From noise B Z and labels B int64 to images B C h w in [0, 1]. width: channels of the finest layer, a multiple
    of 8; the coarsest, at a quarter of the side, has four times as many."""

    def __init__(self, shape: tuple[int, int, int], n_classes: int, width: int) -> None:
        super().__init__()
        channels, height, width_ = shape
        self.shape, self.n_classes = shape, n_classes
        self.start = (4 * width, -(-height // 4), -(-width_ // 4))
        self.first = nn.Linear(CODE + n_classes, self.start[0] * self.start[1] * self.start[2])
        self.layers = nn.ModuleList(
            nn.ModuleList([nn.GroupNorm(8, inside), nn.Conv2d(inside, outside, 3, padding=1)])
            for inside, outside in ((4 * width, 2 * width), (2 * width, width))
        )
        self.last = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        shown = F.one_hot(labels, self.n_classes).to(noise)
        x = self.first(torch.cat([noise, shown], dim=1)).view(-1, *self.start)
        for norm, convolution in self.layers:  # type: ignore[misc]
            x = convolution(F.interpolate(F.silu(norm(x)), scale_factor=2))
        _, height, width = self.shape
        top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
        return torch.sigmoid(self.last(x)[..., top : top + height, left : left + width])

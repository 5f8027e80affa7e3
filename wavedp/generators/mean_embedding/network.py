"""A small convolutional generator of coarse images, conditioned on their class.

Shapes: B images, C h w pixels, K classes, Z width of the noise.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavedp.seeds import derive_seed

CODE = 32
"""Z: independent normal numbers that an image is made from."""


class ConvGenerator(nn.Module):
    """From noise B Z and labels B int64 to images B C h w in [0, 1]. channels: of the finest layer, a multiple of 8;
    the coarsest, at a quarter of the side, has four times as many."""

    def __init__(self, shape: tuple[int, int, int], n_classes: int, channels: int) -> None:
        super().__init__()
        self.shape, self.n_classes = shape, n_classes
        self.start = (4 * channels, *(-(-side // 4) for side in shape[1:]))
        self.first = nn.Linear(CODE + n_classes, math.prod(self.start))
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.GroupNorm(8, i), nn.SiLU(), nn.Upsample(scale_factor=2), nn.Conv2d(i, o, 3, padding=1))
                for i, o in ((4 * channels, 2 * channels), (2 * channels, channels))
            )
        )
        self.last = nn.Sequential(nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, shape[0], 3, padding=1))

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        shown = F.one_hot(labels, self.n_classes).to(noise)
        x = self.first(torch.cat([noise, shown], dim=1)).view(-1, *self.start)
        x = self.layers(x)
        _, height, width = self.shape
        top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
        return torch.sigmoid(self.last(x)[..., top : top + height, left : left + width])


def drawn(model: ConvGenerator, labels: Tensor, batch_size: int, seed: int, device: str) -> Tensor:
    """One image for each of the labels B, on the CPU. All codes are drawn at once, so that batches cannot matter."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "coarse_samples"))
    codes = torch.randn(len(labels), CODE, generator=generator)
    parts = zip(codes.split(batch_size), labels.split(batch_size), strict=True)
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(code.to(device), own.to(device)).cpu() for code, own in parts])

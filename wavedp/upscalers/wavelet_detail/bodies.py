"""The networks that draw the bands H, V, D of an image twice as large: plain convolutions, and a small U-Net.

Both work on the coarse grid, a quarter of the pixels that they draw.

Shapes: B images, C channels, h w of a coarse image, Z noise planes, D width.
"""

from __future__ import annotations

from itertools import pairwise
from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavedp.wavelets import Pyramid, doubled, reconstruct

LEVELS = 3  # doublings trained for, where the images' sides allow
FREQUENCIES = 8  # of the sines and cosines that a noise level becomes


class Doubler(nn.Module):
    """A network that doubles images. channels: of the images. noise: planes that it takes beside them."""

    channels: int
    noise: int

    def enlarge(self, images: Tensor, noise: list[Tensor]) -> Tensor:
        """B C h w -> B C h*2^n w*2^n not clipped, one doubling for each of the n items of noise (see `noise_like`)."""
        for place, planes in enumerate(noise):
            images = joined(images, self(images, planes, len(noise) - 1 - place))
        return images

    def noise_like(self, images: Tensor, level: int, generator: torch.Generator | None = None) -> list[Tensor]:
        """White noise for each of `level` doublings of images B C h w, coarse to fine, each B Z h w of its own size.
        generator: on the CPU; without one, noise is drawn where the images are."""
        count, _, height, width = images.shape
        sizes = [(count, self.noise, height << place, width << place) for place in range(level)]
        if not self.noise:
            return [images.new_empty(size) for size in sizes]
        where = images.device if generator is None else "cpu"
        return [torch.randn(size, generator=generator, device=where).to(images.device) for size in sizes]

    def _beside(self, x: Tensor, noise: Tensor) -> Tensor:
        return torch.cat([x, noise], 1) if self.noise else x


class DetailNetwork(Doubler):
    """Residual convolutions on the coarse grid, with fresh noise before each: nothing sees the whole image."""

    def __init__(self, channels: int, width: int, depth: int, noise: int) -> None:
        super().__init__()
        self.channels, self.noise = channels, noise
        self.first = nn.Conv2d(channels + noise, width, 3, padding=1)
        self.doubling = nn.Embedding(LEVELS, width)
        self.before = nn.ModuleList(nn.Conv2d(width + noise, width, 3, padding=1) for _ in range(depth))
        self.after = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.last = nn.Conv2d(width, 3 * channels, 3, padding=1)
        for layer in self.after:  # each block begins as the identity
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor, noise: Tensor, doubling: int) -> Tensor:
        """B C h w in [0, 1], B Z h w -> B C 3 h w, the bands H, V, D of an image twice as large.

        doubling: how many more follow this one (beyond `LEVELS`, as the farthest that was trained).
        """
        x = self.first(self._beside(images * 2 - 1, noise))
        x = x + self.doubling.weight[min(doubling, LEVELS - 1)][:, None, None]
        for before, after in zip(self.before, self.after, strict=True):
            x = x + after(F.silu(before(self._beside(F.silu(x), noise))))
        return self.last(F.silu(x)).unflatten(1, (self.channels, 3))


class DetailUNet(Doubler):
    """Residual blocks on the coarse grid and, `halvings` times, on a grid of half the side with twice the width; the
    mean over the coarsest grid is added everywhere, so that every pixel sees the whole image.

    depth: blocks on each grid, as many multiplications as on any other; half of them come before the halving. noise:
    planes that enter on the finest grid. levels: whether it is told a noise level (detail=diffusion). A doubling, and a
    noise level, scale and shift the channels of each block (FiLM, arXiv 1709.07871).
    """

    def __init__(self, channels: int, width: int, depth: int, halvings: int, noise: int, levels: bool = False) -> None:
        super().__init__()
        self.channels, self.noise = channels, noise
        widths = [width << halving for halving in range(halvings + 1)]
        self.doubling = nn.Embedding(LEVELS, width)
        self.level = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        if not levels:
            del self.level
        self.first = nn.Conv2d(channels + noise, width, 3, padding=1)

        def blocks(place: int, count: int) -> nn.ModuleList:
            beside = 0 if place else noise
            return nn.ModuleList(Block(widths[place], beside, width) for _ in range(count))

        self.down = nn.ModuleList(blocks(place, (depth + 1) // 2) for place in range(halvings))
        self.deepest = blocks(halvings, depth)
        self.up = nn.ModuleList(blocks(place, depth // 2) for place in range(halvings))
        self.shrink = nn.ModuleList(nn.Conv2d(fine, deep, 3, stride=2, padding=1) for fine, deep in pairwise(widths))
        self.grow = nn.ModuleList(nn.Conv2d(deep, fine, 1) for fine, deep in pairwise(widths))
        self.whole = nn.Sequential(nn.Linear(widths[-1], width), nn.SiLU(), nn.Linear(width, widths[-1]))
        self.last = nn.Conv2d(width, 3 * channels, 3, padding=1)

    def forward(self, images: Tensor, noise: Tensor, doubling: int, level: Tensor | None = None) -> Tensor:
        """As DetailNetwork.forward. level: B, of the noise, if the network is told it."""
        known = self.doubling.weight[min(doubling, LEVELS - 1)][None]  # B D or 1 D
        if level is not None:
            angles = level[:, None] * (pi * 2.0 ** torch.arange(-2, FREQUENCIES - 2, device=level.device))
            known = known + self.level(torch.cat([angles.sin(), angles.cos()], 1))
        known = F.silu(known)
        x = self.first(self._beside(images * 2 - 1, noise))
        kept = []
        for place, shrink in enumerate(self.shrink):
            x = _through(self.down[place], x, known, None if place else noise)
            kept.append(x)
            x = shrink(x)  # an odd side is rounded up
        x = x + self.whole(x.mean((2, 3)))[:, :, None, None]
        x = _through(self.deepest, x, known, None if kept else noise)
        for place in reversed(range(len(kept))):
            x = F.interpolate(self.grow[place](x), scale_factor=2, mode="nearest")
            height, width = kept[place].shape[-2:]
            x = _through(self.up[place], x[..., :height, :width] + kept[place], known, None if place else noise)
        return self.last(F.silu(x)).unflatten(1, (self.channels, 3))


class Block(nn.Module):
    """A residual block that begins as the identity. noise: planes beside its input. known: width of what scales and
    shifts its channels."""

    def __init__(self, width: int, noise: int, known: int) -> None:
        super().__init__()
        self.noise = noise
        self.before = nn.Conv2d(width + noise, width, 3, padding=1)
        self.known = nn.Linear(known, 2 * width)
        self.after = nn.Conv2d(width, width, 3, padding=1)
        for layer in (self.known, self.after):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, known: Tensor, noise: Tensor | None) -> Tensor:
        """B D h w, B K or 1 K, B Z h w -> B D h w."""
        inside = F.silu(x)
        if self.noise:
            assert noise is not None
            inside = torch.cat([inside, noise], 1)
        scale, shift = self.known(known)[:, :, None, None].chunk(2, 1)
        return x + self.after(F.silu(self.before(inside) * (1 + scale) + shift))


def _through(blocks: nn.Module, x: Tensor, known: Tensor, noise: Tensor | None) -> Tensor:
    assert isinstance(blocks, nn.ModuleList)
    for block in blocks:
        x = block(x, known, noise)
    return x


def joined(images: Tensor, bands: Tensor) -> Tensor:
    """Images B C 2h 2w of block means `images` B C h w and bands B C 3 h w."""
    on_cpu = images.device.type == "cpu"  # where published weights were trained, to the bit
    return reconstruct(Pyramid(images * 2, (bands,))) if on_cpu else doubled(images, bands)


def trained_levels(size: tuple[int, int] | torch.Size) -> int:
    """The highest level that training reduces images of this size to: up to `LEVELS`, if 2^level divides both sides."""
    height, width = size
    return max((level for level in range(1, LEVELS + 1) if height % 2**level == width % 2**level == 0), default=0)

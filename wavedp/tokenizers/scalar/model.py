"""The training-free tokenizer: quantisation of wavelet coefficients at fixed levels.

Shapes: B records, C channels, h w pixels of the coarse image, L tokens.

The coarse image is decomposed again, until its side is at most `coarsest` or odd. Scale 0 is the approximation
divided by 2^j (range [0, 1]); each finer scale holds the H, V, D details divided by 2^j of their level (range
[-1/2, 1/2] for Haar). Values round to the nearest level: of `bins` evenly spaced ones on [0, 1] for scale 0 (a black
background stays black), of `detail_bins` (odd, so that 0 is one) on [-detail_range, detail_range] for details. One
token per channel and location; a detail token holds H, V and D, jointly or as three digits (`Span.digits`), and one of
scale 0 may be two digits, of steps of √bins levels and of single ones.

Levels of a detail, for μ = companding, r = detail_range, n = detail_bins and u = -1, -1 + 2 / (n - 1), ..., 1:

    x(u) = r u                              μ = 0: evenly spaced
    x(u) = r sign(u) ((1 + μ)^|u| - 1) / μ  μ > 0: the μ-law (ITU-T G.711), whose gaps grow with |x|

Error per coefficient: at most half a gap. That is 1 / (2 (bins - 1)) for scale 0, and for a detail x inside the range
r / (n - 1), or (r / μ + |x|) ((1 + μ)^(2 / (n - 1)) - 1) / 2 when μ > 0. A detail beyond the range is clipped and off
by its excess; details of images in [0, 1] never exceed 1/2. All constants are public: nothing is fitted on private
images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wavedp.tokenizers import Span, halvings
from wavedp.tokenizers.scalar import ScalarConfig, check
from wavedp.wavelets import Pyramid, decompose, reconstruct


class ScalarTokenizer:
    """See the module's docstring. Raises UserError as `check` does."""

    def __init__(self, config: ScalarConfig, shape: tuple[int, int, int]) -> None:
        check(config)
        self.config, self.shape = config, shape
        channels, height, width = shape
        self.depth = halvings(config.coarsest, shape)
        height, width = height >> self.depth, width >> self.depth
        # Grids (h, w) of the token scales: the approximation, then the details from coarse to fine.
        self.grids = [(height, width)] + [(height * 2**j, width * 2**j) for j in range(self.depth)]
        sizes = [channels * rows * columns for rows, columns in self.grids]
        self.length = sum(sizes)
        halves = (math.isqrt(config.bins),) * 2 if config.digits == 2 else ()
        self.spans: tuple[Span, ...] = (Span(0, sizes[0], 0, config.bins, halves),)
        if self.depth:
            digits = (config.detail_bins,) * 3 if config.detail_digits == "apart" else ()
            self.spans += (Span(sizes[0], self.length, 1, config.detail_bins**3, digits),)
        self.positions = torch.cat([_positions(scale, channels, *grid) for scale, grid in enumerate(self.grids)])

    def encode(self, images: Tensor) -> Tensor:
        """Codes B L int64 of coarse images B C h w in [0, 1]."""
        pyramid = decompose(images, self.depth)
        codes = [_nearest(pyramid.approximation / 2**self.depth, 0.0, 1.0, self.config.bins).flatten(1)]
        reach, bins = self.config.detail_range, self.config.detail_bins
        for j, bands in enumerate(pyramid.details):
            values = bands / 2 ** (self.depth - j)  # B C 3 h w
            if self.config.companding:
                levels = self._levels(values)
                cells = torch.bucketize(values.contiguous(), (levels[1:] + levels[:-1]) / 2)
            else:
                cells = _nearest(values, -reach, reach, bins)
            codes.append(((cells[:, :, 0] * bins + cells[:, :, 1]) * bins + cells[:, :, 2]).flatten(1))
        return torch.cat(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Coarse images B C h w in [0, 1] from codes B L: the level of every code, clipped to the range."""
        channels = self.shape[0]
        sizes = [channels * rows * columns for rows, columns in self.grids]
        parts = [
            part.view(-1, channels, *grid) for part, grid in zip(codes.split(sizes, dim=1), self.grids, strict=True)
        ]
        approximation = _level(parts[0], 0.0, 1.0, self.config.bins) * 2**self.depth
        reach, bins = self.config.detail_range, self.config.detail_bins
        details = []
        for j, part in enumerate(parts[1:]):
            cells = torch.stack([part // bins**2, part // bins % bins, part % bins], dim=2)
            values = (
                self._levels(approximation)[cells] if self.config.companding else _level(cells, -reach, reach, bins)
            )
            details.append(values * 2 ** (self.depth - j))
        return reconstruct(Pyramid(approximation, tuple(details))).clamp(0, 1)

    def _levels(self, like: Tensor) -> Tensor:
        """The levels of a detail, ascending, on the device and with the type of `like`."""
        levels = companded(self.config.detail_bins, self.config.detail_range, self.config.companding)
        return levels.to(like.device, like.dtype)


def companded(bins: int, reach: float, mu: float) -> Tensor:
    """The levels x(u) of the module's docstring for mu > 0: `bins` (odd) float64 from -reach to reach, exactly odd."""
    u = torch.linspace(0, 1, bins // 2 + 1, dtype=torch.float64)
    positive = reach * torch.expm1(u * math.log1p(mu)) / mu
    return torch.cat([-positive.flip(0)[:-1], positive])


def _positions(scale: int, channels: int, rows: int, columns: int) -> Tensor:
    """L 3: scale, row, column, channels outermost as in `flatten(1)` of B C h w."""
    row, column = torch.meshgrid(*(torch.arange(n, device="cpu") for n in (rows, columns)), indexing="ij")
    grid = torch.stack([torch.full_like(row, scale), row, column], dim=-1).view(-1, 3)
    return grid.repeat(channels, 1)


def _nearest(values: Tensor, low: float, high: float, bins: int) -> Tensor:
    """The index of the nearest of `bins` evenly spaced levels from low to high."""
    return ((values - low) * ((bins - 1) / (high - low))).round().long().clamp(0, bins - 1)


def _level(codes: Tensor, low: float, high: float, bins: int) -> Tensor:
    return low + codes * ((high - low) / (bins - 1))

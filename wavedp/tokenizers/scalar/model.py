"""The training-free tokenizer: uniform quantisation of wavelet coefficients.

Shapes: B records, C channels, h w pixels of the coarse image, L tokens.

The coarse image is decomposed again, until its side is at most `coarsest` or odd. Scale 0 is the approximation
divided by 2^j (range [0, 1]); each finer scale holds the H, V, D details divided by 2^j of their level (range
[-1/2, 1/2] for Haar). Values round to the nearest of evenly spaced levels that include both ends of their range:
`bins` levels on [0, 1] for scale 0 (a black background stays black), `detail_bins` (odd, so that 0 is a level) on
[-detail_range, detail_range] for details. One token per channel and location; a detail token holds H, V and D jointly.

Error per coefficient: at most half a step, 1 / (2 (bins - 1)) for scale 0 and detail_range / (detail_bins - 1) for a
detail inside the range; a detail beyond it is clipped and off by its excess. Range and bins are public constants:
nothing is fitted on private images.
"""

from __future__ import annotations

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
        self.spans: tuple[Span, ...] = (Span(0, sizes[0], 0, config.bins),)
        if self.depth:
            self.spans += (Span(sizes[0], self.length, 1, config.detail_bins**3),)
        self.positions = torch.cat([_positions(scale, channels, *grid) for scale, grid in enumerate(self.grids)])

    def encode(self, images: Tensor) -> Tensor:
        """Codes B L int64 of coarse images B C h w in [0, 1]."""
        pyramid = decompose(images, self.depth)
        codes = [_nearest(pyramid.approximation / 2**self.depth, 0.0, 1.0, self.config.bins).flatten(1)]
        reach, bins = self.config.detail_range, self.config.detail_bins
        for j, bands in enumerate(pyramid.details):
            cells = _nearest(bands / 2 ** (self.depth - j), -reach, reach, bins)  # B C 3 h w
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
            details.append(_level(cells, -reach, reach, bins) * 2 ** (self.depth - j))
        return reconstruct(Pyramid(approximation, tuple(details))).clamp(0, 1)


def _positions(scale: int, channels: int, rows: int, columns: int) -> Tensor:
    """L 3: scale, row, column, channels outermost as in `flatten(1)` of B C h w."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    grid = torch.stack([torch.full_like(row, scale), row, column], dim=-1).view(-1, 3)
    return grid.repeat(channels, 1)


def _nearest(values: Tensor, low: float, high: float, bins: int) -> Tensor:
    """The index of the nearest of `bins` evenly spaced levels from low to high."""
    return ((values - low) * ((bins - 1) / (high - low))).round().long().clamp(0, bins - 1)


def _level(codes: Tensor, low: float, high: float, bins: int) -> Tensor:
    return low + codes * ((high - low) / (bins - 1))

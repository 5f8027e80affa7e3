"""The baseline without wavelets: plain vector-quantised patches in raster order, as DP-LlamaGen has them.

It is the spectral network with a single scale: the coarse image itself, in as many patches as the spectral tokenizer's
coarsest scale has (N codes at every level, each for a larger patch at a finer level), trained on public coarse images
of the trial's level. LlamaGen's own tokenizer (arXiv 2406.06525) is convolutional; sharing our transformer leaves
wavelets and scales as the only difference between the two.
"""

from __future__ import annotations

from wavedp.errors import UserError
from wavedp.tokenizers import halvings
from wavedp.tokenizers.raster import RasterConfig
from wavedp.tokenizers.spectral.network import SpectralNetwork


def raster_network(config: RasterConfig, shape: tuple[int, int, int], level: int) -> SpectralNetwork:
    """The untrained network for coarse images of `level` of full images of `shape` (C, H, W).

    Raises UserError when the level does not divide into the grid.
    """
    channels, height, width = shape
    deepest = halvings(config.coarsest, shape)
    if level > deepest:
        raise UserError(
            f"level={level} has fewer pixels than the raster grid of {height}×{width} has patches: use "
            f"level<={deepest} or a lower tokenizer.coarsest."
        )
    coarse, patch = (channels, height >> level, width >> level), config.patch << (deepest - level)
    return SpectralNetwork(config, coarse, levels=0, patch=patch, books=[config.codes])

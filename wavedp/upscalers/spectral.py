"""`spectral`: the publicly pretrained generator draws the finer scales' tokens, given those of the coarse image.

It is the tokenizer's own super-resolution (arXiv 2412.09607, where it is text-guided): no second model, and no ε, since
the weights are those of public pretraining, never of the private fit. It takes its tokenizer and weights from the
trial's own stages, so it is built by `wavedp.stages` and is not in the registry of ready-made upscalers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from wavedp.wavelets import coarse


class SpectralUpscaler:
    """complete: coarse images B C h w -> full images B C H W; see wavedp.upscalers for the protocol.

    The output's block means are the coarse image itself, whatever quantisation did to it: only the deviations from them
    are taken from the drawn image, each block's shrunk where they would leave [0, 1].
    """

    name = "spectral"

    def __init__(self, complete: Callable[[Tensor], Tensor]) -> None:
        self.complete = complete

    def upscale(self, images: Tensor, factor: int) -> Tensor:
        """B C h*factor w*factor float32 in [0, 1]; factor 2^level."""
        drawn, base = self.complete(images), _spread(images, factor)
        deviation = drawn - _spread(coarse(drawn, factor.bit_length() - 1), factor)
        room = base.where(deviation < 0, 1 - base)
        share = (room / deviation.abs().clamp(min=1e-6)).clamp(max=1)
        smallest = -F.max_pool2d(-share, factor)
        return (base + _spread(smallest, factor) * deviation).clamp(0, 1)

    def bridge(self, factor: int) -> str | None:
        """It draws at its own size."""
        return None


def _spread(images: Tensor, factor: int) -> Tensor:
    """Every pixel as a block of factor × factor."""
    return images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)

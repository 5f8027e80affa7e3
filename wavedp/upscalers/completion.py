"""Upscalers that are public models of our own: they draw what the coarse image leaves open, and keep what it says.

    spectral         the publicly pretrained generator draws the finer scales' tokens, given the coarse ones: the
                     tokenizer's own super-resolution (arXiv 2412.09607, where it is text-guided), no second model
    blur_diffusion   a U-Net trained on public images deblurs from where the coarse image is (arXiv 2207.11192)

No ε: the weights are those of public training, never of the private fit. They come from the trial's own stages, so
these upscalers are built by `wavedp.stages` and are not in the registry of ready-made ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from wavedp.wavelets import coarse, spread

NAMES = ("spectral", "blur_diffusion")


class Completion:
    """complete: coarse images B C h w -> full images B C H W; see wavedp.upscalers for the protocol.

    The output's block means are the coarse image itself, whatever the model did to it: only the deviations from them
    are taken from the drawn image, each block's shrunk where they would leave [0, 1].
    """

    def __init__(self, name: str, complete: Callable[[Tensor], Tensor]) -> None:
        self.name, self.complete = name, complete

    def upscale(self, images: Tensor, factor: int) -> Tensor:
        """B C h*factor w*factor float32 in [0, 1]; factor 2^level."""
        drawn, base = self.complete(images), spread(images, factor)
        deviation = drawn - spread(coarse(drawn, factor.bit_length() - 1), factor)
        room = base.where(deviation < 0, 1 - base)
        share = (room / deviation.abs().clamp(min=1e-6)).clamp(max=1)
        smallest = -F.max_pool2d(-share, factor)
        return (base + spread(smallest, factor) * deviation).clamp(0, 1)

    def bridge(self, factor: int) -> str | None:
        """It draws at its own size."""
        return None

"""`spectral`: the publicly pretrained generator draws the finer scales' tokens, given those of the coarse image.

It is the tokenizer's own super-resolution (arXiv 2412.09607, where it is text-guided): no second model, and no ε, since
the weights are those of public pretraining, never of the private fit. It takes its tokenizer and weights from the
trial's own stages, so it is built by `wavedp.stages` and is not in the registry of ready-made upscalers.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from wavedp.wavelets import Pyramid, decompose, reconstruct


class SpectralUpscaler:
    """complete: coarse images B C h w -> full images B C H W of any coarse band; see wavedp.upscalers for the protocol.

    The output's coarse band is the coarse image itself: quantisation touches the details alone.
    """

    name = "spectral"

    def __init__(self, complete: Callable[[Tensor], Tensor]) -> None:
        self.complete = complete

    def upscale(self, images: Tensor, factor: int) -> Tensor:
        """B C h*factor w*factor float32 in [0, 1]; factor 2^level."""
        level = factor.bit_length() - 1
        pyramid = decompose(self.complete(images), level)
        return reconstruct(Pyramid(images * factor, pyramid.details)).clamp(0, 1)

    def bridge(self, factor: int) -> str | None:
        """It draws at its own size."""
        return None

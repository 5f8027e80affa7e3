"""Models trained on public images as upscalers: they draw the missing detail, and keep the block means.

This costs no ε: the weights come from public training, never from the private fit.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from wavedp.upscalers.low_pass import keep_low_pass


class Completion:
    """An upscaler (see wavedp.upscalers) around a function.

    complete: coarse images B C h w and a factor 2^level -> full images B C H W, whose block means are then replaced by
    the coarse image.
    """

    def __init__(self, name: str, complete: Callable[[Tensor, int], Tensor]) -> None:
        self.name, self.complete = name, complete

    def upscale(self, images: Tensor, factor: int) -> Tensor:
        """B C h*factor w*factor float32 in [0, 1]; factor 1 returns the images unchanged."""
        return images if factor == 1 else keep_low_pass(self.complete(images, factor), images)

    def bridge(self, factor: int) -> str | None:
        """It draws at full size, whatever the factor."""
        return None

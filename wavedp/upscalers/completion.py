"""Models trained on public images as upscalers: they draw the missing detail, and keep the block means.

This costs no ε: the weights come from public training, never from the private fit.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from wavedp.finite import require_finite
from wavedp.upscalers.low_pass import keep_low_pass


class Completion:
    """An upscaler (see wavedp.upscalers) around a function.

    complete: coarse images B C h w and a factor 2^level -> full images B C H W, whose block means are then replaced by
    the coarse image.
    """

    def __init__(self, name: str, complete: Callable[[Tensor, int], Tensor]) -> None:
        self.name, self.complete = name, complete

    def upscale(self, images: Tensor, factor: int) -> Tensor:
        """B C h*factor w*factor float32 in [0, 1]; factor 1 returns the images unchanged. Raises UserError for images
        that are not finite."""
        if factor == 1:
            return images
        drawn = self.complete(images, factor)
        require_finite({"images": drawn}, f"images of upscaler={self.name}", "lower its learning rate")
        return keep_low_pass(drawn, images)

    def bridge(self, factor: int) -> str | None:
        """It draws at full size, whatever the factor."""
        return None

"""Public models of our own as upscalers: they draw what the coarse image leaves open, and keep what it says.

No ε: the weights are those of public training, never of the private fit.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from wavedp.upscalers.low_pass import keep_low_pass


class Completion:
    """complete: coarse images B C h w and a factor 2^level -> full images B C H W, whose block means are replaced by
    the coarse image; see wavedp.upscalers for the protocol."""

    def __init__(self, name: str, complete: Callable[[Tensor, int], Tensor]) -> None:
        self.name, self.complete = name, complete

    def upscale(self, images: Tensor, factor: int) -> Tensor:
        """B C h*factor w*factor float32 in [0, 1]; factor 1 returns the images unchanged."""
        return images if factor == 1 else keep_low_pass(self.complete(images, factor), images)

    def bridge(self, factor: int) -> str | None:
        """It draws at its own size."""
        return None

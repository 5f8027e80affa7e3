"""Replace an upscaler's block means by the coarse image, which is what the privacy budget paid for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from wavedp.wavelets import spread

if TYPE_CHECKING:
    from wavedp.upscalers import Upscaler


def keep_low_pass(drawn: Tensor, images: Tensor) -> Tensor:
    """The drawn images B C H W, with their block means replaced by `images` B C h w in [0, 1], exactly up to rounding.

    Only the deviations from block means are taken from the drawn image. Where they would leave [0, 1], all deviations
    of that block shrink by one factor. H and W are the same multiple of h and w.
    """
    factor = drawn.shape[-1] // images.shape[-1]
    base = spread(images, factor)
    deviation = drawn - spread(F.avg_pool2d(drawn, factor), factor)
    room = base.where(deviation < 0, 1 - base)
    share = (room / deviation.abs().clamp(min=1e-6)).clamp(max=1)
    smallest = -F.max_pool2d(-share, factor)
    return (base + spread(smallest, factor) * deviation).clamp(0, 1)


class LowPassConsistent:
    """An upscaler whose block means are replaced by the coarse image: low_pass_consistency=true."""

    def __init__(self, upscaler: Upscaler) -> None:
        self.name, self.bridge, self._upscaler = upscaler.name, upscaler.bridge, upscaler

    def upscale(self, images: Tensor, factor: int) -> Tensor:
        """Return B C h*factor w*factor float32 in [0, 1]. Raises what the upscaler raises."""
        return keep_low_pass(self._upscaler.upscale(images, factor), images)

"""Make a network with one factor into an upscaler for every factor, for grey and colour images.

B images, C channels (1 or 3), h w pixels of the coarse image, K the network's own channels (1 or 3), s its factor
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from wavedp.errors import UserError
from wavedp.resize import resize
from wavedp.upscalers.tiling import tiled

Pass = Callable[[torch.Tensor], torch.Tensor]


class Bridged:
    """A network that enlarges by `factor`, as an upscaler (see wavedp.upscalers for the protocol).

    once: one pass, B K h w float32 in [0, 1] -> B K h*s w*s float32, on any device; its output is clipped to [0, 1].
    channels: K. batch_size: images per pass, which must not influence each other. tile: side of the tiles that a large
    image is cut into, in pixels of a pass's input (None: whole images; see wavedp.upscalers.tiling).
    """

    def __init__(
        self, name: str, factor: int, once: Pass, channels: int = 3, batch_size: int = 1, tile: int | None = None
    ) -> None:
        if factor < 2:
            raise ValueError(f"{name} enlarges by {factor}: passes through it would never end")
        self.name, self.factor, self.channels = name, factor, channels
        self._once, self._batch_size, self._tile = once, batch_size, tile

    def upscale(self, images: torch.Tensor, factor: int) -> torch.Tensor:
        """Enlarge images [B C h w] float32 in [0, 1] to [B C h*factor w*factor], on the same device.

        A network with three channels gets grey images as three equal channels, and its three outputs are averaged; one
        with a single channel gets red, green and blue as three images. `bridge` says how factors other than the
        network's own are reached; factor 1 returns the images unchanged. Raises UserError unless C is 1 or 3.
        """
        require_channels(images.shape[1])
        if factor == 1:
            return images
        height, width = images.shape[-2] * factor, images.shape[-1] * factor
        upscaled = []
        for part in images.detach().split(self._batch_size):
            once = self._pass_for(part)
            output = part.expand(-1, 3, -1, -1) if self.channels == 3 else part.reshape(-1, 1, *part.shape[2:])
            for _ in range(self._passes(factor)):
                output = tiled(once, output, self.factor, self._tile).clamp(0, 1)
            if output.shape[-2:] != (height, width):
                output = resize(output, (height, width), "bicubic").clamp(0, 1)
            if self.channels == 1:
                output = output.reshape(len(part), -1, height, width)
            elif part.shape[1] == 1:
                output = output.mean(1, keepdim=True)
            upscaled.append(output.to(images.device))
        return torch.cat(upscaled)

    def bridge(self, factor: int) -> str | None:
        """Describe how `factor` is reached, as `x4 then antialiased resize to x2`; None if by one pass or none."""
        passes = self._passes(factor)
        steps = [f"x{self.factor}"] * passes
        if self.factor**passes != factor:
            steps.append(f"antialiased resize to x{factor}")
        return " then ".join(steps) if len(steps) > 1 else None

    def _pass_for(self, images: torch.Tensor) -> Pass:
        """Return the pass for these input images."""
        return self._once

    def _passes(self, factor: int) -> int:
        """Minimum number of passes that enlarge at least `factor` times: results are only ever resized down, not up."""
        passes = 0
        while self.factor**passes < factor:
            passes += 1
        return passes


def require_channels(channels: int) -> None:
    """Raise UserError unless the number of channels is 1 or 3."""
    if channels not in (1, 3):
        raise UserError(f"upscalers take 1 or 3 channels, not {channels}: set data.channels to 1 or 3.")


def one_by_one(call: Pass) -> Pass:
    """Return a pass that gives `call` one image (B = 1) at a time, for networks that do not guarantee batches."""

    def once(images: torch.Tensor) -> torch.Tensor:
        return torch.cat([call(image) for image in images.split(1)])

    return once

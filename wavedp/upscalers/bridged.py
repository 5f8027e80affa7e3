"""Make a network of one factor an upscaler for every factor, grey and colour.

B images, C channels (1 or 3), h w pixels of the coarse image, K the network's own channels (1 or 3), s its factor
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from wavedp.errors import UserError
from wavedp.finite import require_finite
from wavedp.resize import resize
from wavedp.upscalers.tiling import tiled

Pass = Callable[[torch.Tensor], torch.Tensor]


class Bridged:
    """A network that enlarges by `factor`, as an upscaler (see wavedp.upscalers for the protocol).

    once: one pass, B K h w float32 in [0, 1] -> B K h*s w*s float32, on any device; its output is clipped to [0, 1]
    here. channels: K. batch_size: images a pass, which must not influence each other. tile: side of the tiles that a
    large image is cut into, in pixels of a pass's input (None: whole images; see wavedp.upscalers.tiling).
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

        A network of three channels sees a grey image as three equal channels, and its three outputs are averaged; a
        network of one channel sees red, green and blue as three images. `bridge` says how factors other than the
        network's own are reached. Factor 1 returns the images unchanged. Raises UserError for channels other than 1
        and 3.
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
                output = tiled(once, output, self.factor, self._tile)
                require_finite({"images": output}, f"images of upscaler={self.name}", "look for damaged weights")
                output = output.clamp(0, 1)
            if output.shape[-2:] != (height, width):
                output = resize(output, (height, width), "bicubic").clamp(0, 1)
            if self.channels == 1:
                output = output.reshape(len(part), -1, height, width)
            elif part.shape[1] == 1:
                output = output.mean(1, keepdim=True)
            upscaled.append(output.to(images.device))
        return torch.cat(upscaled)

    def bridge(self, factor: int) -> str | None:
        """The way to `factor`, such as `x4 then antialiased resize to x2`; None if one pass is enough."""
        passes = self._passes(factor)
        steps = [f"x{self.factor}"] * passes
        if self.factor**passes != factor:
            steps.append(f"antialiased resize to x{factor}")
        return " then ".join(steps) if len(steps) > 1 else None

    def _pass_for(self, images: torch.Tensor) -> Pass:
        """The pass for these images; they are the caller's, not yet enlarged by an earlier pass."""
        return self._once

    def _passes(self, factor: int) -> int:
        """The fewest passes that enlarge at least `factor` times. What is too large is then resized down."""
        passes = 0
        while self.factor**passes < factor:
            passes += 1
        return passes


def require_channels(channels: int) -> None:
    """Raises UserError for channels other than 1 and 3."""
    if channels not in (1, 3):
        raise UserError(f"upscalers take 1 or 3 channels, not {channels}: set data.channels to 1 or 3.")


def one_by_one(call: Pass) -> Pass:
    """A pass that gives `call` one image at a time, B = 1, for networks that are not known to keep images apart."""

    def once(images: torch.Tensor) -> torch.Tensor:
        return torch.cat([call(image) for image in images.split(1)])

    return once

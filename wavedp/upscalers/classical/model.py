"""Pillow's filters, and the identity, as upscalers (see wavedp.upscalers for the protocol)."""

from __future__ import annotations

import torch

from wavedp.errors import UserError
from wavedp.resize import Filter, resize


class Classical:
    """One of Pillow's interpolation filters, clipped to [0, 1]; any factor is native."""

    def __init__(self, filter: Filter):
        self.name: str = filter
        self._filter = filter

    def upscale(self, images: torch.Tensor, factor: int) -> torch.Tensor:
        """Images [B C h w] float32 in [0, 1] -> [B C h*factor w*factor]; factor 1 returns them unchanged."""
        height, width = images.shape[-2:]
        return resize(images, (height * factor, width * factor), self._filter).clamp(0, 1)

    def bridge(self, factor: int) -> None:
        return None


class IdentityModel:
    """No second stage: the coarse images are the whole images (level 0), so only factor 1 is legal."""

    name = "identity"

    def upscale(self, images: torch.Tensor, factor: int) -> torch.Tensor:
        """The images themselves. Raises UserError for factors other than 1."""
        if factor != 1:
            raise UserError(f"upscaler=identity cannot upscale by {factor}: use level=0 or another upscaler.")
        return images

    def bridge(self, factor: int) -> None:
        return None

"""Resizing as two matrix products, with Pillow's filters and antialiasing.

    B images, C channels, h w input pixels, H W output pixels

Resizing is linear and separable: `output = R_H @ image @ R_W.T`. R is obtained by resizing the identity matrix with
Pillow, so that a whole batch is resized on any device exactly as Pillow resizes each channel of each image in its float
mode (which clean-fid uses). When an image shrinks, the filter widens accordingly, which prevents aliasing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from PIL import Image

Filter = Literal["nearest", "bilinear", "bicubic", "lanczos"]


def resize(images: torch.Tensor, size: tuple[int, int], filter: Filter) -> torch.Tensor:
    """Resize float images of shape [B C h w] to [B C H W] with `size = (H, W)`.

    Bicubic and Lanczos overshoot at edges: the caller must clip to the range of its images.
    """
    rows = operator(images.shape[-2], size[0], filter).to(images.device, images.dtype, non_blocking=True)  # H h
    columns = operator(images.shape[-1], size[1], filter).to(images.device, images.dtype, non_blocking=True)  # W w
    return rows @ images @ columns.T  # B C H W


@lru_cache(maxsize=64)
def operator(size_in: int, size_out: int, filter: Filter) -> torch.Tensor:
    """Return the matrix [size_out size_in] float32 that resizes a line of `size_in` pixels; its rows sum to one."""
    identity = Image.fromarray(np.eye(size_in, dtype=np.float32))
    # Pillow's size is (width, height): each row of the identity, an impulse, gives one column of the operator.
    responses = identity.resize((size_out, size_in), Image.Resampling[filter.upper()])
    return torch.from_numpy(np.array(responses).T.copy())

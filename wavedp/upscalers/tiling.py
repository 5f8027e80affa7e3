"""Upscaling of large images in tiles, so that memory depends on the size of the tile and not of the image.

Each tile is enlarged together with up to `OVERLAP` pixels of its neighbours on every side, which are then cut off. At
the border of the image the network pads as it would without tiles. Tiles change nothing if the network looks no farther
than the overlap: animevideov3 has 18 convolutions of 3×3, which is 18 pixels, and a resize. The RRDB networks can look
some 350 pixels far, more than most coarse images have; leaving out what lies beyond 32 moves the worst pixel of a scene
by less than 2e-2 of full scale (tests/wavedp/test_upscaler_engines.py). Since that is more than rounding,
`upscaler.tile` enters the key.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

OVERLAP = 32  # pixels of a pass's input


def tiled(
    once: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, factor: int, tile: int | None
) -> torch.Tensor:
    """Return `once(images)`, B C h w -> B C h*factor w*factor, in tiles of tile × tile input pixels (None: in one)."""
    height, width = images.shape[-2:]
    if tile is None or max(height, width) <= tile:
        return once(images)
    rows = []
    for top in range(0, height, tile):
        row = [_one(once, images, factor, top, left, tile) for left in range(0, width, tile)]
        rows.append(torch.cat(row, dim=-1))
    return torch.cat(rows, dim=-2)


def _one(
    once: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, factor: int, top: int, left: int, tile: int
) -> torch.Tensor:
    """Return the enlarged tile whose first pixel is (top, left)."""
    shown, kept = [], []
    for start, end in zip((top, left), images.shape[-2:], strict=True):
        first, stop = max(start - OVERLAP, 0), min(start + tile, end)
        shown.append(slice(first, min(stop + OVERLAP, end)))
        kept.append(slice((start - first) * factor, (stop - first) * factor))
    return once(images[..., shown[0], shown[1]])[..., kept[0], kept[1]]

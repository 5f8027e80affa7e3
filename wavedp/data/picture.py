"""Read one image file as a grey or RGB picture of 8 bits. Every reader of images in wavedp uses this.

case                         result
turned by EXIF               upright
partly transparent           laid on white
16-bit grey                  scaled to 8 bits, 65535 -> 255 (Pillow would clip)
palette, CMYK, one bit       converted by Pillow
animated, or several pages   ValueError: it is unclear which picture is wanted
a camera's MPO               its first picture; the others are previews or the other eye's view
floating-point pixels        ValueError: they have no fixed range
damaged, or not an image     OSError, SyntaxError, ValueError or DecompressionBombError, as Pillow raises them
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def load(file: Path | IO[bytes], channels: int | None = None, at_least: int | None = None) -> Image.Image:
    """The picture in `file`, of mode L (channels=1), RGB (3), or the file's own of these two (None). See the table.

    at_least: a JPEG may be decoded at a half, a quarter or an eighth if both sides keep this many pixels.
    """
    from PIL import Image, ImageOps

    with Image.open(file) as opened:
        if getattr(opened, "n_frames", 1) > 1 and opened.format != "MPO":
            raise ValueError(f"it has {opened.n_frames} frames, and one picture is wanted")  # type: ignore[attr-defined]
        if at_least:
            opened.draft(None, (at_least, at_least))
        image: Any = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):  # 16-bit grey
            image = Image.fromarray(np.rint(np.asarray(image) / 257.0).astype(np.uint8))
        elif image.mode == "F":
            raise ValueError("floating-point pixels have no fixed range")
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        grey = image.mode in ("L", "1") if channels is None else channels == 1
        return image.convert("L" if grey else "RGB")


def pixels(image: Image.Image) -> np.ndarray:
    """uint8 [C H W] of a picture of mode L or RGB."""
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)

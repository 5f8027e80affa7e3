"""Read one image file as a grey or RGB picture of 8 bits. Every reader of images in wavedp uses this.

case                           result
turned by EXIF                 upright
partly transparent             laid on white
16-bit grey                    scaled to 8 bits, 65535 -> 255 (Pillow would clip)
16-bit colour                  the higher byte, as Pillow reads it
grey of other depths in a PGM  scaled by the largest value that its header names
palette, one bit               converted by Pillow
CMYK                           converted by Pillow, without its colour profile
animated, or several pages     refused: it is unclear which picture is wanted
a camera's MPO                 its first picture; the others are previews or the other eye's view
32-bit, signed or floating     refused: such pixels have no fixed range
too many pixels                refused by its header, before it is decoded
damaged, or not an image       refused

What is refused is a UserError, one sentence that names the file. What loses colour or depth is said once a process, of
the first such file.
"""

from __future__ import annotations

import logging
import warnings
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from wavedp.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

SUFFIXES = frozenset(
    {
        ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff",
        ".webp",
    }
)  # fmt: skip

OTHER_SUFFIXES = frozenset({".avif", ".exr", ".heic", ".heif", ".jp2", ".jxl", ".psd", ".svg", ".svgz", ".tga"})
"""Of pictures that are not read."""

MAX_PIXELS = 2**26
"""Of one picture, 8,192 × 8,192: decoded it takes 192 MiB, and a file of a few kilobytes can claim any number."""

_said: set[str] = set()

SAMPLE_FORMAT, SIGNED = 339, 2  # a TIFF's tag, and its value for signed integers


def load(
    file: Path | IO[bytes],
    channels: int | None = None,
    at_least: int | None = None,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """The picture in `file`, of mode L (channels=1), RGB (3), or the file's own of these two (None). See the table.

    at_least: a JPEG may be decoded at a half, a quarter or an eighth if both sides keep this many pixels; `max_pixels`
    counts what is decoded. name: what to call the file in a sentence (None: its path). Raises UserError.
    """
    called = name or str(file)
    try:
        return _load(file, channels, at_least, called, max_pixels)
    except UserError:
        raise
    except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{called} cannot be read ({reason}): remove or replace it.") from error


def _load(
    file: Path | IO[bytes], channels: int | None, at_least: int | None, called: str, max_pixels: int
) -> Image.Image:
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Pillow's own limit, at two sizes
            opened = Image.open(file)
    except Image.DecompressionBombError as error:
        raise too_large(called, "more", max_pixels) from error
    with opened:
        if getattr(opened, "n_frames", 1) > 1 and opened.format != "MPO":
            raise ValueError(f"it has {opened.n_frames} frames, and one picture is wanted")  # type: ignore[attr-defined]
        if at_least:
            opened.draft(None, (at_least, at_least))
        if opened.width * opened.height > max_pixels:
            raise too_large(called, f"{opened.width:,} × {opened.height:,}", max_pixels)
        lost = _loss(opened)
        image: Any = ImageOps.exif_transpose(opened)
        if image.mode == "F":
            raise ValueError("floating-point pixels have no fixed range")
        if opened.format == "TIFF" and SIGNED in opened.tag_v2.get(SAMPLE_FORMAT, ()):  # type: ignore[attr-defined]
            raise ValueError("signed pixels have no fixed range")
        if image.mode == "I" and opened.format != "PPM":
            raise ValueError("32-bit pixels have no fixed range")
        if image.mode.startswith("I"):
            image = _from_16_bits(image)
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        _say(called, *lost)
        grey = image.mode in ("L", "1") if channels is None else channels == 1
        return image.convert("L" if grey else "RGB")


def _loss(opened: Any) -> tuple[str, str]:
    """What of the file's colour or depth is lost, and how; two empty words if nothing is."""
    if opened.mode == "CMYK":
        return "is CMYK", "converted to RGB without a colour profile"
    how: Any = opened.tile[0].args if opened.tile else ""  # such as "RGB;16B" of a PNG, a PPM's mode and maximum
    deep = "16" in how if isinstance(how, str) else opened.format == "PPM" and how[-1] > 255
    return ("has more than 8 bits a channel", "reduced to 8") if deep or opened.mode.startswith("I") else ("", "")


def _say(called: str, what: str, then: str) -> None:
    if what and what not in _said:
        _said.add(what)
        logging.getLogger(__name__).warning("%s %s and is %s, as are others like it.", called, what, then)


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Grey 0..65535 as 0..255; the one value that a PNG may call transparent is white."""
    from PIL import Image

    deep = np.asarray(image)
    grey = np.rint(deep / 257.0).astype(np.uint8)
    if "transparency" in image.info:
        grey[deep == image.info["transparency"]] = 255
    return Image.fromarray(grey)


def too_large(called: str, size: str, max_pixels: int) -> UserError:
    """The refusal of a picture of this size."""
    return UserError(
        f"{called} has {size} pixels, and {max_pixels:,} in all are read at most: make it smaller, or remove it."
    )


def square(image: Image.Image, size: int) -> Image.Image:
    """The centre of a picture along its long edge, resized to size × size by Lanczos: the protocol of GigaGAN's COCO
    evaluation (mingukkang/GigaGAN; FoundationVision/LlamaGen, evaluations/t2i/evaluation.py). An odd margin is rounded
    as torchvision's `center_crop` does."""
    from PIL import Image

    side = min(image.size)
    left, top = (round((edge - side) / 2) for edge in image.size)
    cropped = image.crop((left, top, left + side, top + side))
    return cropped.resize((size, size), Image.Resampling.LANCZOS)


def pixels(image: Image.Image) -> np.ndarray:
    """uint8 [C H W] of a picture of mode L or RGB."""
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)

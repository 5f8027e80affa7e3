"""Open Clip Art (public domain): drawings for *public* pretraining, rendered as bright things on black.

The files come from the Debian package openclipart-png: <home>/openclipart/<category>/.../<name>.png. Symbolic links,
which repeat a drawing in a second category, are left out, so one drawing is one record.

Each drawing is cropped to its visible part, fitted into the square with its aspect ratio kept, and laid on black: the
grey sets that it prepares for (Fashion-MNIST, MNIST) show bright things on black. Three in five drawings are dark (line
art, silhouettes) and would vanish there, so the luma of a drawing whose visible part is darker than mid-grey is
inverted, and its hue is kept. (Laying everything on white and inverting would lose the bright drawings instead.) At
28x28 grey the images have mean 73.1 and standard deviation 89.5; Fashion-MNIST's train split has 72.9 and 90.0. Six
drawings are fully transparent in the publisher's files and stay black.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wavedp.config import DataConfig
from wavedp.data.dataset import Records, Split, download_command, position, square_shape
from wavedp.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

LICENCE = "public domain (openclipart.org)"
TEST_SHARE = 0.05
DRAWINGS = 6900
"""Files of the package, without its symbolic links."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as PIL's mode L
# Fifteen files have sides of 5,000 to 29,700 pixels. Keeping only every k-th pixel of them is invisible after the
# antialiased step down to any size used here, and saves gigabytes. `thin` does it once on disk, `render` every time.
THIN_TO = 2048

shape = square_shape


def classes(config: DataConfig) -> tuple[str, ...]:
    """The top-level categories, sorted."""
    return tuple(sorted({name.split("/")[0] for name in _names(config)}))


def has_captions(config: DataConfig) -> bool:
    """True: captions are made from file names."""
    return True


def count(config: DataConfig, split: Split) -> int:
    """Raises UserError for `val`: the set has train and test."""
    return len(_split_names(config, split))


def files(config: DataConfig) -> list[Path]:
    """Every drawing. Raises UserError if there are none, or more than the package has."""
    root = Path(config.home, "openclipart")
    return [root / name for name in _names(config)]


def record_files(config: DataConfig, split: Split) -> list[Path]:
    """The drawing of each record."""
    return [Path(config.home, "openclipart", name) for name in _split_names(config, split)]


def read(config: DataConfig, split: Split, n: int) -> Records:
    """Render the first n drawings in the order of their names' hashes; the label is the top-level category."""
    root = Path(config.home, "openclipart")
    names = _split_names(config, split)[:n]
    label = {category: i for i, category in enumerate(classes(config))}
    images = np.stack([_render_file(root / name, config.size, config.channels) for name in names])
    labels = np.array([label[name.split("/")[0]] for name in names], np.int64)
    return images, labels, tuple(caption(name) for name in names)


def caption(name: str) -> str:
    """`animals/mammals/dog_02_drawn_with_strai_01.png` -> `mammals: dog 02 drawn with strai` (folder: words).

    The publisher cuts names at 24 characters and appends the artist, so captions are rough.
    """
    *_, folder, file = name.split("/")
    words = re.sub(r"_\d+$", "", file.removesuffix(".png"))
    return " ".join(re.sub(r"[_\s]+", " ", f"{folder}: {words}").split())


def render(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Draw one picture of any mode as the module describes; returns uint8 [channels, size, size]."""
    from PIL import Image

    image.thumbnail((THIN_TO, THIN_TO), Image.Resampling.NEAREST)
    # Premultiplied by alpha: already the picture on black, and averages of it are right at soft edges.
    image = image.convert("RGBA").convert("RGBa")
    canvas = np.zeros((size, size, 4), np.float32)
    visible = image.getbbox()
    if visible:
        image = image.crop(visible)
        scale = size / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        fitted = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
        y, x = (size - height) // 2, (size - width) // 2
        canvas[y : y + height, x : x + width] = np.asarray(fitted)
    rgb, alpha = canvas[..., :3], canvas[..., 3:]
    luma = luma_of(rgb)
    if luma.sum() < alpha.sum() / 2:
        rgb, luma = rgb + (alpha - 2 * luma), alpha - luma  # one number added to R, G and B moves luma, not hue
    drawn = luma if channels == 1 else rgb
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8).transpose(2, 0, 1)


def luma_of(rgb: np.ndarray) -> np.ndarray:
    """H W 3 float32 -> H W 1 float32, the same bits on every machine.

    A matrix product would differ between machines, because BLAS picks its kernel by the CPU. For a sum near a rounding
    tie, that changed a pixel, hence the fingerprint of the set and every stage key that depends on it. The order is the
    one of the published runs: green, red, blue, each added with one rounding (exact products in double precision
    reproduce a fused multiply-add).
    """
    red, green, blue = (rgb[..., i : i + 1].astype(np.float64) for i in range(3))
    total = (green * LUMA[1]).astype(np.float32)
    for channel, weight in ((red, LUMA[0]), (blue, LUMA[2])):
        total = (channel * np.float64(weight) + total).astype(np.float32)
    return total


def thin(root: Path) -> None:
    """Shrink the oversized pictures below `root` on disk, as `render` would: same images, less time."""
    from PIL import Image

    for path in root.rglob("*.png"):
        if not path.is_symlink():
            with _open(path) as image:
                if max(image.size) > THIN_TO:
                    image.thumbnail((THIN_TO, THIN_TO), Image.Resampling.NEAREST)
                    image.save(path)


def _render_file(path: Path, size: int, channels: int) -> np.ndarray:
    try:
        with _open(path) as image:
            return render(image, size, channels)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove or replace it.") from error


def _open(path: Path) -> Image.Image:
    """Open a PNG without Image.open, whose guard against decompression bombs refuses this set's largest pictures."""
    from PIL.PngImagePlugin import PngImageFile

    return PngImageFile(path)


def _split_names(config: DataConfig, split: Split) -> list[str]:
    if split == "val":
        raise UserError("openclipart has no val split: use train or test.")
    return [name for name in _names(config) if (position(name) < TEST_SHARE) == (split == "test")]


def _names(config: DataConfig) -> list[str]:
    """`category/.../file.png` of every drawing, in the order of `position`."""
    root = Path(config.home, "openclipart")
    found = []
    for folder, _, names in os.walk(root):
        inside = Path(folder).relative_to(root).as_posix()
        if inside != ".":
            found += [
                f"{inside}/{name}"
                for name in names
                if name.endswith(".png") and not os.path.islink(os.path.join(folder, name))
            ]
    if not found:
        raise UserError(f"openclipart is not in {config.home}: {download_command(config)}.")
    if len(found) > DRAWINGS:
        raise UserError(
            f"{root} holds {len(found)} drawings where the package has {DRAWINGS}, as when a copy (cp -rl, cp -L) made "
            f"files of its symbolic links: remove the folder and {download_command(config)}."
        )
    return sorted(found, key=position)

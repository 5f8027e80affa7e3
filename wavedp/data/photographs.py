"""Photographs of nature (GPL-2+, see the package's copyright file): crops for public super-resolution and its tests.

The files are the twelve JPEGs of the Debian package mate-backgrounds: <home>/photographs/<name>.jpg. Each is cut, from
the top left, into adjacent squares of twice the size, and 2×2 block means reduce them to the size, so that a model
learns neither JPEG's blocks nor the camera's interpolation. Three photographs make up the test split: no scene is in
both splits.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np

from wavedp.config import DataConfig
from wavedp.data.dataset import Records, Split, download_command, position, square_shape
from wavedp.errors import UserError

LICENCE = "GPL-2+ (the Debian package mate-backgrounds)"
TEST = ("Dune", "LadyBird", "RainDrops")
shape = square_shape


def classes(config: DataConfig) -> tuple[str, ...]:
    """Names of the photographs."""
    return tuple(path.stem for path in files(config))


def has_captions(config: DataConfig) -> bool:
    """True: captions are made from file names."""
    return True


def count(config: DataConfig, split: Split) -> int:
    """Crops of this size. Raises UserError for `val` (the set has train and test) and if no crop fits."""
    return len(_crops(config, split))


def files(config: DataConfig) -> list[Path]:
    """Every photograph, sorted. Raises UserError when there is none."""
    found = sorted(Path(config.home, "photographs").glob("*.jpg"))
    if not found:
        raise UserError(f"photographs is not in {config.home}: {download_command(config)}.")
    return found


def record_files(config: DataConfig, split: Split) -> list[Path]:
    """The photograph of each crop."""
    return [path for path, _, _ in _crops(config, split)]


def read(config: DataConfig, split: Split, n: int) -> Records:
    """The first n crops in the order of their names' hashes; the label and the caption are the photograph's."""
    from PIL import Image

    chosen, names = _crops(config, split)[:n], classes(config)
    images = np.zeros((n, config.channels, config.size, config.size), np.uint8)
    for path in {path for path, _, _ in chosen}:
        try:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("L" if config.channels == 1 else "RGB"), np.float32)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error}): remove or replace it.") from error
        pixels = pixels.reshape(*pixels.shape[:2], config.channels)
        for place, (_, top, left) in enumerate(chosen):
            if chosen[place][0] == path:
                images[place] = _reduced(pixels[top : top + 2 * config.size, left : left + 2 * config.size])
    labels = np.array([names.index(path.stem) for path, _, _ in chosen], np.int64)
    return images, labels, tuple(_caption(path) for path, _, _ in chosen)


def _crops(config: DataConfig, split: Split) -> list[tuple[Path, int, int]]:
    """Photograph, top and left of each crop, shuffled by name."""
    if split == "val":
        raise UserError("photographs has no val split: use train or test.")
    side, found = 2 * config.size, []
    for path in files(config):
        if (path.stem in TEST) == (split == "test"):
            width, height = _size(path)
            found += [
                (path, top, left)
                for top in range(0, height - side + 1, side)
                for left in range(0, width - side + 1, side)
            ]
    if not found:
        raise UserError(f"data.size={config.size} is more than half the side of every photograph: use a smaller size.")
    return sorted(found, key=lambda crop: position(f"{crop[0].stem} {crop[1]} {crop[2]}"))


@cache
def _size(path: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as picture:
        return picture.size


def _reduced(pixels: np.ndarray) -> np.ndarray:
    """2H 2W C float -> uint8 C H W, means of 2×2 blocks."""
    height, width, channels = pixels.shape
    means = pixels.reshape(height // 2, 2, width // 2, 2, channels).mean((1, 3))
    return np.rint(means).astype(np.uint8).transpose(2, 0, 1)


def _caption(path: Path) -> str:
    """`FreshFlower.jpg` -> `fresh flower`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", path.stem).lower()

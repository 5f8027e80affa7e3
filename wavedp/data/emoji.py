"""Emoji (npm package emoji-datasource-google): 1,900 shaded pictures in colour, for *public* pretraining.

The files are <home>/emoji/emoji.json and <home>/emoji/64/<code>.png, Google's Noto Emoji (Apache-2.0, by the package's
README; names and categories are MIT). People and hands come in five skin tones beside the yellow one; those repeat a
picture and are left out, and so are the swatches of skin (`Component`). The label is the category, the caption is made
from the finer category and the name. A twentieth of the pictures is the test split.

They are cropped, fitted and laid on black as Open Clip Art is (wavedp.data.openclipart), in their own colours.
data.variants=3 draws every picture twice more, with other hues, light and places (wavedp.data.appearance): first all
pictures as they are, then all again.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wavedp.config import DataConfig
from wavedp.data import appearance, cache
from wavedp.data.dataset import Records, Split, download_command, position, square_shape
from wavedp.errors import UserError

LICENCE = "Apache-2.0 (README of the npm package emoji-datasource-google)"
TEST_SHARE = 0.05
SWATCHES = "Component"

shape = square_shape


class Emoji(NamedTuple):
    """A picture: its file below 64/, category, finer category and name."""

    file: str
    category: str
    kind: str
    name: str


def classes(config: DataConfig) -> tuple[str, ...]:
    """The categories, sorted."""
    return tuple(sorted({each.category for each in _listed(config)}))


def has_captions(config: DataConfig) -> bool:
    """True: captions are made from names."""
    return True


def count(config: DataConfig, split: Split) -> int:
    """Pictures times variants. Raises UserError for `val`: the set has train and test."""
    return len(_of_split(config, split)) * config.variants


def files(config: DataConfig) -> list[Path]:
    """emoji.json and every picture. Raises UserError if there is no emoji.json."""
    root = _root(config)
    return [root / "emoji.json", *(root / "64" / each.file for each in _listed(config))]


def record_files(config: DataConfig, split: Split) -> list[Path]:
    """The picture of each record."""
    root = _root(config)
    return [root / "64" / each.file for each in _of_split(config, split)] * config.variants


def licences(config: DataConfig, split: Split) -> list[str]:
    """Apache-2.0 for each record."""
    return ["Apache-2.0"] * count(config, split)


def read(config: DataConfig, split: Split, n: int) -> Records:
    """Draw the first n records; captions such as `animal mammal: dog face`."""
    from PIL import Image

    emoji, root = _of_split(config, split), _root(config)
    label = {category: i for i, category in enumerate(classes(config))}
    images = np.empty((n, config.channels, config.size, config.size), np.uint8)
    for place, each in enumerate(emoji[:n]):
        path = root / "64" / each.file
        try:
            with Image.open(path) as file:
                image = file.convert("RGBA")
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({error}): remove {root} and {download_command(config)}."
            ) from error
        for variant, record in enumerate(range(place, n, len(emoji))):
            images[record] = appearance.draw(
                image, f"emoji:{each.file}", variant, config.size, config.channels, coloured=True
            )
    repeated = [emoji[i % len(emoji)] for i in range(n)]
    labels = np.array([label[each.category] for each in repeated], np.int64)
    return images, labels, tuple(caption(each) for each in repeated)


def caption(each: Emoji) -> str:
    """`animal mammal: dog face` (finer category: name)."""
    return f"{each.kind}: {each.name}".replace("-", " ").replace("_", " ").lower()


def missing(root: Path) -> str | None:
    """Why a folder is not the unpacked package; None if emoji.json and every picture that it lists are there."""
    try:
        lacking = [each.file for each in list_emoji(root / "emoji.json") if not (root / "64" / each.file).is_file()]
    except UserError as error:
        return str(error)
    return f"64/{lacking[0]} is missing" if lacking else None


def _root(config: DataConfig) -> Path:
    return Path(config.home, "emoji")


def _of_split(config: DataConfig, split: Split) -> list[Emoji]:
    if split == "val":
        raise UserError("emoji has no val split: use train or test.")
    return [each for each in _listed(config) if (position(each.file) < TEST_SHARE) == (split == "test")]


def _listed(config: DataConfig) -> tuple[Emoji, ...]:
    """Every picture, in the order of `position`. Raises UserError if emoji.json is missing or cannot be read."""
    file = _root(config) / "emoji.json"
    if not file.is_file():
        raise UserError(f"emoji is not in {config.home} (there is no {file}): {download_command(config)}.")
    return list_emoji(file, cache.stamp(file))


@lru_cache(maxsize=4)
def list_emoji(file: Path, stamp: str = "") -> tuple[Emoji, ...]:
    """The pictures of an emoji.json, in the order of `position`. stamp: what changes when the file does."""
    try:
        said = json.loads(file.read_bytes())
        found = [
            Emoji(each["image"], each["category"], each["subcategory"], each["name"] or each["short_name"])
            for each in said
            if each["has_img_google"] and each["category"] != SWATCHES
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read ({error!r}): remove it and fetch the package again.") from error
    return tuple(sorted(found, key=lambda each: position(each.file)))

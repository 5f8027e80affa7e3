"""Icons (npm package @iconify/json): 133,000 named vector pictures under permissive licences, for *public* pretraining.

The files are <home>/icons/collections.json and <home>/icons/json/<set>.json.gz (wavedp.data.iconify). Every set has a
licence; sets whose licence is none of the permissive ones (MIT, Apache-2.0, CC0-1.0, ISC, …) are left out unless
`data.licences` names theirs: `permissive`, `all`, or SPDX ids joined by `+`. `licences(config, split)` gives the one of
each record.

One record is one picture. Sets hold a picture in up to thirty styles, weights and grids (home, home-outline,
home-bold-24); of those one is taken, the first in the order of the names' hashes: near-equal records would crowd out
other things, and the styles stay mixed as their sets have them. A drawing that another set repeats is taken once, and
pictures that move, or need fonts, are left out. The label is the kind of set (`category`), the caption is made from the
name. Records are in the order of the hashes of their names, so `limit` takes a fair sample of all sets. A twentieth of
the names is the test split, whatever the set or style: `home` is in one split.

Line icons are flat, and the sets that they prepare for show bright, shaded things on black, so each is drawn with an
appearance of its own (wavedp.data.appearance). data.variants=3 draws every picture three times: first all pictures as
they are with one variant, then all again with another appearance each.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wavedp import extras
from wavedp.config import DataConfig
from wavedp.data import appearance, cache, iconify
from wavedp.data.dataset import Records, Split, download_command, position, square_shape
from wavedp.data.iconify import PERMISSIVE, Collection, Picture
from wavedp.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

BY_SET = "by set (collections.json of the npm package @iconify/json)"
TEST_SHARE = 0.05
KINDS = {"Emoji": "emoji", "Logos": "logo", "Flags / Maps": "map", "Programming": "programming"}
"""Categories of sets that say something about a picture; the others are of grids and makers."""

shape = square_shape


def classes(config: DataConfig) -> tuple[str, ...]:
    """The categories of the chosen sets, sorted."""
    return tuple(sorted({about.category for about in _chosen(config).values()}))


def has_captions(config: DataConfig) -> bool:
    """True: captions are made from names."""
    return True


def count(config: DataConfig, split: Split) -> int:
    """Pictures times variants. Raises UserError for `val`: the set has train and test."""
    return len(_split_pictures(config, split)) * config.variants


def files(config: DataConfig) -> list[Path]:
    """collections.json and the file of every chosen set. Raises UserError if one is missing."""
    root = _root(config)
    return [root / "collections.json", *(iconify.set_file(root, name) for name in _chosen(config))]


def licence(config: DataConfig) -> str:
    """What data cards say: the licences that were asked for. Opens no file."""
    wanted = config.licences.replace("permissive", "MIT, Apache-2.0, CC0-1.0, ISC, BSD-3-Clause, Unlicense")
    return f"{wanted.replace('+', ', ')} {BY_SET}"


def licences(config: DataConfig, split: Split) -> list[str]:
    """The licence of each record, in order: the SPDX id that collections.json gives its set."""
    chosen = _chosen(config)
    return [chosen[picture.collection].licence for picture in _split_pictures(config, split)] * config.variants


def captions(config: DataConfig, split: Split) -> list[str]:
    """Every record's caption; no picture is drawn."""
    chosen = _chosen(config)
    return [caption(each, chosen[each.collection]) for each in _split_pictures(config, split)] * config.variants


def read(config: DataConfig, split: Split, n: int) -> Records:
    """Draw the first n records; the label is the set's category, the caption such as `icon: t shirt`.

    A picture that cannot be drawn is refused: its package is damaged. One in which nothing is visible is black, and how
    many there are is logged.
    """
    return pick(config, split, range(n))


def pick(config: DataConfig, split: Split, wanted: Sequence[int]) -> Records:
    """As `read`, the records at these places."""
    pictures, chosen, root = _split_pictures(config, split), _chosen(config), _root(config)
    label = {category: i for i, category in enumerate(classes(config))}
    images = np.empty((len(wanted), config.channels, config.size, config.size), np.uint8)
    repeated = [pictures[place % len(pictures)] for place in wanted]
    rows: dict[str, dict[str, list[int]]] = {}  # by set and name: a picture is rastered once for all of its variants
    for row, picture in enumerate(repeated):
        rows.setdefault(picture.collection, {}).setdefault(picture.name, []).append(row)
    empty = 0
    for collection in sorted(rows):  # one set at a time: the largest is 100 MB, all of them 500
        content = iconify.read_set(root, collection)
        for name, records in rows[collection].items():
            image = _raster(root, content, collection, name, appearance.side(config.size))
            empty += image.getbbox() is None
            for row in records:
                variant = wanted[row] // len(pictures)
                images[row] = appearance.draw(image, f"{collection}:{name}", variant, config.size, config.channels)
    if empty:
        logging.getLogger(__name__).warning("%d of %d icons draw nothing and stay black.", empty, len(set(repeated)))
    labels = np.array([label[chosen[picture.collection].category] for picture in repeated], np.int64)
    return images, labels, tuple(caption(picture, chosen[picture.collection]) for picture in repeated)


def caption(picture: Picture, collection: Collection) -> str:
    """`t-shirt-outline-24` -> `icon: t shirt` (kind of set: words of the name)."""
    return f"{KINDS.get(collection.category, 'icon')}: {iconify.words(picture.name)}"


def _raster(root: Path, content: dict, collection: str, name: str, side: int) -> Image.Image:
    """A picture as RGBA whose longer side is `side`, turned and mirrored as its set says."""
    extras.require("data=icons", "resvg_py")
    import resvg_py
    from PIL import Image

    drawing = iconify.drawing(content, name)
    width, height = drawing.proportions
    wide, high = (side, None) if width >= height else (None, side)
    try:
        png = resvg_py.svg_to_bytes(svg_string=drawing.svg, width=wide, height=high, skip_system_fonts=True)
    except (ValueError, RuntimeError) as error:
        file = iconify.set_file(root, collection)
        raise UserError(f"The icon {name} of {file} cannot be drawn ({error}): fetch the package again.") from error
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    for wanted, turn in (
        (drawing.flip_x, Image.Transpose.FLIP_LEFT_RIGHT),
        (drawing.flip_y, Image.Transpose.FLIP_TOP_BOTTOM),
        (drawing.quarters == 1, Image.Transpose.ROTATE_270),  # PIL turns against the clock
        (drawing.quarters == 2, Image.Transpose.ROTATE_180),
        (drawing.quarters == 3, Image.Transpose.ROTATE_90),
    ):
        if wanted:
            image = image.transpose(turn)
    return image


def _root(config: DataConfig) -> Path:
    return Path(config.home, "icons")


def _chosen(config: DataConfig) -> dict[str, Collection]:
    """The sets whose licence is wanted. Raises UserError for a licence that no set has, and if there are no sets."""
    file = _root(config) / "collections.json"
    if not file.is_file():
        raise UserError(f"icons is not in {config.home} (there is no {file}): {download_command(config)}.")
    return _with_licence(file.parent, cache.stamp(file), config.licences)


@lru_cache(maxsize=8)
def _with_licence(root: Path, stamp: str, wanted: str) -> dict[str, Collection]:
    sets = iconify.collections(root)
    there = sorted({about.licence for about in sets.values()})
    named: set[str] = set()
    for word in wanted.split("+"):
        if word == "all":
            named.update(there)
        elif word == "permissive":
            named.update(PERMISSIVE)
        elif word in there:
            named.add(word)
        else:
            raise UserError(
                f"data.licences={wanted} names {word!r}, which no icon set has: use permissive, all, or some of "
                f"{', '.join(there)}, joined by +."
            )
    chosen = {name: about for name, about in sets.items() if about.licence in named}
    if not chosen:
        raise UserError(f"No icon set in {root} has a licence of data.licences={wanted}: there are {', '.join(there)}.")
    return chosen


def _split_pictures(config: DataConfig, split: Split) -> list[Picture]:
    if split == "val":
        raise UserError("icons has no val split: use train or test.")
    stamps = tuple(cache.stamp(file) for file in files(config))
    asked = DataConfig(name="icons", home=config.home, cache=config.cache, licences=config.licences)
    return _listed(asked, stamps)[split == "test"]


@lru_cache(maxsize=4)
def _listed(config: DataConfig, stamps: tuple[str, ...]) -> tuple[list[Picture], list[Picture]]:
    """Train and test pictures. The list is kept beside the decoded records: making it reads every set."""
    about = ["icons", hashlib.sha256("\n".join(stamps).encode(errors="surrogateescape")).hexdigest()]
    sets = _chosen(config)
    found = cache.remember(config, about, lambda: {"pictures": iconify.list_pictures(_root(config), sets)})
    pictures = [Picture(*each) for each in found["pictures"]]
    test = {each.base for each in pictures if position(each.base) < TEST_SHARE}
    return [each for each in pictures if each.base not in test], [each for each in pictures if each.base in test]

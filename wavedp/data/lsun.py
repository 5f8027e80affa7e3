"""LSUN (Yu et al., 2015): photographs of scenes, one category an lmdb file, as published, or a folder of images.

    path/<category>_train_lmdb/data.mdb  path/<category>_val_lmdb/data.mdb    bedroom, church_outdoor, ...; one category
                                                                              found is one class
    path = .../bedroom_train_lmdb                                             only this category, of all that lie there
    path/**/*.jpg (or .webp)                                                  one category, exported: a tenth, chosen by
                                                                              name, becomes test

A value is the file of a picture whose shorter side has 256 pixels (github.com/fyu/lsun, README.md). The test split is
the published val: there is no other with its categories known. Records are in the order of their
keys' hashes. The centre of the long edge is resized by Lanczos.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wavedp import extras
from wavedp.config import DataConfig
from wavedp.data import cache, layout, picture
from wavedp.data.dataset import TEST_SHARE, Records, Split, position, square_shape
from wavedp.errors import UserError

LICENCE = "not stated (github.com/fyu/lsun)"
KNOWN_AS, MAY_BE_IN = "LSUN", ("LSUN",)
ENDS: dict[str, Split] = {"_train_lmdb": "train", "_val_lmdb": "val"}
OBTAIN = """\
lsun is not fetched. Clone github.com/fyu/lsun and let it fetch the categories that you want:
  python3 download.py -c bedroom -o ROOT
  python3 download.py -c church_outdoor -o ROOT
  cd ROOT && unzip 'bedroom_*_lmdb.zip' 'church_outdoor_*_lmdb.zip'
  ROOT/bedroom_train_lmdb/data.mdb, ROOT/bedroom_val_lmdb/data.mdb, ...
then pip install 'wavedp[data]' and use data=lsun data.path=ROOT (every category that is there is a class), or
data.path=ROOT/bedroom_train_lmdb for one category."""

shape = square_shape


class Record(NamedTuple):
    """label: number of the category. place: an lmdb's folder, or an image. key: in the lmdb; None for an image."""

    label: int
    place: Path
    key: bytes | None


def classes(config: DataConfig) -> tuple[str, ...]:
    """The categories that are there, sorted."""
    found = tuple(sorted({category for category, _ in _folders(config)}))
    if not found:
        files(config)  # raises where there is no image either
    return found or (_root(config).name,)


def count(config: DataConfig, split: Split) -> int:
    """Raises UserError for a split that is absent or empty."""
    folders = _folders(config)
    if not folders:
        return len(_records(config, split))
    found = 0
    for folder in _of_split(config, folders, split).values():
        with _opened(folder) as lmdb:
            found += lmdb.stat()["entries"]
    return found


def has_captions(config: DataConfig) -> bool:
    """No: pictures have a category."""
    return False


def files(config: DataConfig) -> list[Path]:
    """Every lmdb's file, or every image. Raises UserError for a folder that has neither."""
    folders = _folders(config)
    if folders:
        return [folder / "data.mdb" for folder in folders.values()]
    found = [_root(config) / name for name in _images(config)]
    if not found:
        raise UserError(f"data.path={config.path} holds neither an lmdb of LSUN nor an image: give the folder of some.")
    return found


def record_files(config: DataConfig, split: Split) -> list[Path | None]:
    """The image of each record; nothing for those in an lmdb."""
    return [] if _folders(config) else [record.place for record in _records(config, split)]


def read(config: DataConfig, split: Split, n: int) -> Records:
    """The first n records."""
    return pick(config, split, range(n))


def pick(config: DataConfig, split: Split, places: Sequence[int]) -> Records:
    """The records at these places. Raises UserError naming a picture that cannot be read."""
    records = _records(config, split)
    chosen = [records[place] for place in places]
    images = np.empty((len(chosen), *shape(config)), np.uint8)
    for place in dict.fromkeys(record.place for record in chosen):  # one lmdb after the other
        rows = [row for row, record in enumerate(chosen) if record.place == place]
        if chosen[rows[0]].key is None:
            for row in rows:
                images[row] = _decoded(place, str(place), config)
            continue
        with _opened(place) as lmdb, lmdb.begin() as values:
            for row in rows:
                key = chosen[row].key or b""
                value = values.get(key)
                images[row] = _decoded(io.BytesIO(value or b""), f"{place} ({key.decode(errors='replace')})", config)
    return images, np.array([record.label for record in chosen], np.int64), None


def _decoded(file: Any, name: str, config: DataConfig) -> np.ndarray:
    return picture.pixels(picture.square(picture.load(file, config.channels, name=name), config.size))


def _root(config: DataConfig) -> Path:
    if config.path is None:
        raise UserError("data.name=lsun needs data.path: give the folder that holds bedroom_train_lmdb and the like.")
    root = Path(config.path)
    if not root.is_dir():
        raise UserError(
            f"data.path={config.path} is not a folder: give the one that holds bedroom_train_lmdb or images."
        )
    return root


def _folders(config: DataConfig) -> dict[tuple[str, Split], Path]:
    """{(category, split): folder} of the lmdbs; empty for a folder of images. Raises UserError for a category without
    train images."""
    root, found = _root(config), {}
    only = _category(root)
    for folder in sorted((root.parent if only else root).iterdir()):
        named = _category(folder)
        if named and only in (None, named) and folder.is_dir():
            if not (folder / "data.mdb").is_file():
                raise UserError(f"{folder} has no data.mdb: unpack its zip again, or remove it.")
            found[named, next(split for end, split in ENDS.items() if folder.name.endswith(end))] = folder
    for category, _ in found:
        if (category, "train") not in found:
            raise UserError(f"{category} has no {category}_train_lmdb beside its val: add it, or take its val out.")
    return found


def _category(folder: Path) -> str | None:
    return next((folder.name.removesuffix(end) for end in ENDS if folder.name.endswith(end)), None)


def _of_split(config: DataConfig, folders: dict[tuple[str, Split], Path], split: Split) -> dict[str, Path]:
    """The folder of each category. Raises UserError where one is missing."""
    wanted: Split = "train" if split == "train" else "val"
    found = {category: folder for (category, of), folder in folders.items() if of == wanted}
    for category in sorted({category for category, _ in folders}):
        if category not in found:
            raise UserError(f"data.path={config.path} has no {category}_{wanted}_lmdb for {split}: add it.")
    return found


def _records(config: DataConfig, split: Split) -> list[Record]:
    folders = _folders(config)
    if folders:
        named = _of_split(config, folders, split)
        marks = tuple((folder, cache.stamp(folder / "data.mdb")) for _, folder in sorted(named.items()))
        return _listed(marks)
    if split == "val":
        raise UserError(f"data.path={config.path} has no val split, only a folder of images: use train or test.")
    held_out = split == "test"
    names = [name for name in _images(config) if (position(name) < TEST_SHARE) == held_out]
    if not names:
        raise UserError(f"{config.path} holds no images for {split}: add some, or lmdb folders.")
    return [Record(0, _root(config) / name, None) for name in sorted(names, key=position)]


@lru_cache(maxsize=4)
def _listed(marks: tuple[tuple[Path, str], ...]) -> list[Record]:
    """The records of these lmdbs, of which the marks change when they do."""
    found = []
    for label, (folder, _) in enumerate(marks):
        with _opened(folder) as lmdb, lmdb.begin() as values:
            found += [Record(label, folder, key) for key in values.cursor().iternext(values=False)]
    return sorted(found, key=lambda record: position((record.key or b"").decode(errors="surrogateescape")))


def _images(config: DataConfig) -> list[str]:
    """Images at any depth: an export puts them into folders named by the first letters of their keys."""
    return [path.relative_to(_root(config)).as_posix() for path in layout.one_of_each(_root(config))]


@contextmanager
def _opened(folder: Path) -> Iterator[Any]:
    """The lmdb in a folder, read-only and without its lock file, which a disk may not let us write.

    Raises UserError where the package is missing, and for a damaged file. A file that is cut short is refused by its
    size: reading beyond its end would end the process.
    """
    extras.require("data=lsun data.path=ROOT", "lmdb", instead="give a folder of images")
    import lmdb

    try:
        with lmdb.open(str(folder), readonly=True, lock=False, readahead=False, create=False) as opened:
            whole = (opened.info()["last_pgno"] + 1) * opened.stat()["psize"]
            there = (folder / "data.mdb").stat().st_size
            if there < whole:
                raise UserError(
                    f"{folder}/data.mdb is cut short at {there:,} of {whole:,} bytes: fetch or unpack it again."
                )
            yield opened
    except lmdb.Error as error:
        raise UserError(f"{folder}/data.mdb cannot be read ({error}): fetch or unpack it again.") from error

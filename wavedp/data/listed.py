"""Datasets whose image files are named by lists: what mm_celeba_hq, coco and celeba share.

A subclass of `Listed` says which files are whose in `find`; the rest of a source (wavedp.data.Source) is here. Pairs of
image and caption, or image and label, are made by id or file name, never by position, and records are in the order of
the hash of their id: lists in another order give the same records, and `limit` a fair sample.

Images are decoded as wavedp.data.picture says (CMYK and 16 bits too), cropped at the centre along the long edge and
resized by Lanczos to data.size; smaller images are enlarged. Only `read` and `pick` decode.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wavedp.config import DataConfig
from wavedp.data import cache, picture
from wavedp.data.dataset import Records, Split, position, square_shape
from wavedp.errors import UserError


class Record(NamedTuple):
    """One image: its id, its file, its label, and its captions or the file that holds one a line (None: none)."""

    id: str
    file: Path
    label: int = 0
    said: str | Path | None = None


Found = dict[Split, list[Record]]


class Listed:
    """A source of images that lists name. OBTAIN: where to get the set and the layout that is read, in plain text."""

    name: str
    captioned = False
    OBTAIN: str

    def find(self, root: Path, config: DataConfig) -> Found:
        """The records of each split that is here, in any order. Opens lists, but no image. Raises UserError for a list
        that is missing or damaged, and for what one list names and another, or the disk, lacks."""
        raise NotImplementedError

    def lists(self, root: Path, config: DataConfig) -> list[Path]:
        """The files and folders from which `find` knows the records, those that exist."""
        raise NotImplementedError

    def classes(self, config: DataConfig) -> tuple[str, ...]:
        """One class, of which every image is."""
        return ("image",)

    def shape(self, config: DataConfig) -> tuple[int, int, int]:
        """Any size, grey or RGB."""
        return square_shape(config)

    def has_captions(self, config: DataConfig) -> bool:
        """As the class says."""
        return self.captioned

    def count(self, config: DataConfig, split: Split) -> int:
        """Raises UserError for a split that is not here."""
        return len(self._records(config, split))

    def files(self, config: DataConfig) -> list[Path]:
        """The lists, every image, and every file of captions."""
        found = [path for path in self.lists(self.root(config), config) if path.is_file()]
        for record in (record for records in self._found(config).values() for record in records):
            found.append(record.file)
            if isinstance(record.said, Path):
                found.append(record.said)
        return list(dict.fromkeys(found))

    def record_files(self, config: DataConfig, split: Split) -> list[Path]:
        """The image of each record."""
        return [record.file for record in self._records(config, split)]

    def captions(self, config: DataConfig, split: Split) -> list[str]:
        """The captions of each record, one a line, or its class's name."""
        names = self.classes(config)
        return [_said(record) or names[record.label] for record in self._records(config, split)]

    def read(self, config: DataConfig, split: Split, n: int) -> Records:
        """The first n records."""
        return self.pick(config, split, range(n))

    def pick(self, config: DataConfig, split: Split, places: Sequence[int]) -> Records:
        """The records at these places; no other is decoded."""
        records = self._records(config, split)
        chosen = [records[place] for place in places]
        said = tuple(_said(record) or "" for record in chosen) if self.captioned else None  # before decoding
        images = np.empty((len(chosen), *self.shape(config)), np.uint8)
        for place, record in enumerate(chosen):
            images[place] = picture.pixels(picture.square(picture.load(record.file, config.channels), config.size))
        return images, np.array([record.label for record in chosen], np.int64), said

    def root(self, config: DataConfig) -> Path:
        """The set's folder. Raises UserError where data.path names none."""
        if config.path is None:
            raise UserError(f"data.name={self.name} needs data.path, the folder that holds it: {self._help}.")
        root = Path(config.path).expanduser()
        if not root.is_dir():
            raise UserError(f"data.path={config.path} is not a folder: give the folder that holds {self.name}.")
        return root

    @property
    def _help(self) -> str:
        return f"`python -m wavedp.data.get {self.name}` says where to obtain it and how it lies"

    def lacking(self, root: Path, places: Iterable[str]) -> UserError:
        """The refusal of a folder that has none of these files or folders."""
        return UserError(f"{root} has no {' or '.join(places)}: {self._help}.")

    def _records(self, config: DataConfig, split: Split) -> list[Record]:
        found = self._found(config)
        if not found.get(split):
            here = " and ".join(name for name, records in found.items() if records) or "no"
            raise UserError(
                f"data.path={config.path} has no {split} split with data.split={config.split}, only {here} images: "
                f"use another split or division, or add the files; {self._help}."
            )
        return found[split]

    def _found(self, config: DataConfig) -> Found:
        root = self.root(config)
        asked = DataConfig(name=config.name, split=config.split, path=str(root), attribute=config.attribute)
        return _known(self, asked, tuple(cache.stamp(path) for path in self.lists(root, asked)))


@lru_cache(maxsize=4)
def _known(source: Listed, config: DataConfig, stamps: tuple[str, ...]) -> Found:
    """Every split of a source. stamps: what changes when a list or a folder does."""
    found = source.find(source.root(config), config)
    return {split: sorted(records, key=lambda record: position(record.id)) for split, records in found.items()}


def first(root: Path, places: Iterable[str]) -> Path | None:
    """The first of these files or folders that exists."""
    return next((root / place for place in places if (root / place).exists()), None)


def images(folder: Path) -> dict[str, Path]:
    """{name: file} of the images straight in a folder, sorted."""
    names = sorted(os.listdir(folder))  # strings: to sort 80,000 paths takes seconds
    known = (name for name in names if os.path.splitext(name)[1].lower() in picture.SUFFIXES and name[0] != ".")
    return {name: folder / name for name in known}


def lines(file: Path) -> list[str]:
    """The lines of a text file without those that are blank. Raises UserError unless it is UTF-8."""
    return [line for line in (line.strip() for line in _text(file).splitlines()) if line]


def rows(file: Path, columns: int, header: int) -> Iterator[list[str]]:
    """The cells of each line after the header, of a text file (blanks) or .csv (commas). Raises UserError for a line
    of another number of cells."""
    comma = "," if file.suffix == ".csv" else None
    for number, line in enumerate(_text(file).splitlines()[header:], header + 1):
        cells = [cell.strip() for cell in line.split(comma)]
        if len(cells) == columns and all(cells):
            yield cells
        elif any(cells):
            raise UserError(
                f"{file} has {len(cells)} cells in line {number}, not {columns}: replace it by the published file."
            )


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as UTF-8 ({error}): replace it.") from error


def _said(record: Record) -> str | None:
    """The captions of a record, separated by newlines. Raises UserError for a file that holds none."""
    if not isinstance(record.said, Path):
        return record.said
    found = lines(record.said)
    if not found:
        raise UserError(f"{record.said} holds no caption for {record.file}: write one a line, or take the image out.")
    return "\n".join(found)

"""Do public images share records with the sensitive ones? A model that learned a sensitive record in public has spent
what no ε covers.

    case                                              what happens
    one folder given for both                         refused at once
    equal pixels at the size in use, or equal files   refused, with the number of shared images and an example
    an edited copy: resized, mirrored, recompressed   a warning, with the number and an example
    pictures of one colour                            equal only if their files are: unrelated sets have blank ones too
    cropped, turned or redrawn copies                 not found

A comparison is kept in `data.cache` (counts and one example), so a study makes it once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache as memoized
from pathlib import Path
from typing import Any, get_args

import numpy as np

from wavedp import data
from wavedp.config import DataConfig
from wavedp.data import cache, records
from wavedp.data.dataset import Split
from wavedp.errors import UserError

Read = tuple[DataConfig, Any]


@dataclass(frozen=True)
class Found:
    """How many images of a set have a counterpart in another, and the first of them: its name, the other's name."""

    count: int = 0
    images: int = 0
    example: tuple[str, str] | None = None


def refuse_shared(sensitive: DataConfig, public: Iterable[Read]) -> None:
    """Raises UserError for public images of which one is a record of the sensitive set, in whatever split."""
    for config, split in dict.fromkeys(public):
        if _same_folder(sensitive, config):
            raise UserError(
                f"data.path={sensitive.path} and public.path={config.path} are the same, so public training would "
                "see every sensitive image without privacy: name other public images."
            )
        found = shared(_splits(sensitive), (config, split))
        if found.example:
            raise UserError(
                f"{found.count} of {found.images} public images ({config.name}, {split}) are records of the sensitive "
                f"set, such as {' = '.join(found.example)}, and no ε covers what is learned from them: take them out "
                "of the public images, or name others."
            )


def warn_of_copies(sensitive: DataConfig, public: Iterable[Read]) -> list[str]:
    """A sentence for each public set that seems to hold edited copies of sensitive records. Computed images are not
    compared: nobody edited them."""
    warned = []
    for config, split in dict.fromkeys(public):
        found = _copies(_splits(sensitive), (config, split)) if data.is_stored(config) else Found()
        if found.example:
            warned.append(
                f"{found.count} of {found.images} public images ({config.name}, {split}) look like edited copies of "
                f"sensitive ones, such as {' ~ '.join(found.example)}: if they are, take them out, since no ε covers "
                "what is learned from them."
            )
    return warned


def warn_of_known_test(sensitive: DataConfig, split: str) -> list[str]:
    """A sentence if images of this split are train records too, so that metrics against it favour memorised images."""
    found = shared(((sensitive, "train"),), (sensitive, split)) if split != "train" else Found()
    if not found.example:
        return []
    return [
        f"{found.count} of {found.images} {split} images of {sensitive.name} are train records too, such as "
        f"{' = '.join(found.example)}: a metric against them favours a model that memorised them."
    ]


@memoized
def shared(sensitive: tuple[Read, ...], other: Read) -> Found:
    """Images of `other` that are records of `sensitive`: equal in pixels at the configured size, or in their file."""
    return _remembered("shared", _shared, sensitive, other)


@memoized
def _copies(sensitive: tuple[Read, ...], other: Read) -> Found:
    return _remembered("alike", _alike, sensitive, other)


def _remembered(name: str, compare: Callable[..., dict[str, Any]], sensitive: tuple[Read, ...], other: Read) -> Found:
    return Found(**cache.remember(sensitive[0][0], [name, *_contents(*sensitive, other)], compare, sensitive, other))


def _shared(sensitive: tuple[Read, ...], other: Read) -> dict[str, Any]:
    places = {mark: (read, i) for read in sensitive for i, marks in enumerate(_marks(read)) for mark in marks}
    theirs = _marks(other)
    found = [(i, mark) for i, marks in enumerate(theirs) for mark in marks if mark in places]
    example = (_name(other, found[0][0]), _name(*places[found[0][1]])) if found else None
    return asdict(Found(len({i for i, _ in found}), len(theirs), example))


def _alike(sensitive: tuple[Read, ...], other: Read) -> dict[str, Any]:
    images = _images(other)
    pairs = {j: (read, i) for read in sensitive for i, j in records.alike(_images(read), images)}
    first = next(((_name(other, j), _name(*place)) for j, place in sorted(pairs.items())), None)
    return asdict(Found(len(pairs), len(images), first))


def _marks(read: Read) -> list[list[bytes]]:
    """The hashes of each record."""
    images, files = _images(read), _files(read)
    pixels = zip(records.pixel_hashes(images), records.plain(images), strict=True)
    marks = [[] if plain else [value] for value, plain in pixels]
    for mark, value in zip(marks, records.file_hashes(files), strict=False):  # there may be no files
        mark += [value] if value else []
    return marks


def _images(read: Read) -> np.ndarray:
    return data.load(read[0], read[1]).images


@memoized
def _files(read: Read) -> list[Path | None]:
    return data.record_files(*read)


def _name(read: Read, i: int) -> str:
    files = _files(read)
    return str(files[i]) if files and files[i] else f"image {i} of {read[0].name} {read[1]}"


def _contents(*reads: Read) -> list[object]:
    """What a comparison depends on: the images, and the files that hold them."""
    return [
        [data.fingerprint(config, split), *(cache.stamp(file) for file in _files((config, split)) if file)]
        for config, split in reads
    ]


@memoized
def _splits(config: DataConfig) -> tuple[Read, ...]:
    """Every split that the set has."""
    found = []
    for split in get_args(Split):
        try:
            data.n_records(config, split)
        except UserError:
            continue
        found.append((config, split))
    return tuple(found)


def _same_folder(one: DataConfig, other: DataConfig) -> bool:
    if one.path is None or other.path is None or not (Path(one.path).exists() and Path(other.path).exists()):
        return False
    return os.path.samefile(one.path, other.path)

"""A dataset in one file: decoded images, labels, captions, class names and fingerprints.

`wavedp.data.from_arrays` and `python -m wavedp.data.export NAME --decoded FILE` write such files. There are two ways to
use one:

    data.name=decoded data.path=FILE       the file is the dataset; size and channels must be those of its images
    <home>/<any name>.decoded.npz          the file stands in for the dataset it was exported from, where the files of
                                           that dataset are missing (`find`)

The fingerprints are those of the original, so stage keys are too. The file is an .npz without pickle:

    about                  JSON: format, identity (the RESULT fields of DataConfig except `limit`), folder (last part of
                           data.path), classes, shape, and for each split its number of records, fingerprint and whether
                           it has captions
    images_<split>         uint8 [B C H W]
    labels_<split>         int64 [B]
    captions_<split>       JSON list of strings; absent where the split has no captions
"""

from __future__ import annotations

import json
import logging
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, get_args

import numpy as np

from wavedp.config import DataConfig, identity
from wavedp.data import cache
from wavedp.data.cache import UNREADABLE
from wavedp.data.dataset import Fingerprint, Picker, Records, Split, content_fingerprint, square_shape
from wavedp.errors import UserError

SUFFIX = ".decoded.npz"
FORMAT = 1
DAMAGE = (*UNREADABLE, zlib.error, TypeError, AttributeError)

shape = square_shape


@dataclass(frozen=True)
class SplitAbout:
    """Number of records, content fingerprint and captions of one split."""

    records: int
    fingerprint: str
    captions: bool


@dataclass(frozen=True)
class About:
    """Everything in a decoded file except the records."""

    identity: dict[str, Any]
    folder: str | None
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    splits: dict[str, SplitAbout]


def classes(config: DataConfig) -> tuple[str, ...]:
    """The class names in the file."""
    return _about(config).classes


def has_captions(config: DataConfig) -> bool:
    """True if a split has captions."""
    return any(split.captions for split in _about(config).splits.values())


def count(config: DataConfig, split: Split) -> int:
    """Raises UserError for a split that the file lacks."""
    return _split(config, split).records


def files(config: DataConfig) -> list[Path]:
    """The decoded file. Raises UserError when it is missing."""
    return [_file(config)]


def recorded_fingerprint(config: DataConfig, split: Split) -> str:
    """The fingerprint of the whole split, which `read` verifies."""
    return _split(config, split).fingerprint


def read(config: DataConfig, split: Split, n: int) -> Records:
    """The first n records. Raises UserError for a damaged file.

    Damage shows in the zip checksums; reading a whole split also verifies its content fingerprint.
    """
    file, about = _file(config), _split(config, split)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays[f"images_{split}"], arrays[f"labels_{split}"]
            captions = tuple(json.loads(arrays[f"captions_{split}"].tobytes())) if about.captions else None
        whole = (images.dtype, images.shape) == (np.uint8, (about.records, *shape(config)))
        whole &= (labels.dtype, labels.shape) == (np.int64, (about.records,))
        whole &= captions is None or len(captions) == about.records
        if n == about.records:
            whole &= content_fingerprint(images, labels, captions) == about.fingerprint
    except DAMAGE as error:
        raise _damaged(file, str(error)) from error
    if not whole:
        raise _damaged(file, f"the {split} records are not those it was written with")
    return images[:n], labels[:n], None if captions is None else captions[:n]


def picker(config: DataConfig, split: Split) -> Picker:
    """Unpacks the images at these places; fast for places that follow one another. Raises UserError for a damaged file:
    the last of all places that are asked for in order verifies what the file records of the images."""
    file, about = _file(config), _split(config, split)
    size, digest = math.prod(shape(config)), Fingerprint((about.records, *shape(config)))
    try:
        with np.load(file, allow_pickle=False) as arrays:
            labels = arrays[f"labels_{split}"]
            captions = tuple(json.loads(arrays[f"captions_{split}"].tobytes())) if about.captions else None
        images: Any = zipfile.ZipFile(file).open(f"images_{split}.npy")  # noqa: SIM115 (as long as the picker is used)
        np.lib.format.read_magic(images)
        found, _, dtype = np.lib.format.read_array_header_1_0(images)
        start = images.tell()
    except DAMAGE as error:
        raise _damaged(file, str(error)) from error
    if (found, dtype) != ((about.records, *shape(config)), np.uint8) or len(labels) != about.records:
        raise _damaged(file, f"the {split} records are not those it was written with")
    asked = 0

    def pick(places: Sequence[int]) -> Records:
        nonlocal asked
        try:
            content = bytearray()
            for place in places:
                images.seek(start + place * size)
                content += images.read(size)
            pixels = np.frombuffer(content, np.uint8).reshape(len(places), *shape(config))
        except DAMAGE as error:
            raise _damaged(file, str(error)) from error
        rows = np.asarray(places, np.int64)
        if np.array_equal(rows, np.arange(asked, asked + len(rows))):
            digest.add(pixels)
            asked += len(rows)
            if asked == about.records and digest.of(labels, captions) != about.fingerprint:
                raise _damaged(file, f"the {split} records are not those it was written with")
        return pixels, labels[rows], None if captions is None else tuple(captions[row] for row in rows)

    return pick


def find(config: DataConfig) -> Path | None:
    """The decoded file in the home that `config`'s dataset was exported to; None where there is none.

    It matches when it records the same identity, and the same last part of `data.path` for datasets that have a path:
    the identity of a folder dataset says nothing about the folder. Raises UserError where files of different content
    match.
    """
    found: dict[str, Path] = {}
    for file in sorted(Path(config.home).glob(f"*{SUFFIX}")):
        try:
            about = read_about(file)
        except UserError as error:
            logging.getLogger(__name__).warning("%s", error)
            continue
        if (about.identity, about.folder) == (_identity(config), _folder(config)):
            found.setdefault(json.dumps([split.fingerprint for split in about.splits.values()]), file)
    if len(found) > 1:
        raise UserError(
            f"{' and '.join(map(str, found.values()))} both stand for data.name={config.name} with different images: "
            "remove all but one."
        )
    return next(iter(found.values()), None)


def write(file: Path, config: DataConfig, classes: tuple[str, ...], splits: Mapping[Split, Records]) -> About:
    """Write one decoded file in one step, for its owner alone; a file that already has this content is left alone.

    The splits are whole ones: `config.limit` is not part of the file. Raises UserError for records that no dataset may
    have, and OSError where the file cannot be written.
    """
    about, save = packed(config, classes, splits)
    cache.publish(file, save)
    return about


def packed(
    config: DataConfig, classes: tuple[str, ...], splits: Mapping[Split, Records]
) -> tuple[About, Callable[[IO[bytes]], None]]:
    """What a decoded file records, and how to write it into an open file, which need not be seekable.

    Images that are mapped are never whole in memory. Raises UserError as `write`.
    """
    arrays: dict[str, np.ndarray] = {}
    about: dict[str, SplitAbout] = {}
    for split, (images, labels, captions) in splits.items():
        _check(images, labels, captions, len(classes), split)
        arrays |= {f"images_{split}": images, f"labels_{split}": labels}
        if captions is not None:
            arrays[f"captions_{split}"] = _json(captions)
        about[split] = SplitAbout(len(images), content_fingerprint(images, labels, captions), captions is not None)
    shapes = {images.shape[1:] for images, _, _ in splits.values()}
    if len(shapes) != 1:
        raise UserError(f"images of {len(shapes)} shapes cannot be one dataset: resize them to one.")
    (chw,) = shapes
    written = About(_identity(config), _folder(config), tuple(classes), chw, about)
    values = {**written.__dict__, "splits": {name: split.__dict__ for name, split in about.items()}, "format": FORMAT}
    named = {"about": _json(values), **arrays}
    return written, lambda opened: np.savez_compressed(opened, **named)  # type: ignore[arg-type]


def read_about(file: Path) -> About:
    """The record of a decoded file. Raises UserError for a file that is damaged or of another kind or format."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            values = json.loads(arrays["about"].tobytes())
        if values["format"] != FORMAT:
            raise UserError(f"{file} has format {values['format']}, which is unknown here: update wavedp.")
        return About(
            identity=dict(values["identity"]),
            folder=values["folder"],
            classes=tuple(values["classes"]),
            shape=tuple(values["shape"]),
            splits={name: SplitAbout(**values["splits"][name]) for name in get_args(Split) if name in values["splits"]},
        )
    except DAMAGE as error:
        raise _damaged(file, str(error)) from error


def _identity(config: DataConfig) -> dict[str, Any]:
    return {name: value for name, value in identity(config).items() if name not in ("limit", "duplicates")}


def _folder(config: DataConfig) -> str | None:
    return None if config.path is None else Path(config.path).absolute().name


def _file(config: DataConfig) -> Path:
    if config.path is None:
        raise UserError(
            "data.name=decoded needs data.path: give the file that wavedp.data.export or from_arrays wrote."
        )
    file = Path(config.path)
    if not file.is_file():
        raise UserError(
            f"data.path={config.path} is not a file: give one that wavedp.data.export or from_arrays wrote."
        )
    return file


def _about(config: DataConfig) -> About:
    file = _file(config)
    about = read_about(file)
    if about.shape != shape(config):
        channels, height, _ = about.shape
        raise UserError(
            f"{file} has other images than data.size={config.size} and data.channels={config.channels}: use "
            f"size={height} and channels={channels}."
        )
    return about


def _split(config: DataConfig, split: Split) -> SplitAbout:
    splits = _about(config).splits
    if split not in splits:
        raise UserError(f"{config.path} has no {split} split: use {' or '.join(splits)}.")
    return splits[split]


def _check(
    images: np.ndarray, labels: np.ndarray, captions: tuple[str, ...] | None, n_classes: int, split: Split
) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise UserError(
            f"{split} images are {images.dtype} {images.shape}: a decoded file takes square uint8 [B C H W]."
        )
    if labels.dtype != np.int64 or labels.shape != (len(images),):
        raise UserError(f"{split} labels are {labels.dtype} {labels.shape}: give one int64 for each image.")
    if not len(images):
        raise UserError(f"the {split} split has no images: give some, or leave the split out.")
    if labels.min() < 0 or labels.max() >= n_classes:
        raise UserError(
            f"{split} labels run from {labels.min()} to {labels.max()}, beyond the {n_classes} classes: use 0 to "
            f"{n_classes - 1}."
        )
    if captions is not None and len(captions) != len(images):
        raise UserError(f"{len(images)} {split} images have {len(captions)} captions: give one for each, or none.")
    assert split in get_args(Split), split


def _json(value: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(value, sort_keys=True).encode(), np.uint8)


def _damaged(file: Path, reason: str) -> UserError:
    return UserError(f"{file} is damaged ({reason}): copy or write it again.")

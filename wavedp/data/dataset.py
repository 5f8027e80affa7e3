"""A dataset: arrays, names and a fingerprint of the content. And the protocol of a source of datasets."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from wavedp.config import DataConfig
from wavedp.errors import UserError

Split = Literal["train", "val", "test"]
Records = tuple[np.ndarray, np.ndarray, tuple[str, ...] | None]
"""images uint8 [B C H W], labels int64 [B], captions."""
Picker = Callable[[Sequence[int]], Records]
"""The records at these places of a split, as `read` gives them."""
TEST_SHARE = 0.1
"""Share of an undivided set that becomes its test split."""
PART = 2**27
"""Bytes of decoded images that are held at once: a larger set is decoded, hashed and reduced part by part."""


@dataclass(frozen=True)
class Dataset:
    """One split of one dataset. One image is one record: the unit that differential privacy protects.

    images: uint8 [B C H W], 0 is black. Those that come from files are a part of the cache's file, which the system
    reads when they are looked at: go through a large set by `in_parts`. labels: int64 [B], indices into `classes`.
    captions: one string per record, with newlines between several captions of one record; None if the set has none.
    fingerprint: see `content_fingerprint`.
    """

    name: str
    split: Split
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    captions: tuple[str, ...] | None
    fingerprint: str


class Source(Protocol):
    """The functions of a dataset's module (or object); `wavedp.data` adds the limit, the cache and the fingerprint.

    Every function raises UserError if the dataset does not offer what the config asks for, or is not on disk.
    `wavedp.testing.datasets.DatasetSuite` tests a source. Optional:

        DIVISIONS                        values of `data.split` that it defines (without it: `official`)
        READS                            which of the fields `parts`, `names`, `words`, `attribute` it reads
        LICENCE, licence(config)         a sentence that data cards repeat
        OBTAIN                           where to get a set that is not fetched, and its layout (wavedp.data.get)
        MAY_BE_IN, KNOWN_AS              public sets that may hold its images, by name; its own (wavedp.data.seen)
        licences(config, split)          the licence of each record in order, where it differs between them
        record_files(config, split)      the file of each record in order, None where it has none of its own, by which a
                                         copy of a file is known in another set whatever it is decoded to
        content(config, split)           JSON values that a decoded copy depends on, instead of the files
        captions(config, split)          the caption of every record, without decoding
        prompts(config)                  public sentences like its captions, made of no record of any split
        pick(config, split, places)      the records at these places, as `read` gives them
        picker(config, split)            such a function of the places alone, for many of them: it lists the files once.
                                         With it, or `pick`, a set larger than `PART` is never whole in memory
    """

    def shape(self, config: DataConfig) -> tuple[int, int, int]:
        """C, H, W of every image. Opens no file."""

    def classes(self, config: DataConfig) -> tuple[str, ...]:
        """Names of the labels, in label order. Decodes no image."""

    def count(self, config: DataConfig, split: Split) -> int:
        """Records the split holds, before `config.limit`. Decodes no image."""

    def has_captions(self, config: DataConfig) -> bool:
        """True if records have captions. Decodes no image."""

    def files(self, config: DataConfig) -> list[Path]:
        """Every file on which the records depend; an empty list for a set that is computed."""

    def read(self, config: DataConfig, split: Split, n: int) -> Records:
        """The first n records of the split: images uint8 [n C H W], labels int64 [n], captions or None."""


def content_fingerprint(images: np.ndarray, labels: np.ndarray, captions: Sequence[str] | None) -> str:
    """sha256 (hex) of images, their shape, labels and captions, in record order. Class names do not enter it."""
    digest = Fingerprint(images.shape)
    for part in in_parts(images):
        digest.add(part)
    return digest.of(labels, captions)


class Fingerprint:
    """`content_fingerprint` of images B C H W that come in parts."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._digest = hashlib.sha256(f"uint8 {shape}\n".encode())

    def add(self, images: np.ndarray) -> None:
        """The next images."""
        self._digest.update(np.ascontiguousarray(images, dtype=np.uint8).data)

    def of(self, labels: np.ndarray, captions: Sequence[str] | None) -> str:
        """The fingerprint, after the last image."""
        self._digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
        for caption in captions or ():
            text = caption.encode()
            self._digest.update(f"{len(text)}:".encode() + text)  # the length keeps ("ab", "c") from ("a", "bc")
        return self._digest.hexdigest()


def is_large(shape: tuple[int, ...]) -> bool:
    """Whether uint8 images of this shape, N C H W, are more than memory should hold at once."""
    return math.prod(shape) > PART


def in_parts(images: np.ndarray) -> Iterator[np.ndarray]:
    """Images B C H W, so many of them at a time as `PART` holds."""
    for rows in ranges(len(images), images.shape[1:]):
        yield images[rows.start : rows.stop]


def ranges(n: int, shape: tuple[int, ...], width: int = 1) -> Iterator[range]:
    """The places 0 to n-1 in ranges whose records of this shape, with `width` bytes a pixel, take at most `PART`."""
    size = max(1, PART // (math.prod(shape) * width))
    for start in range(0, n, size):
        yield range(start, min(start + size, n))


def position(name: str) -> float:
    """A fixed pseudo-random number in [0, 1) for a record's name, from its sha256.

    In the order of these numbers, `limit` takes a fair sample of the classes. The records whose number is below a share
    form a held-out split that stays the same when other files come or go.
    """
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:6], "big") / 2**48


def square_shape(config: DataConfig) -> tuple[int, int, int]:
    """C, H, W for sets that can be drawn at any size. Raises UserError unless grey or RGB and of size 4 to 4096."""
    if config.channels not in (1, 3):
        raise UserError(f"data.channels={config.channels} is not offered: use 1 (grey) or 3 (RGB).")
    if not 4 <= config.size <= 4096:
        raise UserError(f"data.size={config.size} is not offered: use 4 to 4096 pixels.")
    return config.channels, config.size, config.size


def download_command(config: DataConfig) -> str:
    """The remedy that errors name when a downloadable set is missing or damaged."""
    option = "" if config.home == DataConfig().home else f" --home {config.home}"
    return f"run `python -m wavedp.data.get {config.name}{option}`"

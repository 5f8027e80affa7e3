"""A dataset: arrays, names and a fingerprint of the content. And the protocol of a source of datasets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from wavedp.config import DataConfig
from wavedp.errors import UserError

Split = Literal["train", "val", "test"]
Records = tuple[np.ndarray, np.ndarray, tuple[str, ...] | None]
"""images uint8 [B C H W], labels int64 [B], captions."""
TEST_SHARE = 0.1
"""Share of an undivided set that becomes its test split."""


@dataclass(frozen=True)
class Dataset:
    """One split of one dataset, in memory. One image is one record: the unit that differential privacy protects.

    images: uint8 [B C H W], 0 is black. labels: int64 [B], indices into `classes`.
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
    digest = hashlib.sha256(f"uint8 {images.shape}\n".encode())
    digest.update(np.ascontiguousarray(images, dtype=np.uint8).data)
    digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    for caption in captions or ():
        text = caption.encode()
        digest.update(f"{len(text)}:".encode() + text)  # the length keeps ("ab", "c") apart from ("a", "bc")
    return digest.hexdigest()


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

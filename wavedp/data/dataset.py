"""What a dataset is: arrays, names, and a fingerprint of the content; and what a source of one must offer."""

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


@dataclass(frozen=True)
class Dataset:
    """One split of one dataset, in memory. One image is one record: the unit that differential privacy protects.

    images: uint8 [B C H W], 0 is black. labels: int64 [B], indices into `classes`.
    captions: one string a record, a record's several captions separated by newlines; None when the set has none.
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
    """What each dataset's module offers; `wavedp.data` adds the limit, the cache and the fingerprint.

    Every function raises UserError where the dataset does not offer what the config asks for, or is not on disk.
    """

    def shape(self, config: DataConfig) -> tuple[int, int, int]:
        """C, H, W of every image. Opens no file."""

    def classes(self, config: DataConfig) -> tuple[str, ...]:
        """Names of the labels, in label order. Decodes no image."""

    def count(self, config: DataConfig, split: Split) -> int:
        """Records the split holds, before `config.limit`. Decodes no image."""

    def has_captions(self, config: DataConfig) -> bool:
        """Whether records have captions. Decodes no image."""

    def files(self, config: DataConfig) -> list[Path]:
        """Every file on which the records depend; none for a set that is computed."""

    def read(self, config: DataConfig, split: Split, n: int) -> Records:
        """The first n records of the split: images uint8 [n C H W], labels int64 [n], captions or None."""


def content_fingerprint(images: np.ndarray, labels: np.ndarray, captions: Sequence[str] | None) -> str:
    """sha256 (hex) of images, their shape, labels and captions, in record order; class names are not part of it."""
    digest = hashlib.sha256(f"uint8 {images.shape}\n".encode())
    digest.update(np.ascontiguousarray(images, dtype=np.uint8).data)
    digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    for caption in captions or ():
        text = caption.encode()
        digest.update(f"{len(text)}:".encode() + text)  # the length keeps ("ab", "c") apart from ("a", "bc")
    return digest.hexdigest()


def position(name: str) -> float:
    """A fixed pseudo-random place in [0, 1) for a record's name (sha256).

    Records in this order make `limit` a fair sample of the classes; records below a share make a held-out split that
    does not move when other files come or go.
    """
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:6], "big") / 2**48


def square_shape(config: DataConfig) -> tuple[int, int, int]:
    """C, H, W for the sets that can be drawn at any size. Raises UserError outside grey/RGB and size 4 to 4096."""
    if config.channels not in (1, 3):
        raise UserError(f"data.channels={config.channels} is not offered: use 1 (grey) or 3 (RGB).")
    if not 4 <= config.size <= 4096:
        raise UserError(f"data.size={config.size} is not offered: use 4 to 4096 pixels.")
    return config.channels, config.size, config.size


def download_command(config: DataConfig) -> str:
    """The remedy in errors about a downloadable set that is missing or damaged."""
    option = "" if config.home == DataConfig().home else f" --home {config.home}"
    return f"run `python -m wavedp.data.get {config.name}{option}`"

"""CIFAR-10 (Krizhevsky, 2009): 60,000 colour photographs of 32×32 in ten classes, from its Python batches.

    data_batch_1 ... data_batch_5, test_batch, batches.meta      in data.path, or in cifar-10-batches-py below it

The batches are pickles, which wavedp.data.pickles reads without running anything of them. data.split=dpimagebench
divides the train images again, 45,000 and the rest, as DPImageBench does with seed 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from wavedp.config import DataConfig
from wavedp.data import cache, pickles
from wavedp.data.dataset import Records, Split
from wavedp.data.fashion_mnist import benchmark_order
from wavedp.errors import UserError

LICENCE = "not stated (cs.toronto.edu/~kriz/cifar.html)"
DIVISIONS = ("official", "dpimagebench")
KNOWN_AS = "CIFAR-10"
MAY_BE_IN = ("CIFAR-10", "Tiny Images")
META = "batches.meta"
BATCHES: dict[str, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
BENCHMARK_TRAIN = 45_000  # DPImageBench, data/dataset_loader.py
HELP = "`python -m wavedp.data.get cifar10` says where to obtain it and how it lies"
OBTAIN = """\
cifar10 is not fetched. Obtain cifar-10-python.tar.gz (\"CIFAR-10 python version\") from cs.toronto.edu/~kriz/cifar.html
and unpack it:
  tar xzf cifar-10-python.tar.gz -C ROOT
  ROOT/cifar-10-batches-py/data_batch_1 ... data_batch_5, test_batch, batches.meta
then use data=cifar10 data.path=ROOT."""


def shape(config: DataConfig) -> tuple[int, int, int]:
    """(3, 32, 32). Raises UserError for another size."""
    if (config.channels, config.size) != (3, 32):
        raise UserError(
            f"cifar10 is RGB and 32x32, not data.channels={config.channels} and data.size={config.size}: use "
            "channels=3 and size=32."
        )
    return 3, 32, 32


def classes(config: DataConfig) -> tuple[str, ...]:
    """The names in batches.meta."""
    file = _folder(config) / META
    names = _batch(file, cache.stamp(file)).get("label_names")
    if not isinstance(names, list) or not names:
        raise UserError(f"{file} has no label_names: replace it by the published file.")
    return tuple(map(str, names))


def has_captions(config: DataConfig) -> bool:
    """False: the set has labels only."""
    return False


def count(config: DataConfig, split: Split) -> int:
    """Raises UserError for `val` of the official division, which has only train and test."""
    return len(_order(config, split))


def files(config: DataConfig) -> list[Path]:
    """The six batches and the names of the classes. Raises UserError when one is missing."""
    folder = _folder(config)
    found = [folder / name for name in (*BATCHES["train"], *BATCHES["test"], META)]
    for path in found:
        if not path.is_file():
            raise UserError(f"{path} is missing: {HELP}.")
    return found


def read(config: DataConfig, split: Split, n: int) -> Records:
    """The first n records, in the publisher's order; dpimagebench's train and val are in its random split's order."""
    return pick(config, split, range(n))


def pick(config: DataConfig, split: Split, places: Sequence[int]) -> Records:
    """The records at these places."""
    images, labels = _arrays(config, split)
    rows = _order(config, split)[np.asarray(places, np.int64)]
    return images[rows], labels[rows], None


def _order(config: DataConfig, split: Split) -> np.ndarray:
    """The places of a split's records among those of its files."""
    n = len(_arrays(config, split)[1])
    if config.split == "official" or split == "test":
        if split == "val":
            raise UserError("cifar10 has no official val split: use train or test, or data.split=dpimagebench.")
        return np.arange(n)
    if n <= BENCHMARK_TRAIN:
        raise UserError(
            f"data.split=dpimagebench needs more than {BENCHMARK_TRAIN:,} train images, and {n:,} are here: use "
            "data.split=official."
        )
    chosen, rest = np.split(benchmark_order(n), [BENCHMARK_TRAIN])
    return chosen if split == "train" else rest


def _folder(config: DataConfig) -> Path:
    if config.path is None:
        raise UserError(f"data.name=cifar10 needs data.path, the folder that holds cifar-10-batches-py: {HELP}.")
    root = Path(config.path).expanduser()
    found = [folder for folder in (root, root / "cifar-10-batches-py") if (folder / META).is_file()]
    if not found:
        raise UserError(f"data.path={config.path} has no {META}: {HELP}.")
    return found[0]


def _arrays(config: DataConfig, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Images B 3 32 32 and labels B of the files of a split."""
    names = BATCHES["test" if split == "test" else "train"]
    known = [path for path in files(config) if path.name in names]
    return _joined(tuple(known), tuple(map(cache.stamp, known)), len(classes(config)))


@lru_cache(maxsize=2)
def _joined(paths: tuple[Path, ...], stamps: tuple[str, ...], n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    parts = [_records(path, stamp, n_classes) for path, stamp in zip(paths, stamps, strict=True)]
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def _records(file: Path, stamp: str, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    batch = _batch(file, stamp)
    images, labels = batch.get("data"), batch.get("labels")
    if (
        isinstance(images, np.ndarray)
        and isinstance(labels, list)
        and images.shape == (len(labels), 3 * 32 * 32)
        and all(isinstance(label, int) and 0 <= label < n_classes for label in labels)
    ):
        return images.reshape(-1, 3, 32, 32), np.array(labels, np.int64)
    raise UserError(f"{file} is not a batch of CIFAR-10 (data, labels): replace it by the published file.")


@lru_cache(maxsize=2)
def _batch(file: Path, stamp: str) -> dict[str, Any]:
    return pickles.arrays(file)

"""Datasets behind one protocol: `load(config, split)` gives images, labels, captions and a fingerprint of the content.

    fashion_mnist  60,000 and 10,000 grey garments, 28x28 (or padded to 32x32)
    openclipart    public-domain drawings for public pretraining, rendered at any size
    photographs    crops of twelve photographs, for super-resolution at any size
    procedural     computed shapes and textures of any size; needs no file
    folder         the user's own images in class folders

Decoded records are kept under `<home>/decoded`, one file for each split and setting, named by the identity of the
files they come from. So the second `load` decodes nothing, and `fingerprint` reads a few bytes. That includes a copy of
the images of a `folder` dataset: delete the folder `decoded` to remove it.
"""

from __future__ import annotations

from typing import get_args

from wavedp.config import DataConfig
from wavedp.data import cache, fashion_mnist, folder, openclipart, photographs, procedural
from wavedp.data.dataset import Dataset, Source, Split, content_fingerprint
from wavedp.errors import UserError

__all__ = [
    "Dataset",
    "Split",
    "content_fingerprint",
    "fingerprint",
    "has_captions",
    "load",
    "n_classes",
    "n_records",
    "shape",
]

SOURCES: dict[str, Source] = {
    "fashion_mnist": fashion_mnist,
    "openclipart": openclipart,
    "photographs": photographs,
    "procedural": procedural,
    "folder": folder,
}


def load(config: DataConfig, split: Split) -> Dataset:
    """Read one split. Raises UserError for an impossible config, missing or unreadable files."""
    source = _source(config)
    _, height, width = source.shape(config)
    n = n_records(config, split)
    path = cache.path(config, split, source)
    dataset = cache.read(path) if path else None
    if dataset is None:
        images, labels, captions = source.read(config, split, n)
        assert images.shape == (n, config.channels, height, width), images.shape
        value = content_fingerprint(images, labels, captions)
        dataset = Dataset(config.name, split, images, labels, source.classes(config), captions, value)
        if path:
            cache.write(path, dataset)
    return dataset


def fingerprint(config: DataConfig, split: Split) -> str:
    """`load(config, split).fingerprint`, without decoding when these very files were loaded before."""
    n_records(config, split)  # a wrong split or limit is reported before missing files
    path = cache.path(config, split, _source(config))
    return (cache.read_fingerprint(path) if path else None) or load(config, split).fingerprint


def n_records(config: DataConfig, split: Split) -> int:
    """Records that `load` returns. Raises UserError for a split the set does not have, or a limit beyond it."""
    if split not in get_args(Split):
        raise UserError(f"split={split!r} is not offered: use one of {', '.join(get_args(Split))}.")
    available = _source(config).count(config, split)
    if config.limit is None:
        return available
    if not 1 <= config.limit <= available:
        raise UserError(
            f"data.limit={config.limit} is outside the {available} {split} records of {config.name}: "
            f"use 1 to {available}, or null for all."
        )
    return config.limit


def shape(config: DataConfig) -> tuple[int, int, int]:
    """C, H, W of every image."""
    return _source(config).shape(config)


def n_classes(config: DataConfig) -> int:
    """Number of labels (some may be absent from a small split)."""
    return len(_source(config).classes(config))


def has_captions(config: DataConfig) -> bool:
    """Whether `load(config, split).captions` is not None."""
    return _source(config).has_captions(config)


def _source(config: DataConfig) -> Source:
    if config.name not in SOURCES:
        raise UserError(f"data.name={config.name!r} is not a dataset: use one of {', '.join(SOURCES)}.")
    if config.split == "dpimagebench" and config.name != "fashion_mnist":
        raise UserError(f"data.split=dpimagebench is not defined for {config.name}: use data.split=official.")
    return SOURCES[config.name]

"""A dataset of other datasets of the same size and channels: more public images, of more kinds, under one name.

    parts: {openclipart: 6000, icons: 20000, photographs: null}    the first records of each; null: all of them
    parts: {openclipart: 0.3, icons: 0.7}                          shares of the mixture, as large as the parts allow

A part is the name of a dataset, `package.module:Object`, or the whole path of a folder of images or of a decoded file
(wavedp.data.folder, wavedp.data.decoded). Size, channels, home and cache are the mixture's, and so is every other field
that a part reads. A part whose records are counted gives the same share of its other splits as of its train split.

Records are interleaved: whatever `limit` keeps, each part has its share of it to within one record. Labels are the
parts' own, as `part/class`, or the part's name where it has one class. A record of a part without captions has its
class name for one, if another part has captions.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from wavedp import data  # this package, which imports this module: its functions are used once it is complete
from wavedp.config import DataConfig
from wavedp.data import decoded
from wavedp.data.dataset import Records, Split, square_shape
from wavedp.errors import UserError

DIVISIONS = ("official", "public")
"""`public` is handed to the parts that define it."""
OWN = ("parts", "names", "words", "per_name", "named_share")
READS = ("parts",)


def shape(config: DataConfig) -> tuple[int, int, int]:
    """C, H, W, which every part must have."""
    wanted = square_shape(config)
    for name, part in parts(config).items():
        if data.shape(part) != wanted:
            raise UserError(
                f"the part {name} has images of {data.shape(part)} (C, H, W) where the others have {wanted}: leave it "
                "out, or set data.size and data.channels."
            )
    return wanted


def classes(config: DataConfig) -> tuple[str, ...]:
    """`part/class` for each class of each part; the part's name for a part of one class."""
    names = [name for label, part in _labelled(config) for name in _classes(label, part)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"two parts of the mixture have a class {twice}: rename one of their folders.")
    return tuple(names)


def has_captions(config: DataConfig) -> bool:
    """True if a part has captions."""
    return any(data.has_captions(part) for part in parts(config).values())


def count(config: DataConfig, split: Split) -> int:
    """Records of all parts. Raises UserError for a split that a part lacks, or more records than it has."""
    shape(config)  # a part of another size is reported before missing files
    return sum(counts(config, split))


def files(config: DataConfig) -> list[Path]:
    """Every file of every part."""
    return list(dict.fromkeys(file for part in parts(config).values() for file in data.files(part)))


def record_files(config: DataConfig, split: Split) -> list[Path | None]:
    """The file of each record, None for one of a part whose records have none."""
    order = interleaved(counts(config, split))
    found: list[list[Path | None]] = [list(data.record_files(part, split)) for part in parts(config).values()]
    return [found[k][i] if found[k] else None for k, i in order.tolist()] if any(found) else []


def licences(config: DataConfig, split: Split) -> list[str]:
    """The licence of each record: its own where its part says one for each, otherwise the part's."""
    order, found = interleaved(counts(config, split)), []
    for part in parts(config).values():
        found.append(data.licences(part, split) or [data.licence(part)] * data.n_records(part, split))
    return [found[k][i] for k, i in order.tolist()]


def content(config: DataConfig, split: Split) -> list[Any]:
    """What a decoded copy of the records depends on: the parts' records and their classes' names."""
    limited = _limited(config, split, config.limit)
    return [[data.fingerprint(part, split), data.class_names(part)] for part, n in limited if n]


def licence(config: DataConfig) -> str:
    """The licences of the parts."""
    return "; ".join(f"{label}: {data.licence(part)}" for label, part in _labelled(config))


def read(config: DataConfig, split: Split, n: int) -> Records:
    """The first n records, each part read through wavedp.data."""
    order = interleaved(counts(config, split))[:n]
    images = np.empty((n, *shape(config)), np.uint8)
    labels = np.empty(n, np.int64)
    captions: list[str] | None = [""] * n if has_captions(config) else None
    first = 0
    for number, (part, taken) in enumerate(_limited(config, split, n)):
        names = data.class_names(part)
        if taken:
            places = np.flatnonzero(order[:, 0] == number)
            loaded = data.load(part, split)
            images[places], labels[places] = loaded.images, loaded.labels + first
            if captions is not None:
                own = loaded.captions or [names[label] for label in loaded.labels]
                for place, caption in zip(places.tolist(), own, strict=True):
                    captions[place] = caption
        first += len(names)
    return images, labels, None if captions is None else tuple(captions)


def interleaved(lengths: Sequence[int]) -> np.ndarray:
    """The order of several lists' records, int64 [sum 2]: list, place in that list. Record i of a list of n is at
    (i + 1/2) / n of the way, so that every prefix has its share of each list to within one record."""
    numbers = np.repeat(np.arange(len(lengths)), lengths)
    places = np.concatenate([np.arange(n) for n in lengths])
    way = (places + 0.5) / np.repeat(np.asarray(lengths, np.float64), lengths)
    order = np.lexsort((numbers, way))
    return np.stack([numbers, places], axis=1)[order].astype(np.int64)


def parts(config: DataConfig) -> dict[str, DataConfig]:
    """The config of each part, by its name or path."""
    if not config.parts:
        raise UserError(f"data.name={config.name} has no parts: name some, such as parts={{openclipart: 6000}}.")
    return {name: _part(config, name) for name, _ in config.parts}


def _part(config: DataConfig, given: str) -> DataConfig:
    name, path = given, None
    if "/" in given or os.sep in given:
        name, path = "decoded" if given.endswith(decoded.SUFFIX) else "folder", os.path.expanduser(given)
        if not os.path.isabs(path):
            raise UserError(f"the part {given} is no whole path: write it from the root, or from ~.")
    known = getattr(data.source_of(name), "DIVISIONS", ("official",))
    plain: dict[str, Any] = {
        item.name: item.default for item in fields(config) if item.name in (*OWN, "limit", "duplicates")
    }
    division: Any = config.split if config.split in known else "official"
    return replace(config, **plain, name=name, path=path, split=division)


def _labelled(config: DataConfig) -> list[tuple[str, DataConfig]]:
    """Each part with the name that its labels begin with."""
    labels = [part.name if part.path is None else Path(part.path).name for part in parts(config).values()]
    return [
        (label.removesuffix(decoded.SUFFIX), part) for label, part in zip(labels, parts(config).values(), strict=True)
    ]


def _classes(label: str, part: DataConfig) -> list[str]:
    names = data.class_names(part)
    return [label] if len(names) == 1 else [f"{label}/{name}" for name in names]


def counts(config: DataConfig, split: Split) -> list[int]:
    """Records of each part."""
    named = parts(config)
    there = [data.n_records(part, split) for part in named.values()]
    sizes = [size for _, size in config.parts]
    shares = [size for size in sizes if size is not None and size < 1]
    if shares and len(shares) < len(sizes):
        raise UserError(
            f"data.parts={dict(config.parts)} has shares and numbers of records: give shares below 1, or numbers."
        )
    if shares:
        whole = min(n / share for n, share in zip(there, shares, strict=True))
        return [max(1, math.floor(whole * share + 1e-9)) for share in shares]
    found = []
    for name, part, size, n in zip(named, named.values(), sizes, there, strict=True):
        of_train = n if split == "train" or size is None else data.n_records(part, "train")
        if size is not None and size > of_train:
            raise UserError(
                f"data.parts asks for {size} records of {name}, whose train split has {of_train}: use up to "
                f"{of_train}, or null for all."
            )
        found.append(n if size is None else max(1, round(n * size / of_train)))
    return found


def _limited(config: DataConfig, split: Split, n: int | None) -> list[tuple[DataConfig, int]]:
    """Each part as it is loaded for the first n records, and how many of its own they are. A whole part has no limit,
    so that its decoded copy is the one that the dataset alone has."""
    whole = counts(config, split)
    taken = np.bincount(interleaved(whole)[:n, 0], minlength=len(whole)).tolist()
    return [
        (part if k == data.n_records(part, split) else replace(part, limit=k or None), k)
        for part, k in zip(parts(config).values(), taken, strict=True)
    ]

"""Public images chosen by the names of the private classes, so that public pretraining gives each class a meaning.

Names of classes are public: nothing here sees a sensitive image, and no ε is spent. The records of a mixture
(wavedp.data.mixture) whose captions come nearest to a name (wavedp.data.nearest) are relabelled as that class. All
records of the parts are sought through, also those beyond the number that the mixture takes.

    labels     first `names`, in their order; then the mixture's own classes, for all other records
    records    the mixture's, without those chosen; and the chosen ones, the classes in turn, repeated so often that
               `named_share` of all records is theirs. A repetition is another variant of its picture where the part
               draws variants (data.variants of icons and emoji), the same picture otherwise

data.names is taken from the trial's data where it is empty (wavedp.methods.canonical). data.words says other words for
names that the encoder or the captions do not know: {Pullover: sweater/hoodie}.

PrivImage (Li et al., USENIX Security 2024) chooses public images by a private query of the sensitive ones instead.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from wavedp import data  # this package, which imports this module: its functions are used once it is complete
from wavedp.config import DataConfig
from wavedp.data import cache, mixture, nearest
from wavedp.data.dataset import Records, Split
from wavedp.errors import UserError

DIVISIONS = mixture.DIVISIONS
READS = ("parts", "names", "words")


def shape(config: DataConfig) -> tuple[int, int, int]:
    """C, H, W, which every part must have."""
    return mixture.shape(config)


def classes(config: DataConfig) -> tuple[str, ...]:
    """The names, then the mixture's classes. Raises UserError without names."""
    if not config.names:
        raise UserError(
            "data.name=chosen has no names to choose by: give data.names, or use it as a trial's public images, where "
            "they are those of the trial's data."
        )
    others = mixture.classes(config)
    both = next((name for name in config.names if name in others), None)
    if both:
        raise UserError(f"{both} is a name to choose by and a class of the mixture: leave that part out.")
    return (*config.names, *others)


def has_captions(config: DataConfig) -> bool:
    """True. Raises UserError if no part has captions to choose by."""
    if not mixture.has_captions(config):
        raise UserError("no part of public=chosen has captions, which are what it chooses by: add one that has.")
    return True


def count(config: DataConfig, split: Split) -> int:
    """The mixture's records over 1 - named_share, chosen records included. Whatever is chosen, there are as many."""
    if config.duplicates == "merge":
        raise UserError("data.duplicates=merge would take out what public=chosen repeats: leave it out.")
    return round(mixture.count(config, split) / (1 - config.named_share))


def files(config: DataConfig) -> list[Path]:
    """Every file of every part."""
    return mixture.files(config)


def licence(config: DataConfig) -> str:
    """The licences of the parts."""
    return mixture.licence(config)


def licences(config: DataConfig, split: Split) -> list[str]:
    """The licence of each record."""
    of_parts = []
    for part in mixture.parts(config).values():
        of_parts.append(data.licences(part, split) or [data.licence(part)] * data.n_records(part, split))
    return [of_parts[k][i] for k, i, _ in _order(config, split).tolist()]


def content(config: DataConfig, split: Split) -> list[Any]:
    """What a decoded copy of the records depends on: the encoder, and every record that can be chosen."""
    found: list[Any] = [nearest.encoder()]
    for part in mixture.parts(config).values():
        drawn = data.picks(part)  # its code is in this package, and all of its records are not decoded to name them
        found.append(list(map(cache.stamp, data.files(part))) if drawn else data.fingerprint(part, split))
        found.append(data.class_names(part))
    return found


def record_files(config: DataConfig, split: Split) -> list[Path | None]:
    """The file of each record."""
    of_parts = [data.record_files(part, split) for part in mixture.parts(config).values()]
    order = _order(config, split)
    return [of_parts[k][i] if of_parts[k] else None for k, i, _ in order.tolist()] if any(of_parts) else []


def read(config: DataConfig, split: Split, n: int) -> Records:
    """The first n records, named and other ones interleaved. Raises UserError where the encoder is not installed."""
    order = _order(config, split)[:n]
    images = np.empty((n, *shape(config)), np.uint8)
    labels = np.empty(n, np.int64)
    captions = [""] * n
    first = len(config.names)
    for number, part in enumerate(mixture.parts(config).values()):
        names = data.class_names(part)
        rows = np.flatnonzero(order[:, 0] == number)
        if len(rows):
            places, which = np.unique(order[rows, 1], return_inverse=True)
            pixels, own, said = data.pick(part, split, places.tolist())
            images[rows], labels[rows] = pixels[which], own[which] + first
            for row, i in zip(rows.tolist(), which.tolist(), strict=True):
                captions[row] = said[i] if said else names[own[i]]
        first += len(names)
    named = order[:, 2] >= 0
    labels[named] = order[named, 2]
    return images, labels, tuple(captions)


def chosen(config: DataConfig, split: Split) -> list[list[tuple[int, int, float]]]:
    """For each name its different records: number of the part, place there, cosine with the name."""
    classes(config)
    has_captions(config)
    every = list(mixture.parts(config).values())
    captions = [data.captions(replace(part, variants=1), split) for part in every]
    places = [(number, place) for number, of_part in enumerate(captions) for place in range(len(of_part))]
    whole = len(places)
    if split != "train":
        whole = sum(data.n_records(replace(part, variants=1), "train") for part in every)
    per_name = max(1, round(config.per_name * len(places) / whole))
    sought = [dict(config.words).get(name, name) for name in config.names]
    shown = [caption for of_part in captions for caption in of_part]
    digest = hashlib.sha256(json.dumps([shown, nearest.encoder()]).encode()).hexdigest()
    about = ["chosen", sought, per_name, digest]
    found = cache.remember(config, about, nearest.choose, sought, shown, per_name, config)
    return [
        [(*places[record], cosine) for record, cosine in zip(records, cosines, strict=True)]
        for records, cosines in zip(found["records"], found["cosines"], strict=True)
    ]


@lru_cache(maxsize=8)
def _order(config: DataConfig, split: Split) -> np.ndarray:
    """Each record's part, place there and name, -1 for one with a label of its own: int64 [B 3]."""
    pictures, variants = zip(*(_variants(part, split) for part in mixture.parts(config).values()), strict=True)
    found = [[(part, place) for part, place, _ in group] for group in chosen(config, split)]
    taken = {each for group in found for each in group}
    others = [
        (part, place, -1)
        for part, place in mixture.interleaved(mixture.counts(config, split)).tolist()
        if (part, place % pictures[part]) not in taken
    ]
    named = []
    for i in range(count(config, split) - len(others)):
        turn, name = divmod(i, len(found))
        again, place = divmod(turn, len(found[name]))
        part, picture = found[name][place]
        named.append((part, picture + again % variants[part] * pictures[part], name))
    rows = [named, others]
    return np.array([rows[kind][i] for kind, i in mixture.interleaved([len(named), len(others)]).tolist()], np.int64)


def _variants(part: DataConfig, split: Split) -> tuple[int, int]:
    """Different pictures of a part, and how many variants of each it draws; those of one number lie together."""
    pictures = data.n_records(replace(part, variants=1), split)
    return pictures, data.n_records(part, split) // pictures

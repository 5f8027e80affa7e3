"""Datasets behind one protocol: `load(config, split)` gives images, labels, captions and a fingerprint of the content.

    fashion_mnist  60,000 and 10,000 grey garments, 28x28 (or padded to 32x32)
    openclipart    public-domain drawings for public pretraining, rendered at any size
    icons          133,000 named vector pictures under permissive licences, drawn with light and texture at any size
    emoji          1,900 shaded colour pictures, at any size
    photographs    crops of twelve photographs, for super-resolution at any size
    avatars        drawn faces at any size, each with ten captions
    procedural     computed shapes and textures of any size; needs no file
    lsun           scenes as published, one lmdb a category and split, or a folder of images
    webdataset     the user's own images in .tar shards
    mm_celeba_hq   30,000 faces with ten captions each       the user's copy, in the layout that its authors give it:
    coco           photographs with five captions or more    `python -m wavedp.data.get NAME` says where to obtain it
    celeba         202,599 faces, one attribute as the label
    cifar10        60,000 small photographs in ten classes
    folder         the user's own images in class folders (torchvision's ImageFolder)
    mixture        parts of other datasets, interleaved
    chosen         a mixture in which the nearest images to the names of the private classes bear these names
    decoded        one file that `from_arrays` or `python -m wavedp.data.export NAME --decoded FILE` wrote

Datasets outside this package are found by an entry point of the group `wavedp.datasets` (its name is the dataset's
name), or by `data.name=package.module:Object`; see `source_of`. If the files of a dataset are missing, a decoded file
of it in the home stands in for them (wavedp.data.decoded); without one, facts that came with a public model answer for
all but the images (wavedp.data.facts).

Decoded records are kept in `data.cache` (`<home>/decoded`), one file for each split and setting, named by the identity
of the files they come from. So the second `load` decodes nothing, and `fingerprint` reads a few bytes. That includes
copies of the images of a `folder` dataset, readable by their owner alone: delete the folder to remove them, and set
data.cache=off to keep none.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache as memoized
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np

from wavedp import errors
from wavedp.config import DataConfig
from wavedp.data import (
    avatars,
    cache,
    celeba,
    chosen,
    cifar10,
    coco,
    decoded,
    emoji,
    facts,
    fashion_mnist,
    folder,
    icons,
    lsun,
    mixture,
    mm_celeba_hq,
    openclipart,
    photographs,
    procedural,
    records,
    webdataset,
)
from wavedp.data.arrays import from_arrays
from wavedp.data.dataset import Dataset, Records, Source, Split, content_fingerprint, is_large, ranges
from wavedp.errors import UserError

__all__ = [
    "Dataset",
    "Source",
    "Split",
    "captions",
    "class_names",
    "content_fingerprint",
    "files",
    "fingerprint",
    "from_arrays",
    "has_captions",
    "has_images",
    "is_stored",
    "known_marks",
    "licence",
    "licences",
    "load",
    "n_classes",
    "n_records",
    "pick",
    "picks",
    "prompts",
    "ranges",
    "record_files",
    "repeats",
    "require_images",
    "shape",
    "source_of",
    "splits",
]

SOURCES: dict[str, Source] = {
    "fashion_mnist": fashion_mnist,
    "openclipart": openclipart,
    "icons": icons,
    "emoji": emoji,
    "photographs": photographs,
    "avatars": avatars,
    "procedural": procedural,
    "mm_celeba_hq": mm_celeba_hq.MMCelebAHQ(),
    "coco": coco.Coco(),
    "celeba": celeba.CelebA(),
    "cifar10": cifar10,
    "lsun": lsun,
    "webdataset": webdataset,
    "folder": folder,
    "mixture": mixture,
    "chosen": chosen,
    "decoded": decoded,
}
GROUP = "wavedp.datasets"
MIXED = ("parts", "names", "words", "attribute")  # fields that few sources read, which say so in READS
ANSWERS = ("shape", "classes", "count", "has_captions", "files", "read")  # the methods of Source

T = TypeVar("T")


def source_of(name: str) -> Source:
    """The source of a dataset, by its name.

    name: a built-in one, else the name of an entry point of the group `wavedp.datasets`, else `package.module:Object`.
    The object is a module or an object with the methods of `Source`; a class is called without arguments.
    Raises UserError for an unknown name, for an object that cannot be imported, and for one that lacks a method.
    """
    if name in SOURCES:
        return SOURCES[name]
    points = _entry_points()
    if name in points:
        return _imported(points[name].value)
    if ":" in name:
        return _imported(name)
    known = errors.nearest(name, [*SOURCES, *points], other="package.module:Object")
    raise UserError(f"data.name={name!r} is not a dataset: {known}")


def load(config: DataConfig, split: Split) -> Dataset:
    """Read one split. Raises UserError for an impossible config, missing or unreadable files."""
    found = _answer(config, lambda asked: _load(asked, split))
    return dataclasses.replace(found, name=config.name, fingerprint=_named(config, split, found.fingerprint))


def fingerprint(config: DataConfig, split: Split) -> str:
    """`load(config, split).fingerprint`, without decoding when these very files were loaded before."""
    return _named(config, split, _answer(config, lambda asked: _fingerprint(asked, split)))


def n_records(config: DataConfig, split: Split) -> int:
    """Records that `load` returns. Raises UserError for a split that the set lacks, or a limit beyond it."""
    if config.duplicates == "merge" and has_images(config):
        return len(load(config, split).labels)
    return _answer(config, lambda asked: _n_records(asked, split))


def splits(config: DataConfig) -> list[Split]:
    """The splits that the set has. Raises UserError if it has none."""
    found: list[Split] = []
    refusals = []
    for split in get_args(Split):
        try:
            n_records(config, split)
        except UserError as error:
            refusals.append(error)
        else:
            found.append(split)
    if not found:
        raise refusals[0]
    return found


def files(config: DataConfig) -> list[Path]:
    """Every file on which the records depend."""
    return _answer(config, lambda asked: _source(asked).files(asked))


def record_files(config: DataConfig, split: Split) -> list[Path | None]:
    """The file of each record that `load` returns, None for one without a file of its own; an empty list where all are
    without."""
    found = _answer(config, lambda asked: _record_files(asked, split))
    if found and config.duplicates == "merge" and has_images(config):
        whole = load(dataclasses.replace(config, duplicates="refuse"), split)
        return [found[i] for i in records.first_of_each(whole.images)]
    return found


def captions(config: DataConfig, split: Split) -> list[str]:
    """The caption of each record that `load` returns, or its class's name where it has none."""
    return _answer(config, lambda asked: _captions(asked, split))


def prompts(config: DataConfig) -> list[str]:
    """Public sentences like the captions of a dataset that are made of none of its records, where it has some; an empty
    list where it has none."""
    tell = getattr(_source(config), "prompts", None)
    return tell(config) if tell else []


def picks(config: DataConfig) -> bool:
    """True if `pick` decodes the records that it is asked for, and no others."""
    return callable(getattr(source_of(config.name), "pick", None))


def pick(config: DataConfig, split: Split, places: Sequence[int]) -> Records:
    """The records at these places of what `load` returns."""
    return _answer(config, lambda asked: _pick(asked, split, places))


def repeats(config: DataConfig, split: Split) -> records.Repeats:
    """How many records of a split are equal to another."""
    found = cache.remember(config, ["repeats", fingerprint(config, split)], _repeats, config, split)
    return records.Repeats(**found)


def known_marks(config: DataConfig, split: Split) -> list[list[bytes]] | None:
    """Short hashes of every record where only facts are known (wavedp.data.facts.marks); None if images are here."""
    stand_in = None if has_images(config) else facts.find(config)
    try:
        return None if stand_in is None else facts.marks(stand_in, split)
    except UserError:  # they know other splits only
        require_images(config)
        raise


def has_images(config: DataConfig) -> bool:
    """True if `load` would find the images here, False if there is nothing of them, or only facts."""
    try:
        require_images(config)
    except UserError:
        return False
    return True


def require_images(config: DataConfig) -> None:
    """Raises UserError, with the command that fetches them, unless the images are here."""
    try:
        _source(config).files(config)
    except UserError:
        if decoded.find(config) is None:
            raise


def is_stored(config: DataConfig) -> bool:
    """True if the records come from files, False if they are computed."""
    return bool(files(config))


def shape(config: DataConfig) -> tuple[int, int, int]:
    """C, H, W of every image."""
    return _answer(config, lambda asked: _source(asked).shape(asked))


def n_classes(config: DataConfig) -> int:
    """Number of labels (a small split may lack some)."""
    return len(class_names(config))


def class_names(config: DataConfig) -> tuple[str, ...]:
    """Names of the labels, in label order."""
    return _answer(config, lambda asked: _source(asked).classes(asked))


def licence(config: DataConfig) -> str:
    """The images' licence, and who says so, where the dataset states one (`licence(config)` or LICENCE)."""
    source = source_of(config.name)
    return source.licence(config) if hasattr(source, "licence") else getattr(source, "LICENCE", "not stated")


def licences(config: DataConfig, split: Split) -> list[str]:
    """The licence of each record that `load` returns, as an SPDX id where the dataset knows one for each; otherwise an
    empty list."""
    found = _answer(config, lambda asked: _licences(asked, split))
    if found and config.duplicates == "merge":
        whole = load(dataclasses.replace(config, duplicates="refuse"), split)
        return [found[i] for i in records.first_of_each(whole.images)]
    return found


def has_captions(config: DataConfig) -> bool:
    """True if `load(config, split).captions` is not None."""
    return _answer(config, lambda asked: _source(asked).has_captions(asked))


def _answer(config: DataConfig, ask: Callable[[DataConfig], T]) -> T:
    """`ask(config)`; if its files are missing, `ask` of the decoded file, or the facts, that stand in for them. What
    facts do not say is missing like the files."""
    try:
        return ask(config)
    except UserError as missing:
        stand_in = _stand_in(config)
        if stand_in is None:
            raise
        try:
            return ask(stand_in)
        except UserError as error:
            raise (missing if stand_in.name == facts.NAME else error) from None


def _stand_in(config: DataConfig) -> DataConfig | None:
    """The config of a decoded file of this dataset, or of facts about it; None if it has its own files, or there is no
    such file.

    A dataset of a package that is not installed here counts as one whose files are missing.
    """
    try:
        _source(config).files(config)
    except UserError:
        file = decoded.find(config)
        if file is not None:
            return dataclasses.replace(config, name="decoded", split="official", path=str(file))
        return facts.find(config)
    return None


def _load(config: DataConfig, split: Split) -> Dataset:
    source = _source(config)
    chw = source.shape(config)  # an impossible size is reported before missing files
    n, classes = _n_records(config, split), source.classes(config)
    path = _cache_path(config, split, source)
    found = cache.read(path) if path else None
    if found is not None:
        return found
    shape = (n, *chw)
    parts = partial(_parts, source, config, split, shape)
    if config.duplicates == "merge":
        whole = _load(dataclasses.replace(config, duplicates="refuse"), split)
        kept = records.first_of_each(whole.images)
        shape, parts = (len(kept), *shape[1:]), partial(_rows, whole, kept)
    about = {"name": config.name, "split": split, "classes": classes}
    if path:
        cache.write(path, about, shape, parts)
        found = cache.read(path)
    elif is_large(shape) and _streams(source):
        found = cache.nameless(config, about, shape, parts)
    return found or _held(config.name, split, classes, shape, list(parts()))


def _parts(source: Source, config: DataConfig, split: Split, shape: tuple[int, ...]) -> Iterator[Records]:
    """The records in order; all at once where they are few, or the source can only read them all."""
    n, *chw = shape
    several = list(ranges(n, tuple(chw)))
    if len(several) == 1 or not _streams(source):
        yield source.read(config, split, n)
        return
    picker = source.picker(config, split) if hasattr(source, "picker") else partial(source.pick, config, split)  # type: ignore[attr-defined]
    for places in several:
        yield picker(places)


def _streams(source: Source) -> bool:
    """Whether it can give some records alone."""
    return hasattr(source, "picker") or hasattr(source, "pick")


def _rows(whole: Dataset, rows: np.ndarray) -> Iterator[Records]:
    """Those records of a dataset, in parts."""
    for places in ranges(len(rows), whole.images.shape[1:]):
        chosen = rows[places.start : places.stop]
        captions = None if whole.captions is None else tuple(whole.captions[i] for i in chosen)
        yield whole.images[chosen], whole.labels[chosen], captions


def _held(name: str, split: Split, classes: tuple[str, ...], shape: tuple[int, ...], parts: list[Records]) -> Dataset:
    """The records in memory."""
    images, labels = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    captions = None if parts[0][2] is None else tuple(caption for part in parts for caption in part[2] or ())
    assert images.shape == shape, (images.shape, shape)
    return Dataset(name, split, images, labels, classes, captions, content_fingerprint(images, labels, captions))


def _fingerprint(config: DataConfig, split: Split) -> str:
    _n_records(config, split)  # a wrong split or limit is reported before missing files
    source = _source(config)
    if source is decoded and _is_whole(config):
        return decoded.recorded_fingerprint(config, split)
    if config.name == facts.NAME:
        return facts.recorded_fingerprint(config, split)
    path = _cache_path(config, split, source)
    return (cache.read_fingerprint(path) if path else None) or _load(config, split).fingerprint


def _named(config: DataConfig, split: Split, own: str) -> str:
    """The recorded fingerprint where facts of this dataset are known and its images are theirs but for rounding, or
    else its own."""
    known = facts.find(config)
    try:
        recorded = own if known is None else facts.recorded_fingerprint(known, split)
    except UserError:  # they know other splits only
        return own
    if known is None or recorded == own:
        return own
    found = cache.remember(config, ["but for rounding", own, recorded], _is_but_for_rounding, config, known, split)
    return recorded if found["same"] else own


def _is_but_for_rounding(config: DataConfig, known: DataConfig, split: Split) -> dict[str, bool]:
    images = _answer(config, lambda asked: _load(asked, split)).images
    return {"same": facts.but_for_rounding(known, split, images, record_files(config, split))}


def _n_records(config: DataConfig, split: Split) -> int:
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


def _cache_path(config: DataConfig, split: Split, source: Source) -> Path | None:
    """The place of decoded records; None for a whole decoded file, which is such a copy itself, unless memory need not
    hold it."""
    if source is decoded and _is_whole(config) and not is_large((source.count(config, split), *source.shape(config))):
        return None
    return cache.path(config, split, source)


def _is_whole(config: DataConfig) -> bool:
    return config.limit is None and config.duplicates != "merge"


def _record_files(config: DataConfig, split: Split) -> list[Path | None]:
    list_files = getattr(_source(config), "record_files", None)
    return list_files(config, split)[: config.limit] if list_files else []


def _captions(config: DataConfig, split: Split) -> list[str]:
    tell = getattr(_source(config), "captions", None)
    if tell:
        return tell(config, split)[: config.limit]
    loaded = _load(config, split)
    return list(loaded.captions or (loaded.classes[label] for label in loaded.labels))


def _pick(config: DataConfig, split: Split, places: Sequence[int]) -> Records:
    some = getattr(_source(config), "pick", None)
    if some:
        return some(config, split, places)
    loaded = _load(config, split)
    rows = np.asarray(places, np.int64)
    said = None if loaded.captions is None else tuple(loaded.captions[i] for i in places)
    return loaded.images[rows], loaded.labels[rows], said


def _licences(config: DataConfig, split: Split) -> list[str]:
    list_licences = getattr(_source(config), "licences", None)
    return list_licences(config, split)[: config.limit] if list_licences else []


def _repeats(config: DataConfig, split: Split) -> dict[str, Any]:
    return dataclasses.asdict(records.repeats(load(config, split).images))


def _source(config: DataConfig) -> Source:
    source = facts if config.name == facts.NAME else source_of(config.name)
    for field in MIXED:  # a decoded file, and facts, keep those of the dataset that it was
        if getattr(config, field) and source not in (decoded, facts) and field not in getattr(source, "READS", ()):
            readers = [name for name, other in SOURCES.items() if field in getattr(other, "READS", ())]
            raise UserError(f"data.{field} is not read by {config.name}: use {' or '.join(readers)}, or leave it out.")
    if config.split not in getattr(source, "DIVISIONS", ("official",)):
        raise UserError(f"data.split={config.split} is not defined for {config.name}: use data.split=official.")
    return source


@memoized
def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


@memoized
def _imported(reference: str) -> Source:
    """The source at `package.module` or `package.module:Object`."""
    module, _, attributes = reference.partition(":")
    try:
        found = importlib.import_module(module)
        for attribute in filter(None, attributes.split(".")):
            found = getattr(found, attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"dataset {reference} cannot be imported ({error}): install its package, or mend the name."
        ) from error
    source = found() if isinstance(found, type) else found
    lacking = [answer for answer in ANSWERS if not callable(getattr(source, answer, None))]
    if lacking:
        raise UserError(f"dataset {reference} lacks {', '.join(lacking)}: give it the methods of wavedp.data.Source.")
    return source  # type: ignore[return-value]

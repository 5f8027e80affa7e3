"""Images in tar files, a shard each, in the form of the package webdataset.

    path/train/*.tar  path/test/*.tar  [path/val/...]         a split by its folder,
    path/train-000000.tar  path/val-000000.tar                or by a word of the shards' names (wavedp.data.layout)
    path/*.tar                                                undivided: a tenth, chosen by name, becomes test
    path/classnames.txt                                       names of the classes, one a line; without it: 0, 1, ...

Members of a shard with one name up to the first dot are a record:

    .jpg .png .webp ...     the image; exactly one
    .cls                    its class, an integer from 0
    .txt, .json             its captions: the lines of the text, or the JSON's `caption`, a string or a list of them;
                            the text counts where there are both

Every record has a class, or none has; the same for captions. Other members are ignored. The centre of the long edge is
resized by Lanczos. Records are in the order of the hashes of their names. Shards are not compressed.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from wavedp.config import DataConfig
from wavedp.data import cache, layout, picture
from wavedp.data.dataset import TEST_SHARE, Records, Split, position, square_shape
from wavedp.errors import UserError

NAMES = "classnames.txt"
IMAGES = frozenset(suffix[1:] for suffix in picture.SUFFIXES)
WORDS = ("cls", "txt", "json")
BLOCK = 512
UNCLASSIFIED = "image"

shape = square_shape


class Member(NamedTuple):
    """Where a file's bytes lie in a shard."""

    name: str
    start: int
    size: int


class Record(NamedTuple):
    """label: None where it has no class. said: captions, one a line."""

    shard: Path
    key: str
    image: Member
    label: int | None
    said: str | None


def classes(config: DataConfig) -> tuple[str, ...]:
    """The lines of classnames.txt, or the numbers up to the largest; only `image` where records have no class."""
    labels = [record.label for record in _shown(config) if record.label is not None]
    if not labels:
        return (UNCLASSIFIED,)
    file = _root(config) / NAMES
    if not file.is_file():
        return tuple(map(str, range(max(labels) + 1)))
    try:
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as UTF-8 ({error}): replace or remove it.") from error
    if len(names) <= max(labels):
        raise UserError(f"{file} names {len(names)} classes and a record is of class {max(labels)}: name every class.")
    return names


def count(config: DataConfig, split: Split) -> int:
    """Raises UserError for a split that is absent or empty."""
    return len(_records(config, split))


def has_captions(config: DataConfig) -> bool:
    """True if the records have texts."""
    return _shown(config)[0].said is not None


def files(config: DataConfig) -> list[Path]:
    """Every shard, and the names of the classes."""
    found = [shard for shards in _shards(config).values() for shard in shards]
    names = _root(config) / NAMES
    return [*dict.fromkeys(found), *([names] if names.is_file() else [])]


def captions(config: DataConfig, split: Split) -> list[str]:
    """The captions of each record, or its class's name."""
    names = classes(config)
    return [names[record.label or 0] if record.said is None else record.said for record in _records(config, split)]


def read(config: DataConfig, split: Split, n: int) -> Records:
    """The first n records."""
    return pick(config, split, range(n))


def pick(config: DataConfig, split: Split, places: Sequence[int]) -> Records:
    """The records at these places. Raises UserError naming an image that cannot be read."""
    records, known = _records(config, split), len(classes(config))
    chosen = [records[place] for place in places]
    for record in chosen:
        if (record.label or 0) >= known:
            raise UserError(
                f"{record.shard}: {record.key} is of class {record.label}, which train lacks: name it in {NAMES}."
            )
    images = np.empty((len(chosen), *shape(config)), np.uint8)
    opened: dict[Path, IO[bytes]] = {}
    with ExitStack() as stack:
        for row, record in enumerate(chosen):
            if record.shard not in opened:
                opened[record.shard] = stack.enter_context(open(record.shard, "rb"))
            content, name = _content(opened[record.shard], record.image), f"{record.shard}: {record.image.name}"
            loaded = picture.load(io.BytesIO(content), config.channels, name=name)
            images[row] = picture.pixels(picture.square(loaded, config.size))
    labels = np.array([record.label or 0 for record in chosen], np.int64)
    said = [record.said for record in chosen if record.said is not None]
    return images, labels, tuple(said) if said else None


def _root(config: DataConfig) -> Path:
    if config.path is None:
        raise UserError("data.name=webdataset needs data.path: give the folder that holds the .tar shards.")
    root = Path(config.path)
    if not root.is_dir():
        raise UserError(f"data.path={config.path} is not a folder: give the one that holds the .tar shards.")
    return root


def _shards(config: DataConfig) -> dict[Split, list[Path]]:
    """The shards of each split; an undivided set has the same for train and test. Raises UserError for shards of which
    only some say their split."""
    root = _root(config)
    every = sorted(path for path in root.glob("**/*.tar") if not path.name.startswith("."))
    if not every:
        packed = next(root.glob("**/*.tar.*"), None) or next(root.glob("**/*.tgz"), None)
        raise UserError(
            f"{packed} is compressed: unpack it to .tar, so that a record can be read alone."
            if packed
            else f"{root} holds no .tar shard: give the folder that holds them."
        )
    found: dict[Split, list[Path]] = {}
    unsaid: list[Path] = []
    for shard in every:
        said = {layout.NAMES[word] for word in _words(shard.relative_to(root)) if word in layout.NAMES}
        if len(said) > 1:
            raise UserError(f"{shard} is of {' and '.join(sorted(said))} by its name: rename it.")
        (found.setdefault(said.pop(), []) if said else unsaid).append(shard)
    if not found:
        return {"train": every, "test": every}
    if unsaid:
        raise UserError(f"{unsaid[0]} says no split and {found[min(found)][0]} does: name all by split, or none.")
    if "train" not in found:
        raise UserError(f"{root} has {' and '.join(sorted(found))} shards and none of train: add some.")
    if "val" in found and "test" not in found:
        found["test"] = found["val"]
    return {split: found[split] for split in ("train", "val", "test") if split in found}  # type: ignore[index, misc]


def _words(path: Path) -> list[str]:
    return re.split(r"[^a-z]+", path.with_suffix("").as_posix().lower())


def _shown(config: DataConfig) -> list[Record]:
    """The records that say what all have: those of train."""
    return _indexed(_shards(config)["train"])


def _records(config: DataConfig, split: Split) -> list[Record]:
    shards = _shards(config)
    if split not in shards:
        raise UserError(f"data.path={config.path} has no {split} shards: use {' or '.join(shards)}.")
    records, shown = _indexed(shards[split]), _shown(config)[0]
    if shards["train"] == shards.get("test"):
        named = ((record, position(f"{record.shard.name}/{record.key}")) for record in records)
        records = [record for record, place in named if (place < TEST_SHARE) == (split == "test")]
        if not records:
            raise UserError(f"data.path={config.path} holds too few records for a {split} split: add some.")
    _refuse_mixture([shown, *records])
    return records


def _indexed(shards: Sequence[Path]) -> list[Record]:
    """The records of these shards, of one kind, in the order of their names' hashes."""
    records = [record for shard in shards for record in _index(shard, cache.stamp(shard))]
    if not records:
        raise UserError(f"{shards[0].parent} holds shards without an image: give others.")
    _refuse_mixture(records)
    return sorted(records, key=lambda record: position(f"{record.shard.name}/{record.key}"))


def _refuse_mixture(records: Sequence[Record]) -> None:
    for what, has in (
        ("class", [r.label is not None for r in records]),
        ("caption", [r.said is not None for r in records]),
    ):
        if any(has) and not all(has):
            one = records[has.index(False)]
            raise UserError(
                f"{one.shard}: {one.key} has no {what}, yet other records have: add it, or take them all out."
            )


@lru_cache(maxsize=4096)
def _index(shard: Path, stamp: str) -> tuple[Record, ...]:
    """The records of a shard. stamp: what changes when it does.

    By tarfile of the standard library, not by webdataset: names and places of members are all that is needed, nothing
    is unpacked, so no path or link of a member matters, and none of webdataset's decoders (pickle is among them) runs.
    """
    members: dict[str, dict[str, Member]] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for info in tar:
                folder, slash, name = info.name.rpartition("/")
                stem, _, kind = name.partition(".")
                kind = kind.lower()
                if not stem or kind not in (*IMAGES, *WORDS) or info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    continue
                of_record = members.setdefault(f"{folder}{slash}{stem}", {})
                if kind in of_record:
                    raise UserError(f"{shard} holds {info.name} twice: write the shard again.")
                of_record[kind] = Member(info.name, info.offset_data, info.size)
            end = tar.offset
        with open(shard, "rb") as file:
            file.seek(end)
            if file.read(BLOCK) != bytes(BLOCK):  # tarfile takes a damaged or missing header for the end
                raise UserError(f"{shard} is cut short or damaged after {end:,} bytes: fetch or write it again.")
            return tuple(found for key, kinds in members.items() if (found := _record(shard, file, key, kinds)))
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{shard} cannot be read ({error}): fetch or write it again.") from error


def _record(shard: Path, file: IO[bytes], key: str, members: dict[str, Member]) -> Record:
    pictures = [member for kind, member in members.items() if kind in IMAGES]
    if len(pictures) != 1:
        held = " and ".join(member.name for member in pictures) or "no image"
        raise UserError(f"{shard}: record {key} holds {held}: give each record one image.")
    label, said = None, None
    try:
        if "cls" in members:
            label = int(_content(file, members["cls"]))
            if label < 0:
                raise ValueError(f"{label} is below 0")
        if "txt" in members:
            said = _content(file, members["txt"]).decode()
        elif "json" in members:
            values = json.loads(_content(file, members["json"]))
            told = values.get("caption") if isinstance(values, dict) else None
            said = "\n".join(map(str, told)) if isinstance(told, list) else told
    except ValueError as error:
        raise UserError(f"{shard}: the class or captions of {key} cannot be read ({error}): mend them.") from error
    lines = [line.strip() for line in str(said or "").splitlines()]
    return Record(shard, key, pictures[0], label, "\n".join(filter(None, lines)) or None)


def _content(file: IO[bytes], member: Member) -> bytes:
    file.seek(member.start)
    return file.read(member.size)

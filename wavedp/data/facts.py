"""What is known of public images that are not here: enough to name what was learned from them, and to refuse them.

A model of the zoo is found by a key that holds the fingerprint of its public images. Who takes all public models from
there needs no such image, so each entry brings facts of the splits that it read. They answer where the dataset's own
files, and a decoded file of it, are missing:

    data.fingerprint, n_records, class_names, n_classes, shape, has_captions      as the images would
    wavedp.data.overlap.refuse_shared       exactly: it compares a hash of each record's pixels, and of its file
    wavedp.data.overlap.warn_of_copies      not at all: an edited copy is seen by its picture only
    data.load                               raises what it says without facts, with the command that fetches the images

If the images are there, they answer, and where they differ from the facts so do the keys. Where they differ by
rounding they do not (`but_for_rounding`): they bear the recorded fingerprint, as weights that another CPU rounded
otherwise bear the key of the first ones. A file of facts is JSON, `wavedp/zoo/facts/*.json` or
`<data.home>/*.facts.json`:

    format, name, licence     1; of the dataset, and what it says of its licence
    identity, folder          as in a decoded file, `limit` and `duplicates` among them
    classes, shape            names of the labels; C, H, W
    splits                    {split: {records, fingerprint, captions, pixels, files}}; the last two are base64 of 8
                              bytes a record: of wavedp.data.records.pixel_hashes, and of the sha256 of its file (zeros
                              where it has none; null where no record has one)
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import numpy as np

from wavedp.config import DataConfig, identity
from wavedp.data import records
from wavedp.data.dataset import Dataset, Records, Split
from wavedp.entries import fact_files
from wavedp.errors import UserError

FORMAT = 1
SUFFIX = ".facts.json"
NAME = "(facts)"
"""What `find` calls a dataset that only facts are known of; no user can choose it."""
SHORT = 8
"""Bytes of a hash: two different images agree by chance once in 10^19 pairs."""
NO_FILE = bytes(SHORT)
ROUNDED = 1000
"""One record of so many may have other pixels. Pictures are drawn in floating point, which processors round in their
own ways: where a value lies on the edge between two greys, one machine draws one and another the other. The hashes
do not say by how much two images differ: that few do, in a set of equal order and files, is taken for rounding."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """The content of a file of facts."""

    name: str
    licence: str
    identity: dict[str, Any]
    folder: str | None
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    splits: dict[str, dict[str, Any]]

    def text(self) -> str:
        """The file's content."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1, sort_keys=True) + "\n"


def of(config: DataConfig, licence: str, loaded: Iterable[tuple[Dataset, Sequence[Path | None]]]) -> Facts:
    """The facts of these splits of a dataset, each with the file of every record, None for one without ([]: all)."""
    splits: dict[str, dict[str, Any]] = {}
    classes: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    for dataset, files in loaded:
        pixels = b"".join(value[:SHORT] for value in records.pixel_hashes(dataset.images))
        of_files = b"".join(value[:SHORT] if value else NO_FILE for value in records.file_hashes(files))
        splits[dataset.split] = {
            "records": len(dataset.labels),
            "fingerprint": dataset.fingerprint,
            "captions": dataset.captions is not None,
            "pixels": base64.b64encode(pixels).decode(),
            "files": base64.b64encode(of_files).decode() if any(files) else None,
        }
        classes, shape = dataset.classes, dataset.images.shape[1:]
    return Facts(config.name, licence, identity(config), _folder(config), classes, shape, splits)  # type: ignore[arg-type]


def find(config: DataConfig) -> DataConfig | None:
    """The config by which this module answers for a dataset; None where no facts of it are known.

    They match as a decoded file does (wavedp.data.decoded.find), and in `limit` and `duplicates` too.
    """
    for file in (*sorted(Path(config.home).glob(f"*{SUFFIX}")), *fact_files()):
        facts = facts_in(file)
        if facts is not None and (facts.identity, facts.folder) == (identity(config), _folder(config)):
            answer = dataclasses.replace(config, name=NAME, split="official", path=str(file))
            return dataclasses.replace(answer, limit=None, duplicates="refuse")  # as they were when they were counted
    return None


def facts_in(file: Path) -> Facts | None:
    """The facts in a file; None for one that is damaged or of another format, which is as if it were not there."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return _read(file, stat.st_mtime_ns, stat.st_size)


def marks(config: DataConfig, split: Split) -> list[list[bytes]]:
    """The short hashes of each record: of its pixels, and of its file if it has one. Pictures of one colour are in it:
    no sensitive one is looked for by its pixels (wavedp.data.overlap)."""
    about = _split(config, split)
    found = [[value] for value in _pieces(about["pixels"])]
    for mark, value in zip(found, _pieces(about["files"] or ""), strict=False):
        mark += [value] * (value != NO_FILE)
    return found


def but_for_rounding(config: DataConfig, split: Split, images: np.ndarray, files: Sequence[Path | None]) -> bool:
    """Whether the split's recorded images are `images`, in their order, but for one in `ROUNDED`.

    config: as `find` gives it. files: of every record ([]: not known). A file that is not the recorded one is a
    difference whatever its pixels: somebody changed the picture.
    """
    about = _split(config, split)
    pixels, of_files = _pieces(about["pixels"]), _pieces(about["files"] or "")
    if len(images) != len(pixels):
        return False
    here = [value[:SHORT] if value else NO_FILE for value in records.file_hashes(files)]
    others = sum(mine[:SHORT] != theirs for mine, theirs in zip(records.pixel_hashes(images), pixels, strict=True))
    return here in ([], of_files) and others * ROUNDED <= len(images)


def shape(config: DataConfig) -> tuple[int, int, int]:
    """C, H, W of every image."""
    return _facts(config).shape


def classes(config: DataConfig) -> tuple[str, ...]:
    """The names of the labels."""
    return _facts(config).classes


def has_captions(config: DataConfig) -> bool:
    """True if a split has captions."""
    return any(about["captions"] for about in _facts(config).splits.values())


def count(config: DataConfig, split: Split) -> int:
    """Raises UserError for a split that the facts do not cover."""
    return _split(config, split)["records"]


def recorded_fingerprint(config: DataConfig, split: Split) -> str:
    """The fingerprint of the split's images. Raises UserError as `count`."""
    return _split(config, split)["fingerprint"]


def files(config: DataConfig) -> list[Path]:
    """The file of facts."""
    return [Path(str(config.path))]


def read(config: DataConfig, split: Split, n: int) -> Records:
    """Raises UserError: facts hold no image."""
    raise UserError(f"{config.path} holds facts about images and no image: fetch the dataset.")


def _facts(config: DataConfig) -> Facts:
    facts = facts_in(Path(str(config.path)))
    if facts is None:
        raise UserError(f"{config.path} holds no facts about a dataset: remove it.")
    return facts


def _split(config: DataConfig, split: Split) -> dict[str, Any]:
    splits = _facts(config).splits
    if split not in splits:
        raise UserError(f"{config.path} knows no {split} split: fetch the dataset.")
    return splits[split]


@lru_cache(maxsize=256)
def _read(file: Path, *stamp: int) -> Facts | None:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values.pop("format") != FORMAT:
            return None
        facts = Facts(**values)
        for split, about in facts.splits.items():
            hashes = [_pieces(about[name]) for name in ("pixels", "files") if about[name] is not None]
            if split not in get_args(Split) or any(len(found) != about["records"] for found in hashes):
                return None
        return dataclasses.replace(facts, classes=tuple(facts.classes), shape=tuple(facts.shape))  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _pieces(text: str) -> list[bytes]:
    content = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    return [piece.tobytes() for piece in content.reshape(-1, SHORT)]


def _folder(config: DataConfig) -> str | None:
    return None if config.path is None else Path(config.path).absolute().name

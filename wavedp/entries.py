"""Entries of the zoo: artifacts of public stages that come with the package, found by key behind any store.

    wavedp/zoo/models/<NAME>/entry.json    what it is: stage, key, settings, data, licences, sha256 of each file below
                             *.safetensors, *.json    the artifact, as a store holds it
    wavedp/zoo/facts/*.json                what keys need of public images that are not here (wavedp.data.facts)

A store looks here for what it does not have itself (wavedp.store), and reads only. `python -m wavedp.zoo` lists, checks
and makes entries.

    case                                            result
    a file is missing or differs from its sha256    a warning; the entry is not used, and the stage is trained
    entry.json is damaged, or of another format     the same
    a licence that zoo.exclude_licences names       one sentence; the entry is not used
    zoo.use=false                                   no entry is looked for
    an entry that holds a privacy ledger            a warning, never used: it looked at sensitive images
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from wavedp.errors import UserError
from wavedp.files import sha256

FORMAT = 1
HERE = Path(__file__).parent / "zoo"
FILE = "entry.json"
STAGES = ("tokenizer", "pretrain", "upscaler")
"""Stages that learn from public images alone, whatever the trial."""

_known: dict[Path, None] = {HERE: None}


@dataclass(frozen=True)
class Zoo:
    """Which entries a study may use. exclude_licences: names such as GPL-2.0; see `Entry.licensed`. path: a folder of
    entries in place of the package's."""

    use: bool = True
    exclude_licences: tuple[str, ...] = ()
    path: str | None = None

    def __post_init__(self) -> None:
        excluded = self.exclude_licences
        if not isinstance(self.use, bool):
            raise UserError(f"zoo.use={self.use!r} is neither true nor false: use one of them.")
        if isinstance(excluded, str) or not all(isinstance(name, str) and name.strip() for name in excluded or ()):
            raise UserError(f"zoo.exclude_licences={excluded!r} is no list of names: write [GPL-2.0].")
        object.__setattr__(self, "exclude_licences", tuple(excluded or ()))
        if self.path is not None:
            object.__setattr__(self, "path", str(Path(self.path).expanduser().absolute()))
            if not Path(self.path, "models").is_dir():
                raise UserError(
                    f"zoo.path={self.path} has no folder models: name one that `python -m wavedp.zoo add` wrote."
                )
            _known.setdefault(Path(self.path), None)

    @property
    def folder(self) -> Path:
        """Where its entries are."""
        return HERE if self.path is None else Path(self.path)


@dataclass(frozen=True)
class Entry:
    """One public model of the zoo: the content of its entry.json, and its folder.

    settings: of a trial that asks for this artifact, as `wavedp.config.settings_of` writes them. command: what makes
    it. data: for each public split that was read its dataset, split, fingerprint, licence and file of facts. licence:
    of the weights. made: machine and package versions. tolerance: largest difference of a weight that another machine's
    training may show. files: {name: sha256}.
    """

    folder: Path
    name: str
    stage: str
    key: str
    settings: dict[str, Any]
    command: str
    data: list[dict[str, Any]]
    licence: str
    made: dict[str, Any]
    tolerance: float
    files: dict[str, str]

    def content(self) -> dict[str, bytes]:
        """The artifact's files. Raises UserError for one that is missing or differs from its sha256."""
        found = {}
        for name, digest in self.files.items():
            try:
                found[name] = (self.folder / name).read_bytes()
            except OSError:
                raise UserError(f"{self.folder} is damaged ({name} cannot be read): {RESTORE}.") from None
            if sha256(found[name]) != digest:
                raise UserError(f"{self.folder} is damaged ({name} differs from its sha256): {RESTORE}.")
        return found

    def size(self) -> int:
        """Bytes of the artifact's files that are there."""
        files = (self.folder / name for name in self.files)
        return sum(file.stat().st_size for file in files if file.is_file())

    def licences(self) -> list[str]:
        """Of the weights and of the data that they learned from."""
        return [self.licence, *(str(one["licence"]) for one in self.data)]

    def licensed(self, name: str) -> bool:
        """True if a licence of the weights or data has this name, or begins with it: GPL-2.0 is in GPL-2.0-or-later
        and in GPL-2+, not in LGPL-2.0; CC-BY is in CC-BY-SA-4.0."""
        stem = re.escape(name.strip().removesuffix(".0"))
        pattern = re.compile(rf"(?<![\w-]){stem}(?:\.0)?(?!\.?\w)", re.IGNORECASE)
        return any(pattern.search(licence) for licence in self.licences())


RESTORE = "restore it from the repository, or install wavedp again"


class Entries:
    """The entries of a zoo's folder, as read-only artifacts behind a store (wavedp.store.Behind)."""

    def __init__(self, zoo: Zoo) -> None:
        self.zoo = zoo
        self._found: dict[tuple[str, str], Entry] | None = None
        self._whole: dict[str, dict[str, bytes] | None] = {}

    def __reduce__(self) -> tuple[type[Entries], tuple[Zoo]]:
        """What is sent to another process reads the files there: a study sends it with every trial."""
        return Entries, (self.zoo,)

    def files(self, stage: str, key: str) -> dict[str, bytes] | None:
        """The files of an artifact, verified; None if no entry that may be used has it."""
        entry = self._entry(stage, key)
        if entry is None or not self._allowed(entry):
            return None
        if entry.name not in self._whole:
            self._whole[entry.name] = self._verified(entry)
        return self._whole[entry.name]

    def origin(self, stage: str, key: str) -> str | None:
        """The name of the entry that `files` reads."""
        entry = self._entry(stage, key)
        return entry.name if entry is not None and self.files(stage, key) is not None else None

    def _entry(self, stage: str, key: str) -> Entry | None:
        if self._found is None:
            self._found = {(entry.stage, entry.key): entry for entry in readable(self.zoo.folder)}
        return self._found.get((stage, key))

    def _allowed(self, entry: Entry) -> bool:
        for name in self.zoo.exclude_licences:
            if entry.licensed(name):
                _say(f"zoo.exclude_licences={name} leaves out {entry.name}, so its stage {entry.stage} is trained.")
                return False
        return True

    def _verified(self, entry: Entry) -> dict[str, bytes] | None:
        try:
            return entry.content()
        except UserError as error:
            warnings.warn(f"{error} Until then its stage {entry.stage} is trained.", stacklevel=5)
            return None


def behind(zoo: Zoo | None = None) -> tuple[Entries, ...]:
    """The places behind a store. zoo: None for the package's entries."""
    zoo = zoo or Zoo()
    return (Entries(zoo),) if zoo.use else ()


def fact_files() -> list[Path]:
    """Files of facts about public images, of every folder of entries that this process has been told of."""
    return [file for folder in _known for file in sorted((folder / "facts").glob("*.json"))]


def readable(folder: Path) -> list[Entry]:
    """The entries of a folder that this version can use, by name; a warning for each other."""
    found = []
    for path in sorted((folder / "models").glob(f"*/{FILE}")):
        try:
            found.append(read(path.parent))
        except UserError as error:
            warnings.warn(f"{error} It is not used.", stacklevel=5)
    return found


def names(folder: Path) -> list[str]:
    """The names of all entries of a folder, usable or not."""
    return sorted(path.parent.name for path in (folder / "models").glob(f"*/{FILE}"))


def read(folder: Path) -> Entry:
    """The entry in a folder; its artifact's files are not opened. Raises UserError for one that is damaged, of another
    format, or of a stage that does not belong here."""
    path = folder / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values.pop("format")
        if version != FORMAT:
            raise UserError(f"{path} has format {version} and this version of wavedp reads {FORMAT}: update wavedp.")
        entry = Entry(folder, **values)
        entry.licences()
        whole = all(isinstance(getattr(entry, item.name), _kind(item.name)) for item in fields(Entry))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): {RESTORE}.") from None
    if not whole or entry.name != folder.name or any("/" in name or name.startswith(".") for name in entry.files):
        raise UserError(f"{path} is damaged (it does not describe {folder.name}): {RESTORE}.")
    if entry.stage not in STAGES or "ledger.json" in entry.files:
        raise UserError(
            f"{path} is of the stage {entry.stage}, and only {', '.join(STAGES)} learn from public images alone: "
            "take the entry out."
        )
    return entry


def _kind(name: str) -> Any:
    kinds = {"folder": Path, "settings": dict, "data": list, "made": dict, "tolerance": (int, float), "files": dict}
    return kinds.get(name, str)


@cache  # once a process
def _say(sentence: str) -> None:
    logging.getLogger(__name__).warning("%s", sentence)

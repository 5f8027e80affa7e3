"""Check entries: their files, the key that today's code asks for, and whether a training gives the same weights."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavedp import chain, entries
from wavedp.entries import Entry
from wavedp.errors import UserError, nearest
from wavedp.progress import Report, silent
from wavedp.store import Artifact, Store
from wavedp.zoo.settings import trial_at


def entry_of(folder: Path, name: str) -> Entry:
    """The entry of this name. Raises UserError for an unknown one, and for one that cannot be read."""
    known = entries.names(folder)
    if name not in known:
        hint = nearest(name, known) if known else "it has none."
        raise UserError(f"the zoo in {folder} has no entry {name!r}: {hint}")
    return entries.read(folder / "models" / name)


def table(found: Sequence[Entry]) -> str:
    """A line for each entry: name, stage, key, size, licence, data, what made it; then the licences of each dataset."""
    rows = [("name", "stage", "key", "kB", "licence", "data", "made by")]
    of_data: dict[str, str] = {}
    for entry in found:
        learned = {str(one["config"]["name"]): str(one["licence"]) for one in entry.data}
        of_data |= learned
        made = (entry.name, entry.stage, entry.key[:12], f"{entry.size() / 1000:.0f}", entry.licence)
        rows.append((*made, ", ".join(sorted(learned)) or "none", entry.command))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for name, licence in sorted(of_data.items()):
        each = licence.replace("; ", "\n  ")
        lines.append(f"\nlicences of {name}:\n  {each}")
    return "\n".join(lines)


def verify(entry: Entry, home: str | None) -> str:
    """One sentence: the entry is whole, and this code asks for its key. home: where datasets are (None: the default).

    Raises UserError for a file that is missing or differs, and for an entry that no study with this code finds.
    """
    entry.content()
    key = key_here(entry, home)
    if key != entry.key:
        raise UserError(
            f"{entry.name} has the key {entry.key[:12]} and this code asks for {key[:12]}, so no study finds it: add "
            f"it again after `{entry.command}`, or remove it."
        )
    return f"{entry.name}: {len(entry.files)} files as they were added, and this code asks for its key {key[:12]}."


def key_here(entry: Entry, home: str | None) -> str:
    """The key that this code and these data give to the entry's settings; "none" where the settings have no such
    stage, or are none of this code's."""
    try:
        return chain.keys(trial_at(entry.settings, home), entry.stage).get(entry.stage, "none")
    except UserError as error:
        raise UserError(f"the key of {entry.name} cannot be made here: {error}") from None


@dataclass(frozen=True)
class Rebuilt:
    """What a second training gave. difference: largest of a number in the artifact; 0 if all files are bit-equal, inf
    where names or shapes differ."""

    entry: Entry
    difference: float
    equal: bool
    seconds: float

    @property
    def accepted(self) -> bool:
        """True if it is bit-equal, or within the entry's tolerance."""
        return self.equal or self.difference <= self.entry.tolerance

    def sentence(self) -> str:
        """What to say of it."""
        took = f"after {self.seconds:.0f} s of training"
        if self.equal:
            return f"{self.entry.name} is bit-equal {took}: {', '.join(self.entry.files)}."
        within = "within" if self.accepted else "beyond"
        return (
            f"{self.entry.name} is not bit-equal {took}: the largest difference is {self.difference:.3g}, {within} the "
            f"{self.entry.tolerance:g} that the entry allows (it was made on {self.entry.made.get('machine')}, torch "
            f"{self.entry.made.get('torch')})."
        )


def rebuild(entry: Entry, store: str, home: str | None, device: str, report: Report = silent) -> Rebuilt:
    """Train an entry again in a store of its own, without the zoo, by as many threads as it was trained, and compare.

    Raises UserError for a damaged entry, for one whose key this code does not ask for, for public images that are not
    here, and for a store that has the artifact already.
    """
    import torch

    from wavedp import stages

    verify(entry, home)
    fresh, trial = Store(store, behind=()), trial_at(entry.settings, home)
    if fresh.has(entry.stage, entry.key):
        raise UserError(
            f"{store} has {entry.stage} {entry.key[:12]} already, so nothing would be trained: name another store."
        )
    started, before = time.time(), torch.get_num_threads()
    torch.set_num_threads(int(entry.made.get("threads") or before))
    try:
        artifact, _ = stages.make(entry.stage, trial, fresh, device, report)
    finally:
        torch.set_num_threads(before)
    seconds = time.time() - started
    known = Artifact(entry.key, entry.content())
    return Rebuilt(entry, difference(known, artifact), known.files == artifact.files, seconds)


def difference(one: Artifact, other: Artifact) -> float:
    """The largest difference of a number in two artifacts; inf where they do not have the same names and shapes."""
    if one.files.keys() != other.files.keys():
        return math.inf
    largest = 0.0
    for file in one.files:
        name, _, kind = file.rpartition(".")
        if kind == "safetensors":
            largest = max(largest, _of_tensors(one.tensors(name), other.tensors(name)))
        elif kind == "json":
            largest = max(largest, _of_values(one.json(name), other.json(name)))
        elif one.files[file] != other.files[file]:
            return math.inf
    return largest


def _of_tensors(one: dict[str, Any], other: dict[str, Any]) -> float:
    if {name: value.shape for name, value in one.items()} != {name: value.shape for name, value in other.items()}:
        return math.inf
    gaps = [float((one[name].double() - other[name].double()).abs().max()) for name in one if one[name].numel()]
    return math.inf if any(math.isnan(gap) for gap in gaps) else max(gaps, default=0.0)


def _of_values(one: Any, other: Any) -> float:
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((_of_values(one[name], other[name]) for name in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max((_of_values(a, b) for a, b in zip(one, other, strict=True)), default=0.0)
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other)
    return 0.0 if one == other else math.inf

"""A study's folder: study.yaml, trials.jsonl, ledger.jsonl, samples/. Written by one process, the coordinator.

Every write replaces the whole file in one step, so a reader or a crash never sees half a line. A study of 10,000 rows
has some 40 MB of them: whoever adds many at once collects them and writes what has come together (`at_once`). What
can't be written stays in memory, and the next write tries again. Beside the artifacts in the store lies a copy of every
row and line (sweeps.copies), so that a lost folder loses no release.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sweeps.copies import Copy
from sweeps.plan import PlannedTrial
from sweeps.study import identity_of
from wavedp import chain
from wavedp.config import trial_of
from wavedp.errors import UserError
from wavedp.files import write_atomically
from wavedp.jsonl import encoded, read_jsonl, read_lines, write_jsonl
from wavedp.privacy import ledger
from wavedp.store import Store
from wavedp.study_file import read_meta

TRIALS, LEDGER, GPU, COSTS = "trials.jsonl", "ledger.jsonl", "gpu_seconds.json", "stages.json"


@dataclass(frozen=True)
class Changes:
    """What is to be written: files of the folder, rows and ledger lines for the copy."""

    files: Mapping[str, bytes]
    rows: Iterable[dict[str, Any]]
    lines: Iterable[ledger.Line]


class Records:
    """The rows of one study, kept in memory, on disk and in the copy. A folder without a ledger begins with the copy's.

    at_once: every method that adds something writes it, and raises OSError when the folder can't be written; what was
    added is kept. Otherwise `save` writes, or, with the file system's work in another thread, `changes` and `write`.
    """

    def __init__(self, folder: Path, copy: Copy | None = None, at_once: bool = True) -> None:
        self.folder, self.copy, self.at_once = folder, copy, at_once
        self.trials = {row["trial"]: row for row in recorded(folder)}
        path = folder / LEDGER
        lines = (ledger.read(path) if path.exists() else []) or (copy.ledger() if copy else [])
        self.ledger = {ledger.identity(line): line for line in lines}
        self.gpu_seconds = _seconds(folder / GPU)
        self.costs = _costs(folder / COSTS, self.trials.values())
        self.unwritten: set[str] = set()
        self.encoded: dict[Any, bytes] = {}  # trial or line: its line in the file
        self.uncopied: dict[Any, dict[str, Any]] = {}  # likewise

    def add_gpu_seconds(self, seconds: float) -> None:
        """Add to the GPU seconds of all stages ever run for this study; a study without a GPU writes nothing."""
        if seconds > 0:
            self.gpu_seconds += seconds
            self._changed(GPU)

    def put_cost(self, key: str, seconds: float, memory: dict[str, int]) -> None:
        """Note what it took to make a stage, for the row of the trial that it was made for: that row may be written by
        a later run."""
        self.costs[key] = {"seconds": seconds, "memory": memory}
        self._changed(COSTS)

    def put_trial(self, row: dict[str, Any]) -> None:
        """Add a trial's row, or replace the one of an earlier attempt."""
        self.trials[row["trial"]] = self.uncopied[row["trial"]] = row
        self.encoded.pop(row["trial"], None)
        self._changed(TRIALS)

    def put_ledger(self, lines: list[dict[str, Any]], trials: list[str]) -> None:
        """Add lines of a stage's artifact, each once, with the trials that use them. A line keeps its first time."""
        changed = False
        for line in lines:
            identity = ledger.identity(line)
            known = self.ledger.setdefault(identity, {"release": None, **line, "trials": []})
            if not known["trials"] or not set(trials) <= set(known["trials"]):
                known["trials"] = sorted({*known["trials"], *trials})
                self.uncopied[identity] = known
                self.encoded.pop(identity, None)
                changed = True
        if changed:
            self._changed(LEDGER)

    def save(self, *names: str) -> None:
        """Write these files, and those that have changed or could not be written before. Raises OSError."""
        self.unwritten |= set(names)
        self.write(self.changes())

    def changes(self) -> Changes:
        """What has come together since the last write; `write` it, or it is lost."""
        files = {name: self._content(name) for name in sorted(self.unwritten)}
        rows = [value for key, value in self.uncopied.items() if isinstance(key, str)]
        lines = [dict(value) for key, value in self.uncopied.items() if not isinstance(key, str)]
        self.unwritten, self.uncopied = set(), {}
        return Changes(files, rows, lines)

    def write(self, changes: Changes) -> None:
        """Write them. Raises OSError for a file that can't be written, which the next `changes` hold again."""
        for row in changes.rows if self.copy else ():
            self.copy.put_trial(row)  # type: ignore[union-attr]
        for line in changes.lines if self.copy else ():
            self.copy.put_line(line)  # type: ignore[union-attr]
        for name, content in changes.files.items():
            try:
                write_atomically(self.folder / name, content)
            except OSError:
                self.unwritten |= changes.files.keys()
                raise

    def _changed(self, name: str) -> None:
        self.unwritten.add(name)
        if self.at_once:
            self.save()

    def _content(self, name: str) -> bytes:
        if name in (GPU, COSTS):
            return json.dumps(self.gpu_seconds if name == GPU else self.costs).encode()
        rows: Mapping[Any, dict[str, Any]] = self.trials if name == TRIALS else self.ledger
        for key in rows.keys() - self.encoded.keys():
            self.encoded[key] = encoded(rows[key])
        return b"".join(self.encoded[key] for key in rows)

    def find_releases(self, trials: Iterable[PlannedTrial], store: Store) -> list[tuple[list[ledger.Line], list[str]]]:
        """The ledger lines of planned private fits that are in the store, whoever made them, and the trials they are
        for: publishing from a release counts as making it."""
        users: dict[tuple[str, str], list[str]] = {}
        for trial in trials:
            for stage in chain.PRIVATE:
                if stage in trial.keys:
                    users.setdefault((stage, trial.keys[stage]), []).append(trial.id)
        there = {
            (stage, key)
            for stage in chain.PRIVATE
            for key in store.which(stage, {key for each, key in users if each == stage})
        }
        found = [(store.json(*place, "ledger") or [], names) for place, names in users.items() if place in there]
        return [(lines, names) for lines, names in found if lines]

    def settled(self, trials: Iterable[PlannedTrial], store: Store) -> set[str]:
        """Ids of the trials that are done under the keys of the plan, with ledger lines of all their fits, although the
        store has neither a fit nor the evaluation of theirs any more: they are not run again, for a release that was
        recorded is not made twice."""
        listed = {line["stage_key"] for line in self.ledger.values()}
        done = [trial for trial in trials if self._done(trial) and _fits(trial) <= listed]
        there = {
            key
            for stage in (*chain.PRIVATE, "evaluate")
            for key in store.which(stage, {trial.keys[stage] for trial in done if stage in trial.keys})
        }
        return {trial.id for trial in done if not there & {*_fits(trial), trial.keys["evaluate"]}}

    def _done(self, trial: PlannedTrial) -> bool:
        row = self.trials.get(trial.id, {})
        return bool(row.get("status") == "done" and row.get("keys") == trial.keys)


def _fits(trial: PlannedTrial) -> set[str]:
    """The keys of its fits on sensitive images."""
    return {trial.keys[stage] for stage, kind in chain.fit_kinds(trial.config).items() if kind in ("dp", "nonprivate")}


def _seconds(path: Path) -> float:
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else 0.0
    except (ValueError, TypeError):
        raise UserError(f"{path} is damaged: write the GPU seconds that the study has used, or 0.") from None


def _costs(path: Path, rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """{stage key: seconds and memory} of what earlier runs of the study made, by its rows and the file beside them."""
    told = {
        row["keys"][stage]: {"seconds": seconds, "memory": row.get("memory", {}).get(stage, {})}
        for row in rows
        for stage, seconds in row.get("seconds", {}).items()
    }
    try:
        return told | (json.loads(path.read_text(encoding="utf-8")) if path.exists() else {})
    except (ValueError, TypeError):
        raise UserError(
            f"{path} is damaged: remove it, and stages made by an interrupted run have no seconds."
        ) from None


def recorded(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder's trials.jsonl, [] without one. Raises UserError for a line that is no trial's row."""
    path = folder / TRIALS
    if not path.exists():
        return []
    rows, places = read_lines(path)
    for row, place in zip(rows, places, strict=True):
        if not isinstance(row.get("trial"), str):
            raise UserError(f"{place} has no 'trial': it was not written by sweeps.run; remove that line.")
    return rows


def claim_folder(folder: Path, study: dict[str, Any], trial_ids: list[str]) -> None:
    """Write study.yaml, or check that the folder's own describes the same study.

    The same study means the same base configuration; axes may grow, as long as every recorded trial is still planned.
    The file names the commit and command of the latest run, whose rows the folder holds, and the time of the first.
    Rows that other code or other data made for this same question move to trials.superseded.jsonl; their ledger lines
    stay, for what was released stays released. Raises UserError when the folder was made by another configuration.
    """
    path = folder / "study.yaml"
    if path.exists():
        strangers = refuse_other_study(folder, study, trial_ids)
        if strangers:
            old, rows = folder / "trials.superseded.jsonl", recorded(folder)
            write_jsonl(old, (read_jsonl(old) if old.exists() else []) + strangers)
            write_jsonl(folder / TRIALS, [row for row in rows if row not in strangers])
        study = {**study, "created": read_meta(folder).get("created", study.get("created"))}
    write_atomically(path, as_yaml(study))


def refuse_other_study(folder: Path, study: dict[str, Any], trial_ids: list[str]) -> list[dict[str, Any]]:
    """Raises UserError where `claim_folder` would. Returns the recorded rows that this plan does not have."""
    if not (folder / "study.yaml").exists():
        return []
    made = read_meta(folder)
    remedy = f"choose another name with study=NAME, or remove {folder}"
    differing = sorted(_differences(_identity(made), study["identity"]))
    if differing:
        raise UserError(f"{folder} was made by another configuration ({differing[0]} differs): {remedy}.")
    strangers = [row for row in recorded(folder) if row["trial"] not in trial_ids] if trial_ids else []
    if strangers and _axes(made) != _axes(study):
        raise UserError(f"{folder} holds the trial {strangers[0]['trial']}, not planned by this sweep: {remedy}.")
    return strangers


def as_yaml(study: dict[str, Any]) -> bytes:
    """The content of study.yaml."""
    return yaml.safe_dump(study, sort_keys=False, allow_unicode=True).encode()


def _identity(made: dict[str, Any]) -> dict[str, Any]:
    """The identity of a recorded study, in today's fields. Fields added since are taken at their default."""
    try:
        return identity_of(trial_of(made["config"]))
    except (KeyError, UserError):  # a field of that time is gone
        return made.get("identity", {})


def _axes(study: dict[str, Any]) -> dict[str, Any]:
    """A study's axes. Axes added since are taken at their default's only value."""
    return {"sampling_seeds": [0], **study.get("axes", {})}


def _differences(old: Any, new: Any, at: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            place
            for name in sorted({*old, *new})
            for place in _differences(old.get(name), new.get(name), f"{at}.{name}" if at else name)
        ]
    return [] if old == new else [at or "everything"]

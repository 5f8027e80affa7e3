"""A study's folder: study.yaml, trials.jsonl, ledger.jsonl, samples/. Written by one process, the coordinator.

Every write replaces the whole file in one step, so a reader or a crash never sees half a line; a study has at most
some thousand rows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from sweeps.study import identity_of
from wavedp.config import trial_of
from wavedp.errors import UserError
from wavedp.privacy import ledger
from wavedp.store import write_atomically, write_jsonl


class Records:
    """The rows of one study, kept in memory and on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trials = {row["trial"]: row for row in read_jsonl(folder / "trials.jsonl")}
        path = folder / "ledger.jsonl"
        self.ledger = {ledger.identity(line): line for line in (ledger.read(path) if path.exists() else [])}
        self._gpu_path = folder / "gpu_seconds.json"
        self.gpu_seconds: float = json.loads(self._gpu_path.read_text()) if self._gpu_path.exists() else 0.0

    def add_gpu_seconds(self, seconds: float) -> None:
        """Add to the GPU seconds of all stages ever run for this study; a study without a GPU writes nothing."""
        if seconds > 0:
            self.gpu_seconds += seconds
            write_atomically(self._gpu_path, json.dumps(self.gpu_seconds).encode())

    def put_trial(self, row: dict[str, Any]) -> None:
        """Add a trial's row, or replace the one of an earlier attempt."""
        self.trials[row["trial"]] = row
        write_jsonl(self.folder / "trials.jsonl", list(self.trials.values()))

    def put_ledger(self, lines: list[dict[str, Any]], trials: list[str]) -> None:
        """Add lines of a stage's artifact, each once, with the trials that use them. A line keeps its first time."""
        for line in lines:
            known = self.ledger.setdefault(ledger.identity(line), {"release": None, **line, "trials": []})
            known["trials"] = sorted({*known["trials"], *trials})
        if lines:
            write_jsonl(self.folder / "ledger.jsonl", list(self.ledger.values()))


def claim_folder(folder: Path, study: dict[str, Any], trial_ids: list[str]) -> None:
    """Write study.yaml, or check that the folder's own describes the same study.

    The same study means the same base configuration; axes may grow, as long as every recorded trial is still planned.
    Rows that other code or other data made for this same question move to trials.superseded.jsonl; their ledger lines
    stay, for what was released stays released. Raises UserError when the folder was made by another configuration.
    """
    path = folder / "study.yaml"
    if path.exists():
        strangers = refuse_other_study(folder, study, trial_ids)
        if strangers:
            old, recorded = folder / "trials.superseded.jsonl", read_jsonl(folder / "trials.jsonl")
            write_jsonl(old, read_jsonl(old) + strangers)
            write_jsonl(folder / "trials.jsonl", [row for row in recorded if row not in strangers])
        elif _axes(yaml.safe_load(path.read_text())) == _axes(study):
            return
    write_atomically(path, yaml.safe_dump(study, sort_keys=False, allow_unicode=True).encode())


def refuse_other_study(folder: Path, study: dict[str, Any], trial_ids: list[str]) -> list[dict[str, Any]]:
    """Raises UserError where `claim_folder` would. Returns the recorded rows that this plan does not have."""
    path = folder / "study.yaml"
    if not path.exists():
        return []
    made = yaml.safe_load(path.read_text())
    remedy = f"choose another name with study=NAME, or remove {folder}"
    differing = sorted(_differences(_identity(made), study["identity"]))
    if differing:
        raise UserError(f"{folder} was made by another configuration ({differing[0]} differs): {remedy}.")
    recorded = read_jsonl(folder / "trials.jsonl")
    strangers = [row for row in recorded if row["trial"] not in trial_ids] if trial_ids else []
    if strangers and _axes(made) != _axes(study):
        raise UserError(f"{folder} holds the trial {strangers[0]['trial']}, not planned by this sweep: {remedy}.")
    return strangers


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file that `Records` wrote, so that no line is torn; [] when it does not exist."""
    return [json.loads(row) for row in path.read_text().splitlines()] if path.exists() else []


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

"""A trial of a finished study, opened again: its configuration, its ledger lines, and its artifacts in the store."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from wavedp import chain, methods
from wavedp.config import METHODS, TrialConfig, trial_of
from wavedp.errors import UserError
from wavedp.jsonl import read_jsonl
from wavedp.privacy import ledger
from wavedp.store import Artifact, Store
from wavedp.study_file import read_meta

ROW = ("trial", "status")
"""Fields that every row of trials.jsonl has, whatever became of its trial."""


@dataclass(frozen=True)
class FinishedTrial:
    """meta: the content of study.yaml. row: the trial's in trials.jsonl. config: canonical. lines: the whole study's
    ledger."""

    folder: Path
    meta: dict[str, Any]
    row: dict[str, Any]
    config: TrialConfig
    lines: list[ledger.Line]

    @property
    def id(self) -> str:
        return str(self.row["trial"])

    def releases(self) -> list[ledger.Line]:
        """The ledger lines of the trial's private fits."""
        keys = [self.row["keys"][stage] for stage in chain.PRIVATE if stage in self.row["keys"]]
        return [line for line in ledger.releases(self.lines) if line["stage_key"] in keys]

    def artifact(self, stage: str, store: Store) -> Artifact:
        """What a stage of the trial made. Raises UserError when the store does not have it."""
        key = self.row["keys"].get(stage, "")
        artifact = store.open(stage, key) if key else None
        if artifact is None:
            raise UserError(
                f"{store.root} has no {stage} {key[:12]} of the trial {self.id}: name the study's store with --store, "
                f"or make it again with the study's command ({self.meta.get('command')})."
            )
        return artifact

    def require_same_keys(self, stages: Iterable[str]) -> None:
        """Raises UserError where today's code and data would make something else than the trial's."""
        here = chain.keys(self.config)
        for stage in stages:
            if here.get(stage) != self.row["keys"].get(stage):
                raise UserError(
                    f"stage {stage} of {self.id} has another key by this code and these files: check out the commit "
                    f"{self.row.get('commit')}, or name a trial whose settings are in its row."
                )


def open_trial(folder: Path, trial_id: str, home: str | None = None) -> FinishedTrial:
    """A finished trial of the study in a folder. home: where the datasets are now (None: where they were).

    Raises UserError for a folder without a study, for a study.yaml that is damaged, and for a trial that is unknown or
    not done.
    """
    for name in ("study.yaml", "trials.jsonl"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not a study: it has no {name}: give its folder, such as runs/eps_grid.")
    meta = read_meta(folder)
    rows = {row["trial"]: row for row in read_jsonl(folder / "trials.jsonl", needed=ROW)}
    if trial_id not in rows:
        begin = [name for name in rows if name.startswith(trial_id)]
        near = begin[:3] or difflib.get_close_matches(trial_id, rows, 1)
        hint = f"did you mean {' or '.join(near)}?" if near else f"use one of {', '.join(rows) or 'none'}."
        raise UserError(f"{folder} has no trial {trial_id!r}: {hint}")
    row = rows[trial_id]
    if row["status"] != "done":
        reason = f" ({row['reason']})" if row.get("reason") else ""
        raise UserError(
            f"the trial {trial_id} is {row['status']}{reason}: name a finished one, or type the study's command again "
            f"({meta.get('command')})."
        )
    values = row["settings"] if "settings" in row else _from_axes(read_meta(folder, ["config"]), row["axes"])
    then = meta.get("config") or {}
    if home is not None:
        values = {**values, "data": {**values.get("data", {}), "home": str(Path(home).absolute())}}
    path = folder / "ledger.jsonl"
    lines = ledger.read(path) if path.is_file() else []
    return FinishedTrial(folder, meta, row, methods.canonical(_as_then(trial_of(values), values, then)), lines)


def _as_then(trial: TrialConfig, said: dict[str, Any], then: dict[str, Any]) -> TrialConfig:
    """The trial with every field that its study did not know yet at the value that does what was done before it.

    said: the trial's settings. then: the study's configuration, which names all fields of its time; of a method's
    section only those of the method that the study began with.
    """
    found = {}
    for name, section in vars(trial).items():
        known = then.get(name)
        if not isinstance(known, dict) or getattr(section, "name", None) != known.get("name"):
            continue
        young = {item.name: item.metadata["before"] for item in fields(section) if "before" in item.metadata}
        spoken = {*known, *said.get(name, {})}
        found[name] = replace(section, **{field: value for field, value in young.items() if field not in spoken})
    return replace(trial, **found)


def _from_axes(meta: dict[str, Any], point: dict[str, Any]) -> dict[str, Any]:
    """The settings of a row that does not hold them: the study's configuration, moved along the axes.

    Of a group's option only the name is known; the trial's keys tell if it had settings of its own.
    """
    values, cases = copy.deepcopy(meta["config"]), (meta.get("axes") or {}).get("cases") or {}
    changes = {**point, **cases.get(point.get("case"), {})}
    for axis, value in sorted(changes.items(), key=lambda change: "." in change[0]):  # groups before their fields
        *section, field = {"epsilon": "privacy.epsilon"}.get(axis, axis).split(".")
        if section:
            values[section[0]][field] = value
        elif axis in METHODS:
            values[axis] = {"name": value}
        elif axis != "case" and not isinstance(values.get(axis), dict):
            values[axis] = value
    return values

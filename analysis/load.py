"""Read a study's folder: `load(folder) -> Study`. The record format is described in results/README.md.

Imports only the standard library and yaml, so that a script can read records without plotly or torch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from wavedp.errors import UserError
from wavedp.jsonl import read_lines
from wavedp.study_file import read_meta

Status = Literal["done", "failed", "infeasible"]
HIGHER_IS_BETTER = ("acc", "precision", "recall", "density", "coverage", "psnr", "ssim")


@dataclass(frozen=True)
class Trial:
    """One line of trials.jsonl. epsilon is the requested budget, epsilon_spent the accountant's result: 0 when no
    sensitive image was read, inf when the fit was not private, None when the trial did not get that far."""

    trial: str
    status: Status
    seed: int
    epsilon: float
    reason: str | None = None
    generator: str = ""
    level: int = 0
    blur: str = "none"
    upscaler: str = ""
    epsilon_spent: float | None = None
    delta: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, dict[str, int]] = field(default_factory=dict)  # stage: MiB by place; empty in older studies
    host: str = ""
    commit: str = ""
    axes: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] | None = None  # None in studies older than this field
    notes: list[str] = field(default_factory=list)

    @property
    def budget(self) -> float:
        """Position on the ε axis: epsilon_spent if that is 0 or inf, otherwise the requested epsilon.

        A generator that never reads the sensitive images spends 0 whatever the requested epsilon.
        """
        return self.epsilon_spent if self.epsilon_spent in (0.0, math.inf) else self.epsilon


@dataclass(frozen=True)
class Study:
    """Contents of a study's folder. meta is study.yaml; ledger has one dict per line of ledger.jsonl."""

    folder: Path
    meta: dict[str, Any]
    trials: list[Trial]
    ledger: list[dict[str, Any]]

    @property
    def name(self) -> str:
        return str(self.meta.get("study") or self.folder.name)

    @property
    def done(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.status == "done"]

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics of all finished trials, in order of first appearance."""
        return list(dict.fromkeys(name for trial in self.done for name in trial.metrics))

    def blur(self, trial: Trial) -> str:
        """A trial's blur schedule with what f(i) alone does not say, the noise schedule and the basis: `quartic
        (cosine, dct)`, `none (linear)`. The bare name in a study whose configuration does not tell."""
        diffusion = (self.meta.get("config") or {}).get("diffusion") or {}
        told = [trial.axes.get(f"diffusion.{name}", diffusion.get(name)) for name in ("noise_schedule", "basis")]
        if trial.blur == "none":
            del told[1]  # nothing is blurred, in any basis
        return trial.blur if None in told else f"{trial.blur} ({', '.join(map(str, told))})"

    def floor(self, metric: str) -> float | None:
        """Score of as many real images in place of the generated ones, by a metric such as fid_clean_1k_test2k; None if
        the study did not measure it (metrics.floor) or has several values."""
        start = "floor_" + "_".join(metric.split("_")[:3]) + "_"  # family, mode and number of images
        found = {trial.metrics[name] for trial in self.done for name in trial.metrics if name.startswith(start)}
        return found.pop() if len(found) == 1 else None

    def metric(self, name: str | None = None) -> str:
        """Return `name`, or the study's primary metric if None. Raises UserError when no finished trial has it."""
        chosen = name or self.meta.get("primary_metric") or (self.metrics[0] if self.metrics else None)
        if chosen not in self.metrics:
            offered = ", ".join(self.metrics) or "none, because no trial has finished"
            raise UserError(f"metric {chosen!r} is in no finished trial of {self.folder}: choose one of: {offered}.")
        return str(chosen)

    def meaning(self, metric: str) -> dict[str, str]:
        """The entry of a metric in study.yaml, `better` and `sentence`, by the longest beginning of its name that is
        listed there; nothing in studies older than that list."""
        listed = self.meta.get("metrics") or {}
        begins = [name for name in listed if metric == name or metric.startswith(f"{name}_")]
        return dict(listed[max(begins, key=len)]) if begins else {}

    def lower_is_better(self, metric: str) -> bool:
        """True if smaller values of a metric are better: as study.yaml says, otherwise by its name."""
        said = self.meaning(metric).get("better")
        return lower_is_better(metric) if said is None else said == "lower"

    def provenance(self) -> dict[str, Any]:
        """Sources of this study's figures: sha256 of the two record files, commit and command of the study."""
        return {
            "study": self.name,
            "trials_sha256": sha256(self.folder / "trials.jsonl"),
            "ledger_sha256": sha256(self.folder / "ledger.jsonl"),
            "commit": self.meta.get("commit"),
            "command": self.meta.get("command"),
        }


def load(folder: str | Path) -> Study:
    """Read a study's folder.

    A last line of trials.jsonl that was cut off is left out with a warning; if a trial is recorded twice, the later
    line counts. Raises UserError for a missing folder, a missing study.yaml or trials.jsonl, a file without a trial, a
    broken line, and a ledger whose last line was cut off.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give the folder of a study, such as runs/eps_grid.")
    for name in ("study.yaml", "trials.jsonl"):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} has no {name}, so it is not a study: run the sweep first, or give another folder."
            )
    trials = {trial.trial: trial for trial in map(read_trial, *read_lines(folder / "trials.jsonl"))}
    if not trials:
        raise UserError(
            f"{folder / 'trials.jsonl'} holds no trial yet: wait for the first to end, or run the sweep again."
        )
    path = folder / "ledger.jsonl"
    ledger, places = read_lines(path, complete=True) if path.is_file() else ([], [])
    for line, place in zip(ledger, places, strict=True):
        if "kind" not in line or "stage_key" not in line:
            raise UserError(
                f"{place} is not a ledger line, for it lacks kind or stage_key: restore the file from a backup."
            )
    return Study(folder, read_meta(folder), list(trials.values()), ledger)


def together(studies: Sequence[Study]) -> Study:
    """One study with the rows, ledgers and meanings of all."""
    first = studies[0]
    meanings = {name: said for study in studies for name, said in (study.meta.get("metrics") or {}).items()}
    lines = [line for study in studies for line in study.ledger]
    return Study(first.folder, {**first.meta, "metrics": meanings}, [t for s in studies for t in s.trials], lines)


def lower_is_better(metric: str) -> bool:
    """Direction of a metric in a study that does not say it, from the first word of its name: distances (fid, kid)
    fall, acc and coverage rise."""
    return metric.split("_")[0] not in HIGHER_IS_BETTER


def read_trial(values: dict[str, Any], place: str) -> Trial:
    """Make a Trial from a line, ignoring unknown fields. Raises UserError, naming the place, if fields are missing."""
    known = {item.name for item in fields(Trial)}
    # null means that the trial did not get that far, as does the field's default.
    chosen = {name: value for name, value in values.items() if name in known and value is not None}
    for name in ("trial", "status", "seed", "epsilon"):
        if name not in chosen:
            raise UserError(f"{place} has no {name!r}: it was not written by sweeps.run; remove that line.")
    for name in ("epsilon", "epsilon_spent", "delta"):
        if name in chosen:
            chosen[name] = float(chosen[name])  # JSON has no infinity: it is written as the string "inf"
    chosen["metrics"] = {
        name: float(value)
        for name, value in chosen.get("metrics", {}).items()
        if value is not None and not math.isnan(float(value))
    }
    return Trial(**chosen)


def sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None

"""The content of study.yaml: the question (axes), the configuration that answers it, and what it ran on."""

from __future__ import annotations

import importlib.metadata
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sweeps.plan import AXES, PlannedTrial
from wavedp import data, metrics
from wavedp.config import METHODS, TrialConfig, identity, sections, to_dict, trial_of
from wavedp.fields import without_infinity

ROOT = Path(__file__).resolve().parent.parent
VERSIONED = (
    "torch", "ray", "opacus", "dp-accounting", "diffusers", "optuna", "clean-fid", "ncnn", "numpy", "PyWavelets",
)  # fmt: skip
CODE = ("wavedp", "sweeps", "conf")  # what makes a trial's numbers


def describe_study(
    values: dict[str, Any],
    base: dict[str, Any],
    sweep: dict[str, Any],
    overrides: list[str],
    first: PlannedTrial | None,
    own: Sequence[str] = (),
) -> dict[str, Any]:
    """The content of study.yaml (fields as documented in results/README.md). own: the user's folder of configuration
    that was typed, if any."""
    trial = trial_of(base)
    measured = (first.config if first else trial).metrics
    n_reference = data.n_records((first.config if first else trial).data, measured.reference_split)
    return {
        "study": values["study"],
        "sweep": sweep["name"],
        "command": typed(overrides, own),
        "axes": axes_of(sweep),
        "budget": values["budget"],
        "primary_metric": metrics.primary(measured, n_reference),
        "metrics": metrics.described(measured),
        "identity": identity_of(trial),
        "config": without_infinity(to_dict(trial)),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
        "commit": commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def typed(overrides: list[str], own: Sequence[str] = ()) -> str:
    """The command that runs the study, as a user types it: without plan=FILE, which only writes a file, and watch=…,
    which a reader may not have and which changes nothing."""
    words = [text for text in map(as_typed, overrides) if text and not text.startswith(("plan=", "watch="))]
    folders = [word for folder in own for word in ("--config-dir", folder)]
    return shlex.join(["python", "-m", "sweeps.run", *folders, *words])


def as_typed(override: str) -> str:
    """An override as a user types it; "" for one that `sweeps.overrides.normalised` adds beside its `++`."""
    return "" if override.removeprefix("~") in METHODS else override.removeprefix("++")


def axes_of(sweep: dict[str, Any]) -> dict[str, Any]:
    """The axes that a sweep varies, by kind."""
    return {kind: sweep[kind] for kind in AXES if sweep.get(kind)}


def identity_of(trial: TrialConfig) -> dict[str, Any]:
    """The PRIVACY and RESULT fields of a trial, by section, as YAML keeps them."""
    found = {"trial": identity(trial)}
    for name in sections(TrialConfig):
        section = getattr(trial, name)
        if hasattr(section, "__dataclass_fields__"):
            found[name] = identity(section)
    return without_infinity(found)


def commit() -> str:
    """The checkout's commit, with `+` when files differ from it; "unknown" outside git."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", *CODE],
            cwd=ROOT, capture_output=True, encoding="utf-8", check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")

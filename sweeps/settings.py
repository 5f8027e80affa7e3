"""The settings that exist: whatever else is written on the command line, in a sweep or in a preset is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sweeps.plan import AXES
from wavedp import chain, registry
from wavedp.config import (
    METHODS,
    DataConfig,
    DiffusionConfig,
    MetricsConfig,
    PrivacyConfig,
    SamplingConfig,
    TrialConfig,
    sections,
)
from wavedp.entries import Zoo
from wavedp.errors import UserError, nearest
from wavedp.privacy.budget import Budget

ROOT = Path(__file__).resolve().parent.parent
KEYS = (
    *sections(TrialConfig),
    "sweep",
    "study",
    "results",
    "store",
    "zoo",
    "budget",
    "only",
    "explain",
    "dry_run",
    "plan",
    "watch",
    "ray",
)
SHARED = {
    "data": DataConfig, "public": DataConfig, "diffusion": DiffusionConfig, "privacy": PrivacyConfig,
    "sampling": SamplingConfig, "metrics": MetricsConfig, "zoo": Zoo, "budget": Budget,
}  # fmt: skip
SEARCH = ("trials", "startup", "seed", "space", "random_k")
RESOURCES = ("num_cpus", "num_gpus", "memory", "resources", "accelerator_type", "label_selector")


def refuse_unknown(values: dict[str, Any]) -> None:
    """Raises UserError for a setting at any depth that nothing reads, with the nearest that something does, and for a
    section that has been given a value or taken away."""
    for place, section, known in _places(values):
        if not isinstance(section, dict):
            raise UserError(
                f"{place}={section} is no section of settings: set one of {', '.join(sorted(known))} in it."
            )
        for name in section:
            if name not in known:
                where = f"{place}." if place else ""
                raise UserError(f"{where}{name} is not a setting: {nearest(str(name), known, where)}")


def _places(values: dict[str, Any]) -> Iterator[tuple[str, Any, Iterable[str]]]:
    """Every section with the names that it may have."""
    yield "", values, KEYS
    for name, config in SHARED.items():
        if values.get(name) is not None or name != "public":
            yield name, values.get(name), [item.name for item in fields(config)]
    for kind in METHODS:
        yield kind, values.get(kind), _fields_of_methods(kind, values.get(kind))
    sweep = values.get("sweep")
    if sweep is not None:
        yield "sweep", sweep, ("name", *AXES)
        search = sweep.get("search")
        if search is not None:
            yield "sweep.search", search, SEARCH
    yield "ray", values.get("ray"), _ray_options()
    stages = values["ray"].get("stages")
    yield "ray.stages", stages, chain.NAMES
    for stage, resources in stages.items():
        yield f"ray.stages.{stage}", resources, RESOURCES


def _fields_of_methods(kind: str, section: Any) -> set[str]:
    """The fields that any method of the kind reads: a preset may serve several."""
    chosen = [registry.find(kind, section["name"])] if isinstance(section, dict) and section.get("name") else []
    every = [method for _, method in registry.each(kind)]
    return {"name"}.union(*({item.name for item in fields(method.Config)} for method in [*every, *chosen]))


@cache
def _ray_options() -> set[str]:
    """The options of `ray` in any of its files."""
    files = (ROOT / "conf" / "ray").glob("*.yaml")
    return set().union(*(yaml.safe_load(path.read_text(encoding="utf-8")) for path in files)) - {"defaults"}

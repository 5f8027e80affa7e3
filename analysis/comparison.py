"""Results published by other papers (analysis/published/*.yaml), and how their protocols differ from a study's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from analysis.captions import delta_text
from analysis.load import Study

PUBLISHED = Path(__file__).parent / "published"


@dataclass(frozen=True)
class Published:
    """One paper's results. methods: {method: {ε: value}}; differences: those of its protocol from the study's."""

    name: str
    source: str
    metric: str
    methods: dict[str, dict[float, float]]
    differences: list[str]

    @property
    def comparable(self) -> bool:
        return not self.differences


def published(study: Study, metric: str, folder: Path = PUBLISHED) -> list[Published]:
    """Published results on the study's data set in the family of `metric` (its first word: fid, kid, accuracy)."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        paper = yaml.safe_load(path.read_text(encoding="utf-8"))
        same_data = paper["dataset"] == _config(study, "data.name")
        if same_data and paper["metric"].split("_")[0] == metric.split("_")[0]:
            methods = {name: {float(e): float(v) for e, v in row.items()} for name, row in paper["methods"].items()}
            found.append(
                Published(paper["name"], paper["source"], paper["metric"], methods, _differences(study, metric, paper))
            )
    return found


def _differences(study: Study, metric: str, paper: dict[str, Any]) -> list[str]:
    protocol = paper["protocol"]
    ours: dict[str, tuple[Any, Any]] = {
        "metric": (paper["metric"], {metric}),
        "resolution": (paper["resolution"], {_config(study, "data.size")}),
        "split": (protocol["data.split"], {_config(study, "data.split")}),
        "accountant": (protocol["accountant"], {line.get("accountant") for line in study.ledger} - {None}),
    }
    found = [
        f"{name} {theirs} (here {', '.join(sorted(map(str, here)))})"
        for name, (theirs, here) in ours.items()
        if here != {theirs}
    ]
    deltas = {trial.delta for trial in study.done if trial.delta}
    if any(not math.isclose(delta, protocol["privacy.delta"], rel_tol=0.01) for delta in deltas):
        found.append(f"δ {delta_text(protocol['privacy.delta'])} (here {', '.join(map(delta_text, sorted(deltas)))})")
    return found


def _config(study: Study, dotted: str) -> Any:
    value: Any = study.meta.get("config", {})
    for name in dotted.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value

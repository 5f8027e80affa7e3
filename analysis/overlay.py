"""Figure F1: quality against ε of one or several studies, at the ε of one trial and at what the ledger says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import unescape
from typing import Any

from analysis import captions
from analysis.chosen import on_one_axis
from analysis.compare_rows import MethodRow, rows_of
from analysis.dominance import Tried, chances, on_front
from analysis.load import Study, together
from analysis.pareto import Front, pareto_data
from analysis.replicates import Interval, epsilon_text

MEANING = (
    "Solid, with 95% Student t bands over seeds: at the ε of the ledger, of all releases of the line up to there, "
    "composed. Dashed: at the ε of one trial, as papers report it. Filled: no other point has both a lower ε of a "
    "trial and a better mean."
)
CHANCE = "Dominance probability (in the .html, on hovering): how often that is so when seeds are drawn again."


@dataclass(frozen=True)
class Spot:
    """One ε of a line. ledger: composed ε of the line's releases up to here (None at 0 and ∞); chance: its dominance
    probability (None below three seeds)."""

    epsilon: float
    spent: float
    ledger: float | None
    value: Interval
    on_front: bool
    chance: float | None


@dataclass(frozen=True)
class Line:
    """A series of a study. lost: ε without a result, which no line may cross."""

    study: str
    label: str
    spots: list[Spot]
    lost: tuple[float, ...]


@dataclass(frozen=True)
class Overlay:
    """Contents of the figure. totals: (releases, ε of all together) by study; floor: what real images get."""

    metric: str
    lower_is_better: bool
    lines: list[Line]
    totals: dict[str, tuple[int, float]]
    floor: float | None
    caption: str
    said: list[str]
    provenance: dict[str, Any]


def overlay_data(studies: Sequence[Study], metric: str | None = None) -> Overlay:
    """Every series of the studies that may share an axis. Raises UserError if no finished trial has the metric."""
    shared = on_one_axis(studies, metric)
    found: list[tuple[str, Front, MethodRow]] = []
    totals: dict[str, tuple[int, float]] = {}
    for study, name in zip(shared.studies, shared.names, strict=True):
        data = pareto_data(study, shared.metric)
        rows = {row.label: row for row in rows_of(study, shared.metric) if row.competes}
        found += [(name, front, rows[front.label]) for front in data.fronts if front.label in rows]
        if data.total is not None:
            totals[name] = data.releases, data.total
    tried = [
        Tried(name, point.epsilon, row.points[point.epsilon].by_seed(shared.metric))
        for name, front, row in found
        for point in front.points
    ]
    judged = iter(zip(on_front(tried, shared.lower_is_better), chances(tried, shared.lower_is_better), strict=True))
    lines = [
        Line(
            name,
            f"{name}: {unescape(front.label)}" if len(shared.studies) > 1 else unescape(front.label),
            [Spot(p.epsilon, p.spent, p.composed, p.value, *next(judged)) for p in front.points],
            front.lost,
        )
        for name, front, _ in found
    ]
    both = together(shared.studies)
    floors = [floor for study in shared.studies if (floor := study.floor(shared.metric)) is not None]
    values = [spot.value for line in lines for spot in line.spots]
    return Overlay(
        shared.metric,
        shared.lower_is_better,
        lines,
        totals,
        min(floors, default=None),
        _caption(both, shared.metric, values, totals, floors, shared.said),
        shared.said,
        {"studies": [study.provenance() for study in shared.studies]},
    )


def _caption(
    study: Study,
    metric: str,
    values: Sequence[Interval],
    totals: dict[str, tuple[int, float]],
    floors: Sequence[float],
    said: Sequence[str],
) -> str:
    prices = [
        f"{name}, all {captions.count_text(count)}: ε = {epsilon_text(epsilon)}"
        for name, (count, epsilon) in totals.items()
    ]
    return " ".join(
        [
            MEANING,
            captions.seeds_sentence(values, bars="bands and bars"),
            *([CHANCE] if any(value.half_width is not None for value in values) else []),
            *([f"Dotted: whole studies ({'; '.join(prices)})."] if prices else []),
            captions.metric_sentence(study, metric),
            *([f"Real images in their place get {min(floors):.3g}."] if floors else []),
            captions.privacy_sentence(study),
            captions.nonprivate_sentence(study),
            *said,
        ]
    )

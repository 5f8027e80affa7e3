"""Quality against privacy: a study's fronts, each drawn at two values of ε.

`pareto_data(study)` computes the numbers, `analysis.pareto_figure` draws them. A front is one series (every axis except
ε and seed). Its solid line is at the ε of single trials, which papers report; its dashed twin at the composed ε of
publishing the front up to that point, all seeds included; the dotted vertical at the composed ε of the whole study.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Any

from analysis import captions
from analysis.comparable import Published, published, published_sentences
from analysis.compare_rows import rows_of
from analysis.load import Study, Trial
from analysis.price import composed, releases
from analysis.replicates import Interval, Point, points

DOMINANCE = "Filled points: no other point has both a lower ε and a better mean; pale points are dominated."


@dataclass(frozen=True)
class FrontPoint:
    """One ε of a front. composed: ε of all private releases of the front up to here; None at 0 and ∞."""

    epsilon: float
    spent: float
    composed: float | None
    value: Interval
    nondominated: bool


@dataclass(frozen=True)
class Front:
    """One series, its points in ascending ε. lost: ε that were tried and have no result."""

    label: str
    points: list[FrontPoint]
    lost: tuple[float, ...] = ()

    @property
    def is_anchor(self) -> bool:
        """True if no point lies between 0 and ∞, as for the purely public model or for real images."""
        return not any(0 < point.epsilon < math.inf for point in self.points)


@dataclass(frozen=True)
class ParetoData:
    """Contents of the figure. total: composed ε of every private release of the study (None without one). floor: score
    of real images by the metric (None if not measured)."""

    title: str
    metric: str
    lower_is_better: bool
    fronts: list[Front]
    total: float | None
    releases: int
    published: list[Published]
    floor: float | None
    caption: str
    provenance: dict[str, Any]


def pareto_data(study: Study, metric: str | None = None, with_published: bool = False) -> ParetoData:
    """Compute mean, interval, both ε and dominance of every point that has `metric` (None: the primary metric).

    Raises UserError when no finished trial has the metric.
    """
    metric = study.metric(metric)
    lower = study.lower_is_better(metric)
    found = [(point, value) for point in points(study) if (value := point.interval(metric)) is not None]
    prices: dict[frozenset[tuple[str, ...]], float] = {}

    def price(lines: list[dict[str, Any]]) -> float | None:
        """Compose each set of releases once: fronts that differ only after the private fit share theirs."""
        rests_on = frozenset((line["purpose"], line["stage_key"], str(line.get("release"))) for line in lines)
        if rests_on not in prices:
            prices[rests_on] = composed(lines)
        return prices[rests_on] if lines else None

    fronts: dict[str, list[FrontPoint]] = {}
    front_trials: dict[str, list[Trial]] = {}
    for point, value in found:
        trials = front_trials.setdefault(point.series, [])
        trials += point.trials
        lines = releases(study, trials) if 0 < point.epsilon < math.inf else []
        best = not any(_dominates(other, (point, value), lower) for other in found)
        fronts.setdefault(point.series, []).append(FrontPoint(point.epsilon, point.spent, price(lines), value, best))
    lost = {row.label: tuple(sorted(row.lost.keys() - row.points.keys())) for row in rows_of(study, metric)}
    everything = releases(study)
    papers = published(study, metric) if with_published else []
    return ParetoData(
        title=_title(study),
        metric=metric,
        lower_is_better=lower,
        fronts=[Front(label, front, lost.get(label, ())) for label, front in fronts.items()],
        total=price(everything),
        releases=len(everything),
        published=papers,
        floor=study.floor(metric),
        caption=_caption(study, metric, [value for _, value in found], papers),
        provenance=study.provenance(),
    )


def _dominates(one: tuple[Point, Interval], other: tuple[Point, Interval], lower: bool) -> bool:
    """Return True if `one` is no worse in ε and mean and better in one of them. Real images never dominate."""
    sign = 1 if lower else -1
    a, b = (one[0].epsilon, sign * one[1].mean), (other[0].epsilon, sign * other[1].mean)
    return not one[0].is_real and a != b and a[0] <= b[0] and a[1] <= b[1]


def _title(study: Study) -> str:
    data = study.meta.get("config", {}).get("data", {})
    size = f", {data['size']}×{data['size']}" if "size" in data else ""
    return f"<b>{escape(study.name, quote=False)}</b>" + (f": {data['name']}{size}" if "name" in data else "")


def _caption(study: Study, metric: str, values: list[Interval], papers: list[Published]) -> str:
    sentences = [
        captions.seeds_sentence(values),
        DOMINANCE,
        captions.metric_sentence(study, metric) + captions.floor_clause(study, metric),
        captions.privacy_sentence(study),
        captions.nonprivate_sentence(study),
    ]
    return " ".join([*sentences, *published_sentences(papers)])

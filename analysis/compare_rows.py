"""The rows of a comparison: the series of each study at every ε, with the trials that have no result."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.load import Study
from analysis.replicates import Point, epsilon_text, points, samples_of, series_labels


@dataclass(frozen=True)
class MethodRow:
    """One series of a study. points: {ε: its finished trials}; lost: {ε: how many trials ended how} of those without a
    result."""

    label: str
    study: str
    points: dict[float, Point]
    lost: dict[float, dict[str, int]]

    @property
    def competes(self) -> bool:
        """False for real images, which bound every score."""
        return not any(point.is_real for point in self.points.values())


def rows_of(study: Study, metric: str, name: str = "", several: bool = False) -> list[MethodRow]:
    """The series of a study, in order of first appearance. several: whether labels begin with the study's name."""
    labels = series_labels(study)
    found: dict[str, dict[float, Point]] = {label: {} for label in labels.values()}
    for point in points(study):
        if point.interval(metric) is not None:
            found[point.series][point.epsilon] = point
    lost = _lost(study, metric, labels)
    return [
        MethodRow(f"{name}: {label}" if several else label, name, row, lost.get(label, {}))
        for label, row in found.items()
    ]


def _lost(study: Study, metric: str, labels: dict[str, str]) -> dict[str, dict[float, dict[str, int]]]:
    """{series: {ε: {how samples without the metric ended: their number}}}. Samples that another trial judged by the
    metric are not lost."""
    measured = {samples_of(trial) for trial in study.done if metric in trial.metrics}
    ended: dict[tuple[str, float, str], str] = {}
    for trial in study.trials:
        place = labels[trial.trial], trial.budget, samples_of(trial)
        if trial.status != "done":
            ended[place] = trial.status
        else:
            ended.setdefault(place, "unmeasured")
    found: dict[str, dict[float, dict[str, int]]] = {}
    for (label, budget, samples), status in ended.items():
        if samples not in measured:
            counts = found.setdefault(label, {}).setdefault(budget, {})
            counts[status] = counts.get(status, 0) + 1
    return found


def means_of(row: MethodRow, metric: str) -> dict[float, float]:
    values = {epsilon: point.interval(metric) for epsilon, point in row.points.items()}
    return {epsilon: value.mean for epsilon, value in values.items() if value is not None}


def shared_sentences(rows: Sequence[MethodRow]) -> list[str]:
    """Rows of two studies that hold the same results, which count as one."""
    found = []
    for a, b in itertools.combinations(rows, 2):
        both = [e for e in sorted(a.points.keys() & b.points.keys()) if _results(a.points[e]) & _results(b.points[e])]
        if both:
            found.append(f"{a.label} and {b.label} share results at ε = {', '.join(map(epsilon_text, both))}.")
    return found


def _results(point: Point) -> set[str]:
    return {trial.keys["evaluate"] for trial in point.trials if "evaluate" in trial.keys}

"""Which trials are replicates of each other, and what their mean is worth.

A series is a setting of every axis except ε and seed; a point is one ε of one series; its trials differ in seed only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from analysis.load import Study, Trial

REPLICATE_AXES = ("epsilon", "seed")


@dataclass(frozen=True)
class Interval:
    """Mean over n replicates and half the width of its 95% interval (None when n < 2)."""

    mean: float
    half_width: float | None
    n: int

    @property
    def low(self) -> float:
        return self.mean - (self.half_width or 0.0)

    @property
    def high(self) -> float:
        return self.mean + (self.half_width or 0.0)


@dataclass(frozen=True)
class Point:
    """The finished trials of one series at one ε, one for each distinct result."""

    series: str
    epsilon: float
    trials: list[Trial]

    @property
    def spent(self) -> float:
        """The largest ε that any one of these trials spent."""
        return max(self.epsilon if trial.epsilon_spent is None else trial.epsilon_spent for trial in self.trials)

    @property
    def is_real(self) -> bool:
        """Resampled real images: the ceiling of every score, not a competitor."""
        return all(trial.generator == "real" for trial in self.trials)

    def interval(self, metric: str) -> Interval | None:
        """Mean and 95% interval of a metric; None when no trial has it."""
        values = [trial.metrics[metric] for trial in self.trials if metric in trial.metrics]
        return interval(values) if values else None


def interval(values: list[float]) -> Interval:
    """Student t interval at 95% for the mean of independent replicates: mean ± t(0.975, n-1) s / sqrt(n)."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Interval(mean, None, n)
    from scipy.stats import t  # a second to import, and only needed here

    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return Interval(mean, float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n), n)


def points(study: Study) -> list[Point]:
    """Finished trials as points: series in the order of first appearance, ε ascending within each.

    Trials that share the key of their last stage are one result, counted once: a generator that ignores ε gives the
    same images for every ε of a grid, and counting them again would shrink the interval.
    """
    labels = series_labels(study.trials)
    groups: dict[tuple[str, float], dict[str, Trial]] = {}
    for trial in study.done:
        group = groups.setdefault((labels[trial.trial], trial.budget), {})
        group.setdefault(trial.keys.get("evaluate", trial.trial), trial)
    order = list(dict.fromkeys(labels.values()))
    found = [Point(series, epsilon, list(group.values())) for (series, epsilon), group in groups.items()]
    return sorted(found, key=lambda point: (order.index(point.series), point.epsilon))


def series_labels(trials: Iterable[Trial]) -> dict[str, str]:
    """Trial id to the name of its series: the values of the axes that vary, such as `level 1, bicubic`."""
    trials = list(trials)
    names = list(dict.fromkeys(name for trial in trials for name in trial.axes if _short(name) not in REPLICATE_AXES))
    varying = [name for name in names if len({str(trial.axes.get(name)) for trial in trials}) > 1]
    if varying:
        return {t.trial: ", ".join(_value(name, t.axes.get(name)) for name in varying) for t in trials}
    return {t.trial: f"{t.generator}, level {t.level}, {t.upscaler}" for t in trials}


def epsilon_text(epsilon: float) -> str:
    """ε for people: 3, 0.2, ∞."""
    return "∞" if math.isinf(epsilon) else f"{epsilon:.3g}"


def _short(name: str) -> str:
    """`upscaler.name` and `upscaler` are one axis to a reader, as are `privacy.epsilon` and `epsilon`."""
    parts = name.split(".")
    return parts[-2] if parts[-1] == "name" and len(parts) > 1 else parts[-1]


def _value(name: str, value: Any) -> str:
    return value if isinstance(value, str) else f"{_short(name)} {value}"

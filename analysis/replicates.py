"""Group trials that are replicates of each other, and compute intervals for their means.

A series is a setting of every axis except ε and the seeds; a point is one ε of one series. The trials of a point differ
in `seed` (the private fit) and `sampling.seed` (the sample set of that fit). Sample sets of one fit say nothing about
another fit: where there are several fits, the mean over a fit's sets is one replicate.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Literal

from analysis.load import Study, Trial

LEAST_SEEDS = 3  # two values have a spread of one degree of freedom: t is 12.7, and says little
REPLICATE_AXES = ("epsilon", "seed")


@dataclass(frozen=True)
class Interval:
    """Mean over n replicates and half the width of its 95% interval (None below LEAST_SEEDS). of: kind of replicate."""

    mean: float
    half_width: float | None
    n: int
    of: Literal["seeds", "sample sets"] = "seeds"

    @property
    def low(self) -> float:
        return self.mean - (self.half_width or 0.0)

    @property
    def high(self) -> float:
        return self.mean + (self.half_width or 0.0)


@dataclass(frozen=True)
class Point:
    """Finished trials of one series at one ε, one per distinct result."""

    series: str
    epsilon: float
    trials: list[Trial]

    @property
    def spent(self) -> float:
        """Largest ε that any single one of these trials spent."""
        return max(self.epsilon if trial.epsilon_spent is None else trial.epsilon_spent for trial in self.trials)

    @property
    def is_real(self) -> bool:
        """True for resampled real images, which bound every score and do not compete."""
        return all(trial.generator == "real" for trial in self.trials)

    def interval(self, metric: str) -> Interval | None:
        """Mean and 95% interval of a metric; None when no trial has it."""
        fits = self._fits(metric)
        if len(fits) == 1:
            (values,) = fits.values()
            return replace(interval(values), of="sample sets" if len(values) > 1 else "seeds")
        return interval(list(self.by_seed(metric).values())) if fits else None

    def by_seed(self, metric: str) -> dict[int, float]:
        """A metric of each private fit, by its seed: the mean over the fit's sample sets."""
        return {seed: math.fsum(values) / len(values) for seed, values in self._fits(metric).items()}

    def _fits(self, metric: str) -> dict[int, list[float]]:
        fits: dict[int, list[float]] = {}
        for trial in self.trials:
            if metric in trial.metrics:
                fits.setdefault(trial.seed, []).append(trial.metrics[metric])
        return fits

    @property
    def replicates(self) -> str:
        """Number of private fits, with the number of sample sets of each if there are several: `3`, `1×3`."""
        fits = len({trial.seed for trial in self.trials})
        sets = len(self.trials) / fits
        return f"{fits}" if sets == 1 else f"{fits}×{sets:.3g}"


def interval(values: list[float]) -> Interval:
    """Student's t interval at 95% for the mean of independent replicates: mean ± t(0.975, n-1) s / sqrt(n); none below
    LEAST_SEEDS."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < LEAST_SEEDS:
        return Interval(mean, None, n)
    from scipy.stats import t  # takes a second to import and is needed only here

    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return Interval(mean, float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n), n)


def points(study: Study, labels: Mapping[str, str] | None = None) -> list[Point]:
    """Group finished trials into points: series in the order of first appearance, ε ascending within each.

    Trials of the same samples are one result and count once: a generator that ignores ε gives the same images for every
    ε of a grid, and counting them repeatedly would shrink the interval. Where several protocols judged these samples,
    the result has the metrics of all. labels: the series of each trial, where they are to be others than usual.
    """
    labels = series_labels(study) if labels is None else labels
    groups: dict[tuple[str, float], dict[str, Trial]] = {}
    for trial in study.done:
        group = groups.setdefault((labels[trial.trial], trial.budget), {})
        first = group.setdefault(samples_of(trial), trial)
        group[samples_of(trial)] = replace(first, metrics={**trial.metrics, **first.metrics})
    order = list(dict.fromkeys(labels.values()))
    found = [Point(series, epsilon, list(group.values())) for (series, epsilon), group in groups.items()]
    return sorted(found, key=lambda point: (order.index(point.series), point.epsilon))


def samples_of(trial: Trial) -> str:
    """What two trials share that differ only in how their samples were judged."""
    return trial.keys.get("upscale") or trial.keys.get("evaluate") or trial.trial


def series_labels(study: Study, without: Collection[str] = ()) -> dict[str, str]:
    """Map each trial id to the name of its series: the values of the axes that vary, such as `level 1, bicubic` or
    `quartic (cosine, dct)`. A protocol of evaluation makes no series of its own where its metrics have names of their
    own. Markup in a value is escaped, for figures and Markdown would obey it. without: axes that are shown elsewhere;
    labels are then empty where no other varies."""
    trials = study.trials
    names = list(dict.fromkeys(name for trial in trials for name in trial.axes))
    names = [name for name in names if _short(name) not in {*REPLICATE_AXES, *without}]
    if _names_tell_protocols(study.done):
        names = [name for name in names if not _is_protocol(name)]
    varying = [name for name in names if len({str(trial.axes.get(name)) for trial in trials}) > 1]
    if "blur" in varying:  # Study.blur tells these
        varying = [name for name in varying if name not in ("diffusion.noise_schedule", "diffusion.basis")]
    if varying or without:
        return {
            t.trial: ", ".join(study.blur(t) if name == "blur" else _value(name, t.axes.get(name)) for name in varying)
            for t in trials
        }
    return {t.trial: f"{t.generator}, level {t.level}, {t.upscaler}" for t in trials}


def _is_protocol(axis: str) -> bool:
    """`metrics`, or one field of it."""
    return axis.split(".")[0] == "metrics"


def _names_tell_protocols(trials: Sequence[Trial]) -> bool:
    """True unless two values of a protocol's axes gave the same samples a metric of one name and two values."""
    known: dict[tuple[str, str], float] = {}
    return all(
        known.setdefault((samples_of(trial), name), value) == value
        for trial in trials
        for name, value in trial.metrics.items()
    )


def epsilon_text(epsilon: float) -> str:
    """Format ε for display: 3, 0.2, ∞."""
    return "∞" if math.isinf(epsilon) else f"{epsilon:.3g}"


def _short(name: str) -> str:
    """Shorten an axis name: `upscaler.name` to `upscaler`, `privacy.epsilon` to `epsilon`."""
    parts = name.split(".")
    return parts[-2] if parts[-1] == "name" and len(parts) > 1 else parts[-1]


def _value(name: str, value: Any) -> str:
    return escape(value, quote=False) if isinstance(value, str) else f"{_short(name)} {value}"

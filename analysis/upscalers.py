"""Figure F5: upscalers on the same coarse images: the metric, seconds per image, and what they add to the ledger."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import unescape
from typing import Any

from analysis import captions
from analysis.chosen import on_one_axis
from analysis.load import Study, Trial
from analysis.price import composed, releases
from analysis.recorded import configuration
from analysis.replicates import Interval, Point, epsilon_text, points, series_labels
from wavedp.errors import UserError


@dataclass(frozen=True)
class Bar:
    """One upscaler. values: by level and ε; seconds: of its stage per image, by level (None: not recorded)."""

    label: str
    values: dict[tuple[int, float], Interval]
    seconds: dict[int, float | None]


@dataclass(frozen=True)
class Upscalers:
    """Contents of the figure. places: every level and ε; extra: composed ε of all upscalers' releases less that of the
    dearest single upscaler, of a study with `releases` private ones (None without any)."""

    metric: str
    lower_is_better: bool
    places: list[tuple[int, float]]
    bars: list[Bar]
    extra: float | None
    releases: int
    floor: float | None
    caption: str
    said: list[str]
    provenance: dict[str, Any]


def upscalers_data(studies: Sequence[Study], metric: str | None = None) -> Upscalers:
    """The upscalers of one study: the first of those that have the metric. Raises UserError without a finished trial,
    or if all its trials have one upscaler."""
    shared = on_one_axis(studies, metric)
    study = shared.studies[0]
    said = [*shared.said, *(f"{name} is left out: this figure is of one study." for name in shared.names[1:])]
    labels = {name: unescape(label) for name, label in series_labels(study, without=("level",)).items()}
    grouped: dict[str, dict[tuple[int, float], Point]] = {}
    for level in dict.fromkeys(trial.level for trial in study.trials):
        here = Study(study.folder, study.meta, [t for t in study.trials if t.level == level], study.ledger)
        for point in points(here, labels):
            if point.interval(shared.metric) is not None:
                grouped.setdefault(point.series, {})[level, point.epsilon] = point
    trials = {label: [t for point in found.values() for t in point.trials] for label, found in grouped.items()}
    if len({trial.upscaler for found in trials.values() for trial in found}) < 2:
        raise UserError(f"{shared.names[0]} has one upscaler, and nothing to compare: give a study with several.")
    bars = [
        Bar(
            label,
            {place: value for place, point in found.items() if (value := point.interval(shared.metric)) is not None},
            {level: _seconds(study, trials[label], level) for level in sorted({level for level, _ in found})},
        )
        for label, found in grouped.items()
    ]
    extra, count = _extra(study, trials)
    return Upscalers(
        shared.metric,
        shared.lower_is_better,
        sorted({place for bar in bars for place in bar.values}),
        bars,
        extra,
        count,
        study.floor(shared.metric),
        _caption(study, shared.metric, bars, extra, count, said),
        said,
        {"studies": [study.provenance()]},
    )


def _seconds(study: Study, trials: Iterable[Trial], level: int) -> float | None:
    """Mean seconds per image of these trials' upscaling at one level; None where no trial recorded it."""
    found = [
        trial.seconds["upscale"] / images
        for trial in trials
        if trial.level == level and "upscale" in trial.seconds and (images := _images(study, trial))
    ]
    return math.fsum(found) / len(found) if found else None


def _images(study: Study, trial: Trial) -> int | None:
    """How many images a trial made."""
    config = configuration(study, trial)
    if config is not None:
        return config.sampling.n
    return ((study.meta.get("config") or {}).get("sampling") or {}).get("n")


def _extra(study: Study, trials: dict[str, list[Trial]]) -> tuple[float | None, int]:
    """What the study's upscalers together cost more than the dearest of them, and how many releases they use."""
    every = releases(study, [trial for found in trials.values() for trial in found])
    if not every:
        return None, 0
    single = max(composed(releases(study, found)) for found in trials.values())
    return max(0.0, composed(every) - single), len(every)


def price_sentence(extra: float | None, count: int, upscalers: int) -> str:
    """What the ledger says of trying several upscalers."""
    if extra is None:
        return "No private release."
    fits = f"{captions.count_text(count)}, {upscalers} upscalers"
    return f"{fits}: 0 extra ε." if extra == 0 else f"{fits}: {epsilon_text(extra)} extra ε beyond the dearest alone."


def _caption(
    study: Study, metric: str, bars: Sequence[Bar], extra: float | None, count: int, said: Sequence[str]
) -> str:
    missing = sum(seconds is None for bar in bars for seconds in bar.seconds.values())
    clock = "Seconds: of the stage `upscale`, loading of the model included, over the images that it made."
    if missing:
        clock += " –: not recorded, for the stage was found finished."
    return " ".join(
        [
            captions.seeds_sentence([value for bar in bars for value in bar.values.values()]),
            price_sentence(extra, count, len(bars)) + " (From the ledger.)" * (extra is not None),
            clock,
            "The records do not tell the models' sizes.",
            captions.metric_sentence(study, metric) + captions.floor_clause(study, metric),
            captions.privacy_sentence(study),
            captions.nonprivate_sentence(study),
            *said,
        ]
    )

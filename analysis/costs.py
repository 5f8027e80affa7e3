"""What a method's trials took: seconds of their stages, peak memory, and private releases.

A stage that several trials share counts in each of them as if it had been made for it, at the seconds that it took
where it was made. What no trial of the study made (a model of the zoo, an artifact of an earlier study) is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.load import Study, Trial
from analysis.price import releases

PARTS = {
    "public training": ("tokenizer", "pretrain", "upscaler"),
    "private fit": ("private_fit", "upscaler_fit"),
    "samples": ("coarse_samples", "upscale"),
}
"""What one trial does of its own, by stages. References and metrics are the study's, whatever the method."""


@dataclass(frozen=True)
class Cost:
    """Means over a method's trials. seconds: {part: seconds of one trial}, None where a stage's are unknown. memory:
    the largest of any of these stages, {host or gpu: MiB}; empty in older studies. releases: of all the trials."""

    method: str
    seconds: dict[str, float | None]
    memory: dict[str, int]
    releases: int


def cost(study: Study, method: str, trials: Sequence[Trial]) -> Cost:
    """The cost of one method, whose trials these are (at least one)."""
    took = {trial.keys[name]: seconds for trial in study.trials for name, seconds in trial.seconds.items()}
    held = {trial.keys[name]: held for trial in study.trials for name, held in trial.memory.items()}
    stages = [name for part in PARTS.values() for name in part]
    seen = [held.get(trial.keys[name], {}) for trial in trials for name in stages if name in trial.keys]
    return Cost(
        method,
        {part: _mean(_seconds(trial, names, took) for trial in trials) for part, names in PARTS.items()},
        {place: max(each[place] for each in seen if place in each) for place in sorted({p for e in seen for p in e})},
        len(releases(study, trials)),
    )


def _seconds(trial: Trial, names: Iterable[str], took: dict[str, float]) -> float | None:
    keys = [trial.keys[name] for name in names if name in trial.keys]
    return math.fsum(took[key] for key in keys) if all(key in took for key in keys) else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None

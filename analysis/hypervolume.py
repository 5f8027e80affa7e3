"""Figure F8: the hypervolume of a study's front after its first n trials, one study against another.

A study's trials are taken in the order of its rows. A setting (series and ε) counts as soon as all its seeds are there,
and a study's hypervolume is that of all its settings so far (analysis.front), at the ε that all studies have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis import captions
from analysis.chosen import on_one_axis
from analysis.compare_rows import rows_of
from analysis.front import BEYOND, Volume, volume
from analysis.load import Study, together
from analysis.replicates import Point, epsilon_text
from wavedp.errors import UserError


@dataclass(frozen=True)
class Growth:
    """One study: (finished trials, hypervolume of what they gave) after each setting. lost: trials without a result."""

    study: str
    steps: list[tuple[int, Volume]]
    lost: int


@dataclass(frozen=True)
class Hypervolumes:
    """Contents of the figure. reference: ε and value; epsilons: those that all studies have."""

    metric: str
    lower_is_better: bool
    reference: tuple[float, float]
    epsilons: list[float]
    growths: list[Growth]
    caption: str
    said: list[str]
    provenance: dict[str, Any]


def hypervolume_data(
    studies: Sequence[Study], metric: str | None = None, reference: tuple[float, float] | None = None
) -> Hypervolumes:
    """Studies that may share an axis. reference: BEYOND times the largest common ε, and the worst single run there,
    unless given. Raises UserError without a finite ε that all have."""
    shared = on_one_axis(studies, metric)
    tried = {
        name: [point for row in rows_of(study, shared.metric) if row.competes for point in row.points.values()]
        for study, name in zip(shared.studies, shared.names, strict=True)
    }
    finite = [{point.epsilon for point in found if 0 < point.epsilon < math.inf} for found in tried.values()]
    common = sorted(set.intersection(*finite))
    if not common:
        raise UserError(f"{' and '.join(shared.names)} have no finite ε in common, so their fronts span no area.")
    kept = {name: [point for point in found if point.epsilon in common] for name, found in tried.items()}
    runs = [value for found in kept.values() for point in found for value in point.by_seed(shared.metric).values()]
    corner = reference or (BEYOND * common[-1], (max if shared.lower_is_better else min)(runs))
    growths = [
        Growth(
            name,
            _steps(study, kept[name], shared.metric, corner, shared.lower_is_better),
            sum(trial.status != "done" for trial in study.trials),
        )
        for study, name in zip(shared.studies, shared.names, strict=True)
    ]
    both = together(shared.studies)
    return Hypervolumes(
        shared.metric,
        shared.lower_is_better,
        corner,
        common,
        growths,
        _caption(both, shared.metric, corner, common, growths, shared.said),
        shared.said,
        {"studies": [study.provenance() for study in shared.studies]},
    )


def _steps(
    study: Study, found: Sequence[Point], metric: str, reference: tuple[float, float], lower: bool
) -> list[tuple[int, Volume]]:
    order = {trial.trial: place for place, trial in enumerate(study.trials)}
    ends = sorted(found, key=lambda point: max(order[trial.trial] for trial in point.trials))
    steps = []
    for count in range(1, len(ends) + 1):
        chosen = [(point.epsilon, point.by_seed(metric)) for point in ends[:count]]
        trials = sum(len(point.trials) for point in ends[:count])
        steps.append((trials, volume(chosen, reference, lower)))
    return steps


def _caption(
    study: Study,
    metric: str,
    reference: tuple[float, float],
    common: Sequence[float],
    growths: Sequence[Growth],
    said: Sequence[str],
) -> str:
    seeds = {growth.study: growth.steps[-1][1].seeds for growth in growths}
    counts = [f"{name}, {n} seeds" for name, n in seeds.items() if n]
    without = [name for name, n in seeds.items() if not n]
    lost = [f"{growth.study} {growth.lost}" for growth in growths if growth.lost]
    return " ".join(
        [
            f"Area between the front of a study's first n trials and the reference point ε = {reference[0]:g}, "
            f"{metric} = {reference[1]:.4g}, over log10 ε, from the means at ε = "
            f"{', '.join(map(epsilon_text, common))}; larger is better. "
            "Trials in the order of their rows, a setting as soon as all its seeds are there.",
            *(
                [f"Bands: 95% bootstrap of whole seeds ({'; '.join(counts)}); of three seeds they are rough."]
                if counts
                else []
            ),
            *(
                [f"No band: {', '.join(without)}, of fewer than three seeds or not the same at every ε."]
                if without
                else []
            ),
            *([f"Trials without a result, which count for nothing: {', '.join(lost)}."] if lost else []),
            captions.metric_sentence(study, metric),
            captions.privacy_sentence(study),
            captions.nonprivate_sentence(study),
            *said,
        ]
    )

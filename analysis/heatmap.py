"""Figure F3: a metric at every wavelet level and ε, with its change against level 0 and the cells that have none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import unescape
from typing import Any

from analysis import captions
from analysis.chosen import Shared, on_one_axis
from analysis.load import Study, Trial, together
from analysis.paired import paired
from analysis.replicates import Interval, Point, points, samples_of, series_labels
from wavedp.errors import UserError

UNTOUCHED = "identity"  # the upscaler of level 0, which has nothing to enlarge


@dataclass(frozen=True)
class Cell:
    """value: None without a result. change: against level 0, seed by seed. lost: trials without a result, of whom the
    first says `reason`."""

    value: Interval | None
    change: Interval | None = None
    lost: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Panel:
    """One setting of everything else, such as `quartic, bicubic`. cells: by level and ε."""

    label: str
    cells: dict[tuple[int, float], Cell]


@dataclass(frozen=True)
class Heatmap:
    """Contents of the figure. levels and epsilons: of all panels, ascending."""

    metric: str
    lower_is_better: bool
    levels: list[int]
    epsilons: list[float]
    panels: list[Panel]
    caption: str
    said: list[str]
    provenance: dict[str, Any]


def heatmap_data(studies: Sequence[Study], metric: str | None = None) -> Heatmap:
    """Levels and ε of the studies that may share an axis, without real images. Raises UserError if no finished trial
    has the metric."""
    shared = on_one_axis(studies, metric)
    study = _told_apart(together(shared.studies))
    if not any(shared.metric in trial.metrics for trial in study.done):
        raise UserError(
            f"{', '.join(shared.names)}: only real images are judged by {shared.metric}, at no level and ε."
        )
    panels = [
        Panel(unescape(", ".join(filter(None, key))), _cells(study, trials, shared.metric))
        for key, trials in _panels(study).items()
    ]
    places = [place for panel in panels for place in panel.cells]
    return Heatmap(
        shared.metric,
        shared.lower_is_better,
        sorted({level for level, _ in places}),
        sorted({epsilon for _, epsilon in places}),
        panels,
        _caption(study, shared, panels),
        shared.said,
        {"studies": [each.provenance() for each in shared.studies]},
    )


def _told_apart(study: Study) -> Study:
    """Without real images, and with ids of their own for trials of several studies that have one name."""
    chosen = [trial for trial in study.trials if trial.generator != "real"]
    return replace(study, trials=[replace(trial, trial=str(index)) for index, trial in enumerate(chosen)])


def _panels(study: Study) -> dict[tuple[str, str], list[Trial]]:
    """Trials by what else they differ in; the upscaler tells panels apart where a level has several. Untouched
    images of level 0 are in the panel of each upscaler."""
    labels = series_labels(study, without=("level", "upscaler"))
    kinds = {(trial.level, trial.upscaler) for trial in study.trials}
    several = len(kinds) > len({level for level, _ in kinds})
    untouched = [trial for trial in study.trials if several and trial.level == 0 and trial.upscaler == UNTOUCHED]
    panels: dict[tuple[str, str], list[Trial]] = {}
    for trial in study.trials:
        if trial not in untouched:
            panels.setdefault((labels[trial.trial], trial.upscaler if several else ""), []).append(trial)
    for trial in untouched:
        homes = [key for key in panels if key[0] == labels[trial.trial] and key[1] != UNTOUCHED]
        for key in homes or [(labels[trial.trial], UNTOUCHED)]:
            panels.setdefault(key, []).append(trial)
    return panels


def _cells(study: Study, trials: Sequence[Trial], metric: str) -> dict[tuple[int, float], Cell]:
    """Every level and ε of one panel."""
    measured = {samples_of(trial) for trial in trials if trial.status == "done" and metric in trial.metrics}
    lost: dict[tuple[int, float], list[str]] = {}
    for trial in trials:
        if samples_of(trial) not in measured:
            lost.setdefault((trial.level, trial.budget), []).append(_reason(trial, metric))
    found: dict[tuple[int, float], Point] = {}
    for level in {trial.level for trial in trials}:
        alike = [trial for trial in trials if trial.level == level]
        one_series = dict.fromkeys((trial.trial for trial in alike), "")
        for point in points(replace(study, trials=alike), one_series):
            if point.interval(metric) is not None:
                found[level, point.epsilon] = point
    return {
        place: Cell(
            found[place].interval(metric) if place in found else None,
            _change(found.get(place), found.get((0, place[1])), metric) if place[0] else None,
            len(lost.get(place, [])),
            lost.get(place, [""])[0],
        )
        for place in sorted({*found, *lost})
    }


def _change(point: Point | None, base: Point | None, metric: str) -> Interval | None:
    if point is None or base is None:
        return None
    return paired("", "", point.epsilon, point.by_seed(metric), base.by_seed(metric)).difference


def _reason(trial: Trial, metric: str) -> str:
    if trial.status == "done":
        return f"no {metric}"
    return f"{trial.status}: {' '.join((trial.reason or 'no reason recorded').split())}"


def _caption(study: Study, shared: Shared, panels: Sequence[Panel]) -> str:
    cells = [cell for panel in panels for cell in panel.cells.values()]
    values = [cell.value for cell in cells if cell.value is not None]
    reasons = dict.fromkeys(cell.reason for cell in cells if cell.value is None)
    bare = sorted({value.n for value in values if value.half_width is None})
    return " ".join(
        [
            captions.seeds_sentence(values, "value", "±"),
            *(["Δ: change against level 0, the mean over common seeds."] if any(c.change for c in cells) else []),
            *(
                [f"Hatched: no result ({'; '.join(reasons)})."]
                if reasons and any(c.value is None for c in cells)
                else []
            ),
            *(
                [f"n = {', '.join(map(str, bare))} where there is no ±."]
                if bare and len({v.n for v in values}) > 1
                else []
            ),
            *_enlarged(study),
            captions.metric_sentence(study, shared.metric),
            captions.privacy_sentence(study),
            captions.nonprivate_sentence(study),
            *shared.said,
        ]
    )


def _enlarged(study: Study) -> list[str]:
    """By what the levels are enlarged, where each has one upscaler."""
    kinds = {(trial.level, trial.upscaler) for trial in study.trials if trial.level}
    if len(kinds) > len({level for level, _ in kinds}):
        return []
    return [f"Enlarged by {', '.join(f'{upscaler} (level {level})' for level, upscaler in sorted(kinds))}."] * bool(
        kinds
    )

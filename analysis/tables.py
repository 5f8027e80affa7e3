"""Results table in Markdown: one row per series and ε, mean ± half the 95% interval over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis import captions
from analysis.load import Study, Trial
from analysis.replicates import Interval, Point, epsilon_text, points

SETTINGS = ("generator", "level", "blur", "upscaler")


def table(study: Study, metrics: Sequence[str] | None = None) -> str:
    """Markdown table of the finished trials with the given metrics (None: all), then a table of those without a result.

    Bold marks the best mean among the rows of the same ε, if its interval overlaps no other row's.
    Raises UserError for a metric that no finished trial has.
    """
    metrics = [study.metric(name) for name in metrics] if metrics else study.metrics
    metrics = [name for name in metrics if not name.startswith("floor_")]  # shown in the metric's column heading
    found = points(study)
    bold = {metric: _separated(found, metric, study.lower_is_better(metric)) for metric in metrics}
    header = [
        "series",
        "ε",
        "ε spent",
        *(_column(study, metric) for metric in metrics),
        "n",
        "s/trial",
        "reused",
    ]
    rows = [_row(point, metrics, bold) for point in found]
    parts = [markdown_table(header, rows)] if rows else ["No trial has finished."]
    missing = [trial for trial in study.trials if trial.status != "done"]
    if missing:
        parts.append(markdown_table(["without a result", "status", "reason"], [_missing(trial) for trial in missing]))
    return "\n\n".join(parts) + "\n"


def write_table(study: Study) -> Path:
    """Write the study's results.md: the table with every metric, the meaning of its numbers, and their sources."""
    settings = {name: {_setting(study, trial, name) for trial in study.done} for name in SETTINGS}
    fixed = [f"{name} {values.pop()}" for name, values in settings.items() if len(values) == 1]
    notes = [
        *([f"In every row: {', '.join(fixed)}."] if fixed else []),
        captions.intervals_sentence([value for point in points(study) for value in _values(point, study.metrics)]),
        "Bold: the best of its ε, where its interval overlaps no other.",
        "s/trial: seconds of the stages a trial ran itself; reused: stages it found finished, of all its stages.",
        *(captions.metric_sentence(study, metric) for metric in study.metrics),
        captions.privacy_sentence(study),
        captions.nonprivate_sentence(study),
        *dict.fromkeys(f"{trial.upscaler}: {note}." for trial in study.done for note in trial.notes),
    ]
    origin = study.provenance()
    digest = str(origin["trials_sha256"])[:12]
    source = f"From trials.jsonl (sha256 {digest}), commit {origin['commit']}: `{origin['command']}`"
    path = study.folder / "results.md"
    listed = "\n".join(f"* {note}" for note in notes)
    path.write_text(f"# {study.name}\n\n{table(study)}\n{listed}\n\n{source}\n", encoding="utf-8")
    return path


def _setting(study: Study, trial: Trial, name: str) -> str:
    return study.blur(trial) if name == "blur" and trial.blur != "none" else str(getattr(trial, name))


def _row(point: Point, metrics: Sequence[str], bold: dict[str, list[Point]]) -> list[str]:
    cells = [point.series, epsilon_text(point.epsilon), epsilon_text(point.spent)]
    for metric in metrics:
        value = point.interval(metric)
        text = "" if value is None else number_text(value)
        if value is not None and any(metric not in trial.metrics for trial in point.trials):
            text += f" (n={value.n})"
        cells.append(f"**{text}**" if point in bold[metric] else text)
    if any(not trial.seconds and set(trial.keys) - set(trial.reused) for trial in point.trials):
        return [*cells, point.replicates, "", ""]  # python -m sweeps.collect does not know what took how long
    stages = sum(len(set(trial.keys) | set(trial.reused)) for trial in point.trials)
    reused = sum(len(trial.reused) for trial in point.trials)
    seconds = sum(s for trial in point.trials for stage, s in trial.seconds.items() if stage not in trial.reused)
    return [*cells, point.replicates, f"{seconds / len(point.trials):.3g}", f"{reused}/{stages}"]


def _column(study: Study, metric: str) -> str:
    """Column heading with direction and, if measured, the floor: `fid_clean_1k_test2k ↓ (real 20.7)`."""
    floor = study.floor(metric)
    return f"{metric} {'↓' if study.lower_is_better(metric) else '↑'}" + (
        f" (real {floor:.3g})" if floor is not None else ""
    )


def _values(point: Point, metrics: Sequence[str]) -> list[Interval]:
    return [value for metric in metrics if (value := point.interval(metric)) is not None]


def _missing(trial: Trial) -> list[str]:
    return [trial.trial, trial.status, " ".join((trial.reason or "no reason recorded").split()).replace("|", "\\|")]


def number_text(value: Interval) -> str:
    """Format with as many decimals as give the half width two significant digits; without one, four digits."""
    if value.half_width is None:
        return f"{value.mean:.4g}"
    if value.half_width == 0:
        return f"{value.mean:.4g} ± 0"
    half = f"{value.half_width:.1e}"
    decimals = max(0, 1 - int(half.split("e")[1]))
    return f"{value.mean:.{decimals}f} ± {value.half_width:.{decimals}f}"


def _separated(found: Sequence[Point], metric: str, lower: bool) -> list[Point]:
    """Return the best row of each ε that has several rows, if its interval overlaps no other row's."""
    winners = []
    for epsilon in {point.epsilon for point in found}:
        same = [point for point in found if point.epsilon == epsilon and not point.is_real]
        rivals = [(point, value) for point in same if (value := point.interval(metric)) is not None]
        best = apart([value for _, value in rivals], lower)
        winners += [] if best is None else [rivals[best][0]]
    return winners


def apart(values: Sequence[Interval], lower: bool) -> int | None:
    """The place of the best of several values, if its interval overlaps no other's. None where any of them has no
    interval: then no difference can be claimed."""
    if len(values) < 2 or any(value.half_width is None for value in values):
        return None
    best = (min if lower else max)(range(len(values)), key=lambda index: values[index].mean)
    others = [value for index, value in enumerate(values) if index != best]
    first = values[best]
    return best if all(first.high < value.low or first.low > value.high for value in others) else None


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table with padded, left-aligned columns, so that the text can also be read in a terminal."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    rule = [("-" * width) for width in widths]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join(map(line, [header, rule, *rows]))

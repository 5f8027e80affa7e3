"""Figure `spectra`, from spectra.jsonl only: power against frequency, data in black, samples coloured by ε."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from analysis.captions import delta_text
from analysis.colours import INK, PALETTE
from analysis.load import Study, Trial, read_trial, sha256
from analysis.panels import lay_out, two_panels
from analysis.replicates import epsilon_text, series_labels
from wavedp.errors import UserError
from wavedp.jsonl import read_lines
from wavedp.study_file import read_meta

DASHES = ("solid", "dash", "dot", "dashdot")
EPSILON_SCALE, LIGHTEST = "Viridis", 0.85  # the scale's upper end is weak on white
REST = {"color": "#c8c8c8", "width": 1}  # style of series beyond the number of distinct styles
DECIBEL = 10 / math.log(10)  # dB per unit of a small relative change


@dataclass(frozen=True)
class Line:
    """Mean over the trials of one series at one ε. power, standard_error: F bands, as in spectra.jsonl.

    distance: mean log-spectral distance to the data, dB; 0 for the data itself.
    """

    series: str
    epsilon: float
    power: np.ndarray
    standard_error: np.ndarray
    distance: float


@dataclass(frozen=True)
class Spectra:
    """Contents of the figure, without band 0 (the mean). frequencies: F, cycles per pixel. floor: smallest power that
    ratios resolve."""

    frequencies: np.ndarray
    floor: float
    data: Line
    lines: list[Line]
    title: str
    caption: str
    provenance: dict[str, Any]


def spectra_data(path: Path) -> Spectra:
    """Read spectra.jsonl. Raises UserError for a broken file, or one without a trial."""
    rows, places = read_lines(path)
    if len(rows) < 2 or rows[0].get("trial") is not None:
        raise UserError(f"{path} lacks the data's line or any trial's: run python -m wavedp.reports.spectrum again.")
    about, made = rows[0], rows[1:]
    trials = [read_trial(row, place) for row, place in zip(made, places[1:], strict=True)]
    labels = series_labels(Study(path.parent, read_meta(path.parent), trials, []))
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for trial, row in zip(trials, made, strict=True):
        groups.setdefault((labels[trial.trial], trial.budget), []).append(row)
    order = list(dict.fromkeys(labels.values()))
    lines = [_line(series, epsilon, group) for (series, epsilon), group in groups.items()]
    lines.sort(key=lambda line: (order.index(line.series), line.epsilon))
    return Spectra(
        np.array(about["frequencies"][1:]),
        about["floor"],
        _line("data", math.nan, [about]),
        lines,
        f"{about['study']}: power spectra of samples and of {about['dataset']}",
        _caption(about, made, trials, max(map(len, groups.values()))),
        {"study": about["study"], "spectra_sha256": sha256(path)},
    )


def spectra_figure(spectra: Spectra) -> go.Figure:
    """Draw `spectra_data`: powers on the left, their ratios to the data's power in dB on the right."""
    figure = two_panels("power of a mode (logarithmic)", "power against the data's, dB")
    styles, series = styles_of(spectra.lines), {line.series for line in spectra.lines}
    kept = {name for (name, _), style in styles.items() if style != REST}
    real = {"color": INK, "width": 3}
    figure.add_scatter(x=spectra.frequencies, y=spectra.data.power, name="data", mode="lines", line=real, row=1, col=1)
    own = DECIBEL * spectra.data.standard_error / np.maximum(spectra.data.power, spectra.floor)
    _add_ratio(figure, spectra.frequencies, np.zeros_like(own), own, real)
    for line in sorted(spectra.lines, key=lambda line: line.series in kept):  # grey lines first, so below the others
        style = styles[line.series, line.epsilon]
        name = (
            f"ε = {epsilon_text(line.epsilon)}{f', {line.series}' if len(series) > 1 else ''}: {line.distance:.2f} dB"
        )
        look = {"name": name, "showlegend": None if line.series in kept else False, "mode": "lines", "line": style}
        figure.add_scatter(x=spectra.frequencies, y=line.power, row=1, col=1, **look)
        power = np.maximum(line.power, spectra.floor)
        ratio = 10 * np.log10(power / np.maximum(spectra.data.power, spectra.floor))
        _add_ratio(figure, spectra.frequencies, ratio, DECIBEL * line.standard_error / power, style)
    further = len(series) - len(kept)
    grey = f" Grey lines: {further} further series, farther from the data at their best." if further else ""
    lay_out(figure, spectra.title, "frequency, cycles per pixel", spectra.caption + grey, spectra.provenance)
    figure.update_yaxes(type="log", exponentformat="none", dtick=1, row=1, col=1)
    figure.update_layout(legend_title={"text": "log-spectral distance to the data", "font_size": 12})
    return figure


def _add_ratio(
    figure: go.Figure, frequencies: np.ndarray, ratio: np.ndarray, error: np.ndarray, style: dict[str, Any]
) -> None:
    bars = {"array": error, "color": style["color"], "thickness": 1, "width": 0}
    figure.add_scatter(x=frequencies, y=ratio, error_y=bars, mode="lines", line=style, showlegend=False, row=1, col=2)


def _line(series: str, epsilon: float, rows: list[dict[str, Any]]) -> Line:
    power, error = (np.array([row[name][1:] for row in rows]) for name in ("power", "standard_error"))  # n F
    distance = float(np.mean([row.get("log_spectral_distance", 0.0) for row in rows]))
    # Trials are independent draws, so the variances of their means add up.
    return Line(series, epsilon, power.mean(0), np.sqrt(np.square(error).sum(0)) / len(rows), distance)


def styles_of(lines: list[Line]) -> dict[tuple[str, float], dict[str, Any]]:
    """Line style of each series and ε: colour by ε, dark to light, and dash by series; with a single ε, both by series.

    If there are more series than styles, those nearest to the data get them and the others are grey.
    """
    budgets = sorted({line.epsilon for line in lines})
    looks = [(None, dash) for dash in DASHES] if len(budgets) > 1 else list(product(PALETTE, DASHES))
    looks.sort(key=lambda look: DASHES.index(look[1]))
    nearest = list(dict.fromkeys(line.series for line in sorted(lines, key=lambda line: line.distance)))
    kept = [series for series in dict.fromkeys(line.series for line in lines) if series in nearest[: len(looks)]]
    own = dict(zip(kept, looks, strict=False))
    scale = dict(zip(budgets, sample_colorscale(EPSILON_SCALE, np.linspace(0, LIGHTEST, len(budgets))), strict=True))
    return {
        (line.series, line.epsilon): REST
        if line.series not in own
        else {"color": own[line.series][0] or scale[line.epsilon], "dash": own[line.series][1], "width": 2}
        for line in lines
    }


def _caption(about: dict[str, Any], made: list[dict[str, Any]], trials: list[Trial], seeds: int) -> str:
    counts = sorted({row["n_images"] for row in made})
    each = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    channels, height, width = about["size"]
    lines = "single trials" if seeds == 1 else f"means over up to {seeds} seeds"
    deltas = ", ".join(sorted({delta_text(trial.delta) for trial in trials if trial.delta}))
    return (
        f"Study {about['study']}: {each} images of each trial against {about['n_images']} {about['split']} images of "
        f"{about['dataset']}, {channels}×{height}×{width}; lines are {lines}. Squared coefficients of an "
        "orthonormal DCT of pixels in [0, 1], averaged over channels and over bands of radial frequency; the mean is "
        "left out. Bars: one standard error over images on each side. Distance: root mean square of the right panel. "
        f"ε is each trial's own{f', at δ = {deltas}' if deltas else ''} ({about['accountant']} accountant). The data's "
        "spectrum is a look without noise, which no ε here covers (spectra_ledger.jsonl)."
    )

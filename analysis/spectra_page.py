"""Drawing of `analysis.spectrum_figure`'s data for a paper (figure F6): power, and its ratio to the data's."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.colours import INK
from analysis.epsilon_axis import power_of_ten
from analysis.paper_page import GRID, SMALL, TEXT, WIDTHS, Columns, page
from analysis.replicates import epsilon_text
from analysis.spectrum_figure import DECIBEL, REST, Spectra, styles_of

PANEL, GAP, TOP, AXIS, LEFT, RIGHT, ENTRY = 190, 46, 22, 38, 52, 10, 12  # pixels


def spectra_page(data: Spectra, columns: Columns = 2) -> go.Figure:
    """Draw it: side by side or one above the other, bands of one standard error over images, the legend below."""
    down = 1 if columns == 2 else 2
    height = PANEL * down + GAP * (down - 1)
    figure = make_subplots(
        rows=down,
        cols=3 - down,
        subplot_titles=["power of a mode", "power against the data's, dB"],
        vertical_spacing=GAP / height if down > 1 else 0,
        horizontal_spacing=0.1,
    )
    figure.update_annotations(font_size=TEXT, yshift=-1)
    right = {"row": down, "col": 3 - down}
    styles = styles_of(data.lines)
    several = len({line.series for line in data.lines}) > 1
    real = np.maximum(data.data.power, data.floor)
    _add(
        figure, right, data.frequencies, data.data.power, np.zeros_like(real), None, {"color": INK, "width": 2}, "data"
    )
    shown = [line for line in data.lines if styles[line.series, line.epsilon] != REST]
    for line in [*(line for line in data.lines if line not in shown), *shown]:
        power = np.maximum(line.power, data.floor)
        name = f"ε = {epsilon_text(line.epsilon)}{f', {line.series}' if several else ''}: {line.distance:.2f} dB"
        look = styles[line.series, line.epsilon] | {"width": 1.3 if line in shown else 0.8}
        error = DECIBEL * line.standard_error / power
        _add(figure, right, data.frequencies, line.power, 10 * np.log10(power / real), error, look, name, line in shown)
    figure.update_xaxes(title={"text": "cycles per pixel", "standoff": 3}, rangemode="tozero", **GRID)
    figure.update_yaxes(**GRID)
    powers = np.concatenate([real, *(np.maximum(line.power, data.floor) for line in data.lines)])
    ticks = range(math.floor(math.log10(powers.min())), math.ceil(math.log10(powers.max())) + 1)
    texts = [power_of_ten(tick) if tick % 2 == 0 else "" for tick in ticks]
    figure.update_yaxes(type="log", tickvals=[10.0**tick for tick in ticks], ticktext=texts, row=1, col=1)
    entries = -(-(len(shown) + 1) // columns)
    figure.update_layout(
        legend={
            "orientation": "h",
            "x": (14 - LEFT) / (WIDTHS[columns] - LEFT - RIGHT),
            "xanchor": "left",
            "y": -AXIS / height,
            "yanchor": "top",
            "font_size": SMALL if columns == 2 else SMALL - 1,
            "itemwidth": 30,
            "entrywidth": 1.0 / columns,
            "entrywidthmode": "fraction",
            "tracegroupgap": 0,
        }
    )
    hidden = len({line.series for line in data.lines if line not in shown})
    grey = f" Grey: {hidden} further series, farther from the data at their best." if hidden else ""
    bottom = AXIS + round(entries * ENTRY * 1.6) + 6
    margin = {"t": TOP, "b": bottom, "l": LEFT, "r": RIGHT}
    caption = f"In the legend: log-spectral distance to the data. {data.caption}{grey}"
    return page(figure, columns, height, margin, caption, data.provenance)


def _add(
    figure: go.Figure,
    right: dict[str, int],
    frequencies: np.ndarray,
    power: np.ndarray,
    ratio: np.ndarray,
    error: np.ndarray | None,
    look: dict[str, object],
    name: str,
    in_legend: bool = True,
) -> None:
    figure.add_scatter(x=frequencies, y=power, mode="lines", line=look, name=name, showlegend=in_legend, row=1, col=1)
    bars = None if error is None else {"array": error, "color": look["color"], "thickness": 0.8, "width": 0}
    figure.add_scatter(
        x=frequencies, y=ratio, error_y=bars, mode="lines", line=look, name=name, showlegend=False, **right
    )

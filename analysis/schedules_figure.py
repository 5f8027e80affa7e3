"""Drawing of `analysis.schedules`: two panels of curves, then a panel of spectra for each schedule."""

from __future__ import annotations

import math
from itertools import cycle

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from analysis.blur_figures import LEAST_BLUR, Curve
from analysis.colours import GREY, INK, PALETTE
from analysis.epsilon_axis import decimal_steps, power_of_ten
from analysis.paper_page import GRID, SMALL, TEXT, Columns, label_ends, page
from analysis.schedules import Schedules

GRIDS: dict[Columns, tuple[int, int]] = {1: (1, 2), 2: (2, 3)}  # panels of curves and of spectra, side by side
HALVES = 6  # columns of the grid of panels, into which all of these divide
ROWS: dict[Columns, int] = {1: 104, 2: 140}  # height of a panel, pixels
GAP, TOP, BOTTOM, LEFT, RIGHT = 52, 22, 36, 52, 96  # pixels
LEAST_POWER = 1e-6  # start of the axis of spectra; half precision resolves no less
SCALE, LIGHTEST = "Viridis", 0.9  # the scale's upper end is weak on white
NAME_LETTERS = 18


def schedules_figure(data: Schedules, columns: Columns = 2) -> go.Figure:
    """Draw it: one colour per form of f(i), dashed when a form occurs again; spectra from dark (first) to light."""
    curves, spectra = GRIDS[columns]
    above, below = 2 // curves, -(-len(data.passages) // spectra)
    rows = above + below
    height = ROWS[columns] * rows + GAP * (rows - 1)
    spans = [curves] * above + [spectra] * below
    specs = [
        [{"colspan": HALVES // n} if column % (HALVES // n) == 0 else None for column in range(HALVES)] for n in spans
    ]
    for empty in range(len(data.passages), below * spectra):  # the end of the last row
        specs[-1][empty % spectra * (HALVES // spectra)] = None
    titles = ["blur of a step", "all blur so far", *(_title(passage.label, columns) for passage in data.passages)]
    figure = make_subplots(
        rows=rows, cols=HALVES, specs=specs, subplot_titles=titles,
        horizontal_spacing=0.075 if columns == 2 else 0.09, vertical_spacing=GAP / height,
    )  # fmt: skip
    figure.update_annotations(font_size=TEXT, yshift=-1)
    figure.update_xaxes(title_standoff=2, **GRID)
    figure.update_yaxes(title_standoff=2, **GRID)
    places = [(1, 1), (1, 1 + HALVES // 2) if curves == 2 else (2, 1)]
    colours = _draw_curves(figure, data, places)
    low, high = np.log10([LEAST_BLUR, 1.25 * max(max(curve.blur_pixels) for curve in data.curves)]).tolist()
    f_axis, blur_axis = ({"row": row, "col": column} for row, column in places)
    figure.update_yaxes(title_text="f(i), v₀", rangemode="tozero", **f_axis)
    figure.update_yaxes(
        title_text="width, px", type="log", range=[low, high], tickvals=decimal_steps(low, high), **blur_axis
    )
    for place in (f_axis, blur_axis):
        figure.update_xaxes(title_text="step i / T", range=[0, 1], **place)
    _draw_spectra(figure, data, above, spectra, ROWS[columns])
    ends = [
        (curve.label, colours[curve.label], (math.log10(max(curve.blur_pixels[-1], LEAST_BLUR)) - low) / (high - low))
        for curve in data.curves
    ]
    label_ends(figure, ends, NAME_LETTERS, ROWS[columns], panel="2")
    return page(figure, columns, height, {"t": TOP, "b": BOTTOM, "l": LEFT, "r": RIGHT}, data.caption, data.provenance)


def _draw_curves(figure: go.Figure, data: Schedules, places: list[tuple[int, int]]) -> dict[str, str]:
    """Both panels; returns the colour of each curve."""
    forms = dict.fromkeys(curve.name for curve in data.curves if curve.name not in ("none", "heat"))
    by_form = {"none": GREY, "heat": INK, **dict(zip(forms, cycle(PALETTE), strict=False))}
    seen: set[str] = set()
    for curve in data.curves:
        dash = "dash" if curve.name in seen else "solid"
        seen.add(curve.name)
        line = {"color": by_form[curve.name], "dash": dash, "width": 1.5}
        x = [(t + 1) / data.steps for t in curve.times]
        widths = [width if width > 0 else LEAST_BLUR for width in curve.blur_pixels]
        for (row, column), y in zip(places, (_f(curve), widths), strict=True):
            figure.add_scatter(
                x=x, y=y, mode="lines", line=line, name=curve.label, showlegend=False, row=row, col=column
            )
    return {curve.label: by_form[curve.name] for curve in data.curves}


def _f(curve: Curve) -> list[float | None]:
    return [None] * len(curve.times) if curve.f is None else list(curve.f)


def _title(label: str, columns: Columns) -> str:
    return label.replace(", ", "<br>") if columns == 1 else label


def _draw_spectra(figure: go.Figure, data: Schedules, above: int, across: int, height: int) -> None:
    if not data.passages:
        return
    colours = sample_colorscale(SCALE, [LIGHTEST * share for share in data.shares])
    powers = np.concatenate([passage.power.ravel() for passage in data.passages])
    ends = [math.floor(math.log10(max(powers.min(), LEAST_POWER))), math.ceil(math.log10(powers.max()))]
    ticks = range(ends[0], ends[1] + 1, 2)
    for index, passage in enumerate(data.passages):
        row, column = above + index // across + 1, index % across * (HALVES // across) + 1
        for share, colour, power in zip(data.shares, colours, passage.power, strict=True):
            figure.add_scatter(
                x=data.frequencies, y=power, mode="lines", line={"color": colour, "width": 1.2},
                name=f"i/T = {share:.2g}", showlegend=False, row=row, col=column,
            )  # fmt: skip
        figure.update_yaxes(
            type="log", range=ends, tickvals=[10.0**k for k in ticks], ticktext=[power_of_ten(k) for k in ticks],
            showticklabels=column == 1, row=row, col=column,
        )  # fmt: skip
        figure.update_yaxes(title_text="power" if column == 1 else None, row=row, col=column)
        last = index >= len(data.passages) - across
        figure.update_xaxes(title_text="cycles per pixel" if last else None, row=row, col=column)
    figure.add_scatter(
        x=[None], y=[None], mode="markers", showlegend=False, row=above + 1, col=1,
        marker={
            "color": [0],
            "cmin": 0,
            "cmax": 1,
            "colorscale": [[share, sample_colorscale(SCALE, [LIGHTEST * share])[0]] for share in np.linspace(0, 1, 9)],
            "showscale": True,
            "colorbar": {
                "title": {"text": "step i / T", "font_size": SMALL, "side": "top"},
                "thickness": 8, "len": height, "lenmode": "pixels", "x": 1.02, "y": 0, "yanchor": "bottom",
                "tickfont_size": SMALL, "outlinewidth": 0,
            },
        },
    )  # fmt: skip

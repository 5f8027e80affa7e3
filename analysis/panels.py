"""Layout of panels of curves: two side by side, one legend on the right and a caption below."""

from __future__ import annotations

import textwrap
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.colours import INK
from analysis.pareto_figure import AXIS, CAPTION_LINE, GRID, add_caption

WIDTH, PLOT_HEIGHT, TOP, LEFT, RIGHT = 1100, 400, 76, 76, 250  # pixels
CAPTION_COLUMNS, LEGEND_LINE = 170, 20  # characters, pixels
GAP = 0.1  # between the panels, as a share of the whole width


def two_panels(left: str, right: str) -> go.Figure:
    """Return two empty panels with these headings; add traces with `row=1, col=1` or `row=1, col=2`."""
    return make_subplots(cols=2, subplot_titles=(left, right), horizontal_spacing=GAP)


def lay_out(figure: go.Figure, title: str, x_title: str, caption: str, provenance: dict[str, Any]) -> None:
    """Set title, axes, legend and caption. In each `legendgroup`, only one trace should have a legend entry."""
    lines = textwrap.wrap(caption, CAPTION_COLUMNS)
    entries = sum(trace.showlegend is not False for trace in figure.data)
    height = max(PLOT_HEIGHT, LEGEND_LINE * (entries + 2))  # + 2 for its title; a longer legend would be cut
    bottom = AXIS + CAPTION_LINE * len(lines) + 14
    figure.update_annotations(font_size=13, xanchor="center")  # the panels' headings
    figure.update_xaxes(title={"text": x_title, "standoff": 8}, rangemode="tozero", **GRID)
    figure.update_yaxes(**GRID)
    figure.update_layout(
        template="none",
        width=WIDTH,
        height=TOP + height + bottom,
        margin={"t": TOP, "b": bottom, "l": LEFT, "r": RIGHT},
        font={"family": "DejaVu Sans, Helvetica, Arial, sans-serif", "size": 13, "color": INK},
        title={"text": title, "x": 0, "xref": "paper", "y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 14}},
        legend={"x": 1.02, "xanchor": "left", "y": 1, "yanchor": "top", "font_size": 12, "tracegroupgap": 0},
        meta=provenance,
    )
    add_caption(figure, lines, LEFT)

"""Figure of `analysis.pareto` for a study with a single ε: one row per series, best first, the metric on the x axis.

Where the same series exist at several wavelet levels, a row has a point for each level. The dashed line marks the score
of real images.
"""

from __future__ import annotations

import itertools
import re
import textwrap

import plotly.graph_objects as go

from analysis.captions import count_text
from analysis.colours import GREY, INK, PALETTE
from analysis.pareto import DOMINANCE, Front, ParetoData
from analysis.pareto_figure import AXIS, CAPTION_COLUMNS, CAPTION_LINE, WIDTH, add_caption
from analysis.replicates import Interval, epsilon_text

ROW, TOP, LEFT, RIGHT = 26, 70, 230, 90  # pixels


def has_one_budget(data: ParetoData) -> bool:
    """Return True if all series have the same single ε, so that the Pareto figure would stack them on one vertical."""
    budgets = {point.epsilon for front in data.fronts for point in front.points}
    return len(budgets) == 1 and len(data.fronts) > 1 and not data.published


def ablation_figure(data: ParetoData) -> go.Figure:
    """Draw `pareto_data` of a single ε: mean, 95% interval where there are replicates, and the mean as a number."""
    sign = 1 if data.lower_is_better else -1
    levels = _by_level(data.fronts)
    best = {row: min(sign * found[row].mean for found in levels.values() if row in found) for row in _rows(levels)}
    rows = sorted(best, key=best.__getitem__)
    figure = go.Figure()
    for (level, found), colour in zip(levels.items(), itertools.cycle(PALETTE), strict=False):
        listed = [row for row in rows if row in found]
        values = [found[row] for row in listed]
        figure.add_scatter(
            x=[value.mean for value in values],
            y=listed,
            error_x={
                "type": "data",
                "array": [value.half_width or 0 for value in values],
                "thickness": 1.3,
                "width": 4,
            },
            mode="markers+text",
            marker={"size": 10, "color": [colour] + [colour if len(levels) > 1 else GREY] * (len(values) - 1)},
            name=level,
            text=[f"  {value.mean:.4g}" for value in values],
            textposition="middle right",
            textfont={"size": 11, "color": INK},
            hovertemplate="%{y}: %{x:.4g}<extra></extra>",
            cliponaxis=False,
            showlegend=len(levels) > 1,
        )
    if data.floor is not None:
        figure.add_vline(
            x=data.floor, line={"color": INK, "width": 1, "dash": "dash"}, annotation_text="real images",
            annotation_font_size=11,
        )  # fmt: skip
    budget = f"ε = {epsilon_text(data.fronts[0].points[0].epsilon)}"
    whole = f"; whole study, {count_text(data.releases)}: ε = {data.total:.3g}" if data.total is not None else ""
    lines = textwrap.wrap(data.caption.replace(DOMINANCE, f"Best first, all at {budget}{whole}."), CAPTION_COLUMNS)
    bottom = AXIS + CAPTION_LINE * len(lines) + 14
    arrow = "↓ lower is better" if data.lower_is_better else "↑ higher is better"
    ends = [end for found in levels.values() for value in found.values() for end in (value.low, value.high)]
    span = None
    if data.floor is not None:  # plotly does not widen the axis for a line
        low, high = min(data.floor, *ends), max(data.floor, *ends)
        span = [low - 0.04 * (high - low), high + 0.06 * (high - low)]
    grid = {"gridcolor": "#ececec", "linecolor": "#444444", "showline": True, "zeroline": False}
    figure.update_layout(
        template="none",
        width=WIDTH,
        height=TOP + ROW * (len(rows) + 1) + bottom,
        margin={"t": TOP, "b": bottom, "l": LEFT, "r": RIGHT},
        font={"family": "DejaVu Sans, Helvetica, Arial, sans-serif", "size": 13, "color": INK},
        title={"text": f"{data.title}, {budget}", "x": 0, "xref": "paper", "pad": {"t": 14}},
        xaxis={"title": {"text": f"{data.metric}   {arrow}", "standoff": 8}, "ticks": "outside", "range": span, **grid},
        yaxis={"autorange": "reversed", "categoryorder": "array", "categoryarray": rows, **grid},
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        meta=data.provenance,
    )
    add_caption(figure, lines, LEFT)
    return figure


def _by_level(fronts: list[Front]) -> dict[str, dict[str, Interval]]:
    """Group series named like `level 1, bicubic` as {level: {rest of name: value}}; others get the one level ""."""
    parts = [re.fullmatch(r"(level \d+), (.+)", front.label) for front in fronts]
    found: dict[str, dict[str, Interval]] = {}
    for front, part in zip(fronts, parts, strict=True):
        level, rest = (part[1], part[2]) if part and all(parts) else ("", front.label)
        found.setdefault(level, {})[rest] = front.points[0].value
    return found


def _rows(levels: dict[str, dict[str, Interval]]) -> list[str]:
    return list(dict.fromkeys(row for found in levels.values() for row in found))

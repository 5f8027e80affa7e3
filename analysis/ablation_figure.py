"""The drawing of `analysis.pareto` for a study of one budget: a row for each series, best first, the metric across."""

from __future__ import annotations

import textwrap

import plotly.graph_objects as go

from analysis.captions import count_text
from analysis.pareto import DOMINANCE, ParetoData
from analysis.pareto_figure import AXIS, CAPTION_COLUMNS, CAPTION_LINE, GREY, INK, PALETTE, WIDTH, add_caption
from analysis.replicates import epsilon_text

ROW, TOP, LEFT, RIGHT = 26, 70, 230, 90  # pixels


def has_one_budget(data: ParetoData) -> bool:
    """Whether several series stand at one ε, where the Pareto figure would stack them on one vertical."""
    budgets = {point.epsilon for front in data.fronts for point in front.points}
    return len(budgets) == 1 and len(data.fronts) > 1 and not data.published


def ablation_figure(data: ParetoData) -> go.Figure:
    """Draw `pareto_data` of one budget: mean, 95% interval where there are seeds, and the value in figures."""
    sign = 1 if data.lower_is_better else -1
    fronts = sorted(data.fronts, key=lambda front: sign * front.points[0].value.mean)
    values = [front.points[0].value for front in fronts]
    figure = go.Figure()
    figure.add_scatter(
        x=[value.mean for value in values],
        y=[front.label for front in fronts],
        error_x={"type": "data", "array": [value.half_width or 0 for value in values], "thickness": 1.3, "width": 4},
        mode="markers+text",
        marker={"size": 10, "color": [PALETTE[0]] + [GREY] * (len(fronts) - 1)},
        text=[f"  {value.mean:.4g}" for value in values],
        textposition="middle right",
        textfont={"size": 11, "color": INK},
        hovertemplate="%{y}: %{x:.4g}<extra></extra>",
        cliponaxis=False,
        showlegend=False,
    )
    budget = f"ε = {epsilon_text(fronts[0].points[0].epsilon)}"
    whole = f"; whole study, {count_text(data.releases)}: ε = {data.total:.3g}" if data.total is not None else ""
    lines = textwrap.wrap(data.caption.replace(DOMINANCE, f"Best first, all at {budget}{whole}."), CAPTION_COLUMNS)
    bottom = AXIS + CAPTION_LINE * len(lines) + 14
    arrow = "↓ lower is better" if data.lower_is_better else "↑ higher is better"
    grid = {"gridcolor": "#ececec", "linecolor": "#444444", "showline": True, "zeroline": False}
    figure.update_layout(
        template="none",
        width=WIDTH,
        height=TOP + ROW * (len(fronts) + 1) + bottom,
        margin={"t": TOP, "b": bottom, "l": LEFT, "r": RIGHT},
        font={"family": "DejaVu Sans, Helvetica, Arial, sans-serif", "size": 13, "color": INK},
        title={"text": f"{data.title}, {budget}", "x": 0, "xref": "paper", "pad": {"t": 14}},
        xaxis={"title": {"text": f"{data.metric}   {arrow}", "standoff": 8}, "ticks": "outside", **grid},
        yaxis={"autorange": "reversed", **grid},
        meta=data.provenance,
    )
    add_caption(figure, lines, LEFT)
    return figure

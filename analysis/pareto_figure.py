"""Figure of `analysis.pareto`: logarithmic ε, axis breaks before 0 and ∞, two lines per front, caption below."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from analysis.captions import count_text
from analysis.colours import GREY, INK, PALETTE
from analysis.comparable import Published
from analysis.epsilon_axis import EpsilonAxis, decimal_steps
from analysis.front import unbroken
from analysis.pareto import Front, FrontPoint, ParetoData
from analysis.replicates import epsilon_text

WIDTH, PLOT_HEIGHT, TOP, LEFT, RIGHT, AXIS = 960, 430, 104, 80, 180, 62  # pixels
GRID = {"gridcolor": "#ececec", "linecolor": "#444444", "showline": True, "ticks": "outside", "zeroline": False}
CAPTION_COLUMNS, CAPTION_LINE = 146, 15  # characters, pixels
LABEL_GAP = 0.055  # minimum distance between two labels, in plot heights
LABEL_COLUMNS = 23  # characters that fit into RIGHT
LOG_RATIO = 8  # a metric that spans more than this factor gets a logarithmic axis


class _Axes:
    """Axis positions: ε on a logarithmic axis, with 0 and ∞ beyond breaks at its ends, and the metric's values."""

    def __init__(self, data: ParetoData) -> None:
        finite = [x for front in data.fronts for p in front.points for x in _prices(p)] + [data.total]
        finite += [epsilon for paper in data.published for row in paper.methods.values() for epsilon in row]
        self.budgets = {p.epsilon for front in data.fronts for p in front.points}
        self.epsilon = EpsilonAxis.of(self.budgets, [x for x in finite if x])
        self.x, self.span = self.epsilon.x, self.epsilon.span
        self.left = self.epsilon.range[0] - (0.3 * self.span if data.published else 0)
        self.right = self.epsilon.range[1]
        values = [v for front in data.fronts for p in front.points for v in (p.value.mean, p.value.low, p.value.high)]
        values += [v for paper in data.published for row in paper.methods.values() for v in row.values()]
        means = [v for v in values if v > 0]
        self.log_y = min(values) > 0 and max(means) / min(means) > LOG_RATIO
        bottom, top = self.y(min(values)), self.y(max(values))
        pad = 0.08 * (top - bottom or abs(top) or 1.0)
        self.bottom, self.top = bottom - pad, top + pad

    def y(self, value: float) -> float:
        """Convert a metric's value to the units of the axis range and of annotations."""
        return math.log10(value) if self.log_y else value


def pareto_figure(data: ParetoData) -> go.Figure:
    """Draw `pareto_data`.

    The fronts with the best means have a colour and a label, the others are grey (hover for their names). Published
    values are hollow unless their protocol is the study's.
    """
    axes = _Axes(data)
    figure = go.Figure()
    _draw_published(figure, axes, data.published)
    colours = _colours(data)
    for front in sorted(data.fronts, key=lambda front: front.label in colours):
        _draw_front(figure, axes, front, colours.get(front.label, GREY))
    _label_fronts(figure, axes, [(front, colours[front.label]) for front in data.fronts if front.label in colours])
    _label_anchors(figure, axes, [front for front in data.fronts if front.is_anchor])
    _explain_lines(figure, data)
    if data.total is not None:
        _draw_total(figure, data)
    axes.epsilon.mark_breaks(figure, 13)
    _lay_out(figure, axes, data)
    return figure


def _colours(data: ParetoData) -> dict[str, str]:
    """Give each of the best fronts a colour until the palette is used up, in the order of the study."""
    sign = 1 if data.lower_is_better else -1
    fronts = [front for front in data.fronts if not front.is_anchor]
    ranked = sorted(fronts, key=lambda front: min(sign * point.value.mean for point in front.points))
    kept = [front.label for front in fronts if front in ranked[: len(PALETTE)]]
    return dict(zip(kept, PALETTE, strict=False))


def _pale(colour: str) -> str:
    """Mix the colour with two thirds of white; opaque, so that lines do not show through a marker."""
    return "#" + "".join(f"{(channel + 2 * 255) // 3:02x}" for channel in bytes.fromhex(colour[1:]))


def _prices(point: FrontPoint) -> list[float | None]:
    return [point.spent, point.composed] if 0 < point.epsilon < math.inf else []


def _draw_front(figure: go.Figure, axes: _Axes, front: Front, colour: str) -> None:
    finite = [p for p in front.points if 0 < p.epsilon < math.inf]
    twin = _with_gaps([p for p in finite if p.composed is not None], front.lost)
    common: dict[str, Any] = {
        "showlegend": False,
        "name": front.label,
        "hovertemplate": "%{text}<extra>%{fullData.name}</extra>",
    }
    figure.add_scatter(
        x=[p and p.composed for p in twin],
        y=[p and p.value.mean for p in twin],
        mode="lines+markers",
        line={"color": colour, "dash": "dash", "width": 1.3},
        marker={"size": 5, "symbol": "diamond"},
        opacity=0.75,
        text=[p and f"{p.value.mean:.4g}, for ε = {p.composed:.3g} in all" for p in twin],
        **common,
    )
    joined = _with_gaps(finite, front.lost)
    figure.add_scatter(
        x=[p and p.spent for p in joined],
        y=[p and p.value.mean for p in joined],
        mode="lines",
        line={"color": colour, "width": 2.2},
        hoverinfo="skip",
        showlegend=False,
    )
    figure.add_scatter(
        x=[p.spent if p in finite else axes.x(p.epsilon) for p in front.points],
        y=[p.value.mean for p in front.points],
        mode="markers",
        marker={
            "size": 9,
            "color": [colour if p.nondominated else _pale(colour) for p in front.points],
            "opacity": 1,
            "line": {"width": 1.5, "color": colour},
        },
        error_y={
            "array": [p.value.half_width or 0.0 for p in front.points],
            "color": colour,
            "thickness": 1.2,
            "width": 4,
        },
        text=[_hover(p) for p in front.points],
        **common,
    )


def _with_gaps(points: list[FrontPoint], lost: Sequence[float]) -> list[FrontPoint | None]:
    """The points with None wherever a line would cross an ε without a result."""
    by_epsilon = {p.epsilon: p for p in points}
    found: list[FrontPoint | None] = []
    for run in unbroken(list(by_epsilon), lost):
        found += [*([None] if found else []), *(by_epsilon[epsilon] for epsilon in run)]
    return found


def _hover(p: FrontPoint) -> str:
    bar = f" ± {p.value.half_width:.2g}" if p.value.half_width is not None else ""
    return (
        f"{p.value.mean:.4g}{bar} (n = {p.value.n})<br>ε asked {epsilon_text(p.epsilon)}, spent {epsilon_text(p.spent)}"
    )


def _label_fronts(figure: go.Figure, axes: _Axes, fronts: list[tuple[Front, str]]) -> None:
    """Write names at the right edge, in the colour and at the height of each front's last point."""
    # In plot heights, not in data units: plotly drops labels outside the axis range, where `spread` may move one.
    ends = [(axes.y(front.points[-1].value.mean) - axes.bottom) / (axes.top - axes.bottom) for front, _ in fronts]
    names = [textwrap.wrap(front.label, LABEL_COLUMNS) for front, _ in fronts]
    heights = spread(ends, LABEL_GAP * (1 + 0.75 * (max(map(len, names), default=1) - 1)))
    for (_, colour), name, height in zip(fronts, names, heights, strict=True):
        place = {"x": 1.01, "xref": "paper", "xanchor": "left", "y": height, "yref": "paper", "yanchor": "middle"}
        figure.add_annotation(
            text="<br>".join(name), showarrow=False, font={"color": colour, "size": 13}, align="left", **place
        )


def _label_anchors(figure: go.Figure, axes: _Axes, anchors: list[Front]) -> None:
    """Write names beside the markers, on the side towards the middle of the figure, clear of each other."""
    for side, shift in (("left", 10), ("right", -10)):
        here = [
            (front.label, point) for front in anchors for point in front.points if (point.epsilon == 0) == (shift > 0)
        ]
        gap = 0.75 * LABEL_GAP * (axes.top - axes.bottom)
        heights = spread([axes.y(point.value.mean) for _, point in here], gap)
        for (label, point), height in zip(here, heights, strict=True):
            figure.add_annotation(
                x=math.log10(axes.x(point.epsilon)),
                y=height,
                text=label,
                showarrow=False,
                xanchor=side,
                xshift=shift,
                font={"size": 12, "color": "#555555"},
            )


def _symbol(paper: Published) -> str:
    return "circle" if paper.comparable else "circle-open"


def _explained(paper: Published) -> str:
    return f"{paper.name}, {paper.metric}" + ("" if paper.comparable else ", not comparable")


def _draw_published(figure: go.Figure, axes: _Axes, papers: list[Published]) -> None:
    """Thin dotted lines with the methods' names in the left margin; a name that several tables have, with its paper."""
    rows = [(paper, name, sorted(row.items())) for paper in papers for name, row in paper.methods.items()]
    names = [name for _, name, _ in rows]
    for paper, name, row in rows:
        figure.add_scatter(
            x=[epsilon for epsilon, _ in row],
            y=[value for _, value in row],
            mode="lines+markers",
            line={"color": "#c8c8c8", "width": 0.8, "dash": "dot"},
            marker={"symbol": _symbol(paper), "size": 7, "color": GREY},
            name=name,
            hovertemplate=f"%{{y}}<extra>{name}, {paper.name}</extra>",
            showlegend=False,
        )
    heights = spread([axes.y(row[0][1]) for _, _, row in rows], 0.75 * LABEL_GAP * (axes.top - axes.bottom))
    for (paper, name, row), height in zip(rows, heights, strict=True):
        at = math.log10(row[0][0])
        figure.add_annotation(
            x=at - 0.09 * axes.span,
            y=height,
            text=name if paper.name == name or names.count(name) == 1 else f"{name} ({paper.name})",
            showarrow=False,
            xanchor="right",
            font={"size": 10, "color": "#666666"},
        )
        ends = {"x0": 10 ** (at - 0.085 * axes.span), "x1": 10 ** (at - 0.015 * axes.span)}
        y0, y1 = (10**height, row[0][1]) if axes.log_y else (height, row[0][1])
        figure.add_shape(type="line", **ends, y0=y0, y1=y1, line={"color": "#d8d8d8", "width": 0.8})


def _draw_total(figure: go.Figure, data: ParetoData) -> None:
    assert data.total is not None
    figure.add_shape(
        type="line",
        x0=data.total,
        x1=data.total,
        y0=0,
        y1=1,
        yref="paper",
        line={"color": INK, "width": 1.2, "dash": "dot"},
    )
    figure.add_annotation(
        x=math.log10(data.total),
        y=1,
        yref="paper",
        text=f"whole study, {count_text(data.releases)}: <b>ε = {data.total:.3g}</b>",
        showarrow=False,
        yanchor="bottom",
        font={"size": 12, "color": INK},
    )


def _explain_lines(figure: go.Figure, data: ParetoData) -> None:
    """Add a legend of line styles; the series themselves are labelled in place."""
    styles: list[tuple[str, dict[str, Any], str, int]] = [("ε of one trial", {"width": 2.2}, "circle", 9)]
    if data.total is not None:
        styles.append(("ε of the front's releases up to there, composed", {"dash": "dash", "width": 1.3}, "diamond", 5))
    for name, symbol in dict.fromkeys((_explained(paper), _symbol(paper)) for paper in data.published):
        styles.append((name, {"dash": "dot", "width": 0.8}, symbol, 7))
    for name, line, symbol, size in styles:
        marker = {"symbol": symbol, "size": size, "color": "#555555"}
        line = line | {"color": "#555555"}
        figure.add_scatter(
            x=[None], y=[None], name=name, mode="lines+markers", line=line, marker=marker, hoverinfo="skip"
        )


def _lay_out(figure: go.Figure, axes: _Axes, data: ParetoData) -> None:
    grey = sum(not front.is_anchor for front in data.fronts) - len(_colours(data))
    caption = textwrap.wrap(data.caption + (f" Grey lines: {grey} further series." if grey else ""), CAPTION_COLUMNS)
    bottom = AXIS + CAPTION_LINE * len(caption) + 14
    arrow = "↓ lower is better" if data.lower_is_better else "↑ higher is better"
    figure.update_layout(
        template="none",
        width=WIDTH,
        height=TOP + PLOT_HEIGHT + bottom,
        margin={"t": TOP, "b": bottom, "l": LEFT, "r": RIGHT},
        font={"family": "DejaVu Sans, Helvetica, Arial, sans-serif", "size": 13, "color": INK},
        title={
            "text": data.title,
            "x": 0,
            "xref": "paper",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 14},
        },
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1 + 34 / PLOT_HEIGHT,
            "yanchor": "middle",
            "font_size": 12,
        },
        xaxis={
            **axes.epsilon.layout(axes.budgets, infinity=19),
            "range": [axes.left, axes.right],
            "title": {"text": "privacy loss ε (logarithmic)", "standoff": 8},
            **GRID,
        },
        yaxis={
            "type": "log" if axes.log_y else "linear",
            "tickvals": decimal_steps(axes.bottom, axes.top) if axes.log_y else None,
            "range": [axes.bottom, axes.top],
            "title": {"text": f"{data.metric}   {arrow}"},
            **GRID,
        },
        meta=data.provenance,
    )
    add_caption(figure, caption, LEFT)


def add_caption(figure: go.Figure, lines: list[str], left: int) -> None:
    """Add lines of small text under the axis title, from the figure's left edge. left: the left margin in pixels."""
    figure.add_annotation(
        text="<br>".join(lines),
        x=0,
        xref="paper",
        xanchor="left",
        xshift=-left + 14,
        y=0,
        yref="paper",
        yanchor="top",
        yshift=-AXIS,
        align="left",
        showarrow=False,
        font={"size": 11, "color": "#555555"},
    )


def spread(heights: list[float], gap: float) -> list[float]:
    """Move heights until neighbours are at least `gap` apart, keeping their order and the centre of each group."""
    groups: list[tuple[float, list[int]]] = []  # centre, members from low to high
    for index in sorted(range(len(heights)), key=lambda i: heights[i]):
        centre, members = heights[index], [index]
        while (
            groups and centre - gap * (len(members) - 1) / 2 < groups[-1][0] + gap * (len(groups[-1][1]) - 1) / 2 + gap
        ):
            members = groups.pop()[1] + members
            centre = sum(heights[i] for i in members) / len(members)
        groups.append((centre, members))
    placed = dict.fromkeys(range(len(heights)), 0.0)
    for centre, members in groups:
        for place, index in enumerate(members):
            placed[index] = centre + gap * (place - (len(members) - 1) / 2)
    return [placed[index] for index in range(len(heights))]

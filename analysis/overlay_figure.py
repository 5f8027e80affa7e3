"""Drawing of `analysis.overlay`."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go

from analysis.colours import FAINT, GREY, INK, PALETTE, pale
from analysis.epsilon_axis import EpsilonAxis
from analysis.front import unbroken
from analysis.overlay import Line, Overlay, Spot
from analysis.paper_page import GRID, SMALL, TEXT, Columns, label_ends, page
from analysis.replicates import epsilon_text

HEIGHT, BOTTOM, LEFT = 230, 36, 58  # pixels
LEGEND: dict[Columns, int] = {1: 48, 2: 24}  # its height, pixels
RIGHT: dict[Columns, int] = {1: 84, 2: 150}
LETTERS: dict[Columns, int] = {1: 15, 2: 27}  # of a name, in a line
NAMED: dict[Columns, int] = {1: 4, 2: 6}  # lines with a colour and a name
TOTAL_LINE = 11  # pixels between the texts of totals


def overlay_figure(data: Overlay, columns: Columns = 2) -> go.Figure:
    """Colour the best line of each study, then the next best; the others are grey."""
    figure = go.Figure()
    spots = [spot for line in data.lines for spot in line.spots]
    budgets = {spot.epsilon for spot in spots}
    prices = [x for spot in spots if 0 < spot.epsilon < math.inf for x in (spot.spent, spot.ledger or spot.spent)]
    axis = EpsilonAxis.of(budgets, [*prices, *(epsilon for _, epsilon in data.totals.values())])
    colours = dict(zip(_named(data, NAMED[columns]), PALETTE, strict=False))
    behind = [index for index in range(len(data.lines)) if index not in colours]
    for index in [*behind, *(index for index in reversed(_ranked(data)) if index in colours)]:  # the best on top
        _draw(figure, axis, data.lines[index], colours.get(index, FAINT), index in colours)
    low, high = _range(data, spots)
    _totals(figure, data)
    if data.floor is not None:
        figure.add_hline(y=data.floor, line={"color": INK, "width": 0.8, "dash": "dot"})
        figure.add_annotation(
            x=0, xref="x domain", xanchor="left", y=data.floor, yanchor="bottom", showarrow=False,
            text=f"real images: {data.floor:.3g}", font_size=SMALL,
        )  # fmt: skip
    axis.mark_breaks(figure, TEXT)
    names = [
        (data.lines[index].label, colour, (data.lines[index].spots[-1].value.mean - low) / (high - low))
        for index, colour in colours.items()
    ]
    label_ends(figure, names, LETTERS[columns], HEIGHT)
    arrow = "↓ lower is better" if data.lower_is_better else "↑ higher is better"
    figure.update_xaxes(title={"text": "privacy loss ε", "standoff": 4}, **axis.layout(budgets, infinity=15), **GRID)
    figure.update_yaxes(title={"text": f"{data.metric}<br>{arrow}", "standoff": 4}, range=[low, high], **GRID)
    grey = len(data.lines) - len(colours)
    caption = data.caption + (f" Grey: {grey} further series." if grey else "")
    top = LEGEND[columns] + TOTAL_LINE * len(data.totals) + 4
    _explain(figure, top)
    margin = {"t": top, "b": BOTTOM, "l": LEFT, "r": RIGHT[columns]}
    return page(figure, columns, HEIGHT, margin, caption, data.provenance)


def _named(data: Overlay, most: int) -> list[int]:
    """The lines that get a colour, in the order of the data."""
    ranked = _ranked(data)
    first: dict[str, int] = {}
    for index in ranked:
        first.setdefault(data.lines[index].study, index)
    return sorted([*first.values(), *(index for index in ranked if index not in first.values())][:most])


def _ranked(data: Overlay) -> list[int]:
    sign = 1 if data.lower_is_better else -1
    return sorted(range(len(data.lines)), key=lambda i: min(sign * spot.value.mean for spot in data.lines[i].spots))


def _range(data: Overlay, spots: list[Spot]) -> tuple[float, float]:
    ends = [end for spot in spots for end in (spot.value.low, spot.value.high)]
    ends += [] if data.floor is None else [data.floor]
    pad = 0.06 * (max(ends) - min(ends) or 1.0)
    return min(ends) - pad, max(ends) + pad


def _draw(figure: go.Figure, axis: EpsilonAxis, line: Line, colour: str, strong: bool) -> None:
    finite = {spot.epsilon: spot for spot in line.spots if 0 < spot.epsilon < math.inf}
    width = 1.8 if strong else 0.8
    for run in ([finite[epsilon] for epsilon in run] for run in unbroken(list(finite), line.lost)):
        priced = [spot for spot in run if spot.ledger is not None]
        banded = [spot for spot in priced if spot.value.half_width is not None]
        if strong and banded:
            across = [*banded, *reversed(banded)]
            edge = [*(spot.value.high for spot in banded), *(spot.value.low for spot in reversed(banded))]
            _scatter(
                figure, line, [spot.ledger for spot in across], edge,
                mode="lines", fill="toself", fillcolor=pale(colour), line_width=0, hoverinfo="skip",
            )  # fmt: skip
        means = [spot.value.mean for spot in run]
        _scatter(
            figure, line, [spot.spent for spot in run], means,
            mode="lines", line={"color": colour, "width": 0.7 * width, "dash": "dash"}, hoverinfo="skip",
        )  # fmt: skip
        _scatter(
            figure, line, [spot.ledger for spot in priced], [spot.value.mean for spot in priced],
            mode="lines", line={"color": colour, "width": width}, hoverinfo="skip",
        )  # fmt: skip
    _markers(figure, line, [(spot.spent, spot) for spot in finite.values()], colour, 4, None)
    ends = [(axis.x(spot.epsilon), spot) for spot in line.spots if spot.epsilon not in finite]
    ends += [(spot.ledger, spot) for spot in finite.values() if spot.ledger is not None]
    _markers(figure, line, ends, colour, 6 if strong else 4, 1.0 if strong else None)


def _markers(
    figure: go.Figure, line: Line, places: list[tuple[float, Spot]], colour: str, size: int, bars: float | None
) -> None:
    """bars: their thickness in pixels, None for none."""
    spots = [spot for _, spot in places]
    _scatter(
        figure,
        line,
        [x for x, _ in places],
        [spot.value.mean for spot in spots],
        mode="markers",
        marker={
            "size": size,
            "color": [colour if spot.on_front else "#ffffff" for spot in spots],
            "line": {"width": 1.1, "color": colour},
        },
        error_y=None
        if bars is None
        else {
            "array": [spot.value.half_width or 0.0 for spot in spots],
            "color": colour,
            "thickness": bars,
            "width": 3,
        },
        text=[_hover(spot) for spot in spots],
        hovertemplate="%{text}<extra>%{fullData.name}</extra>",
    )


def _scatter(figure: go.Figure, of: Line, x: list[Any], y: list[Any], **look: Any) -> None:
    figure.add_scatter(x=x, y=y, name=of.label, showlegend=False, **look)


def _hover(spot: Spot) -> str:
    bar = f" ± {spot.value.half_width:.2g}" if spot.value.half_width is not None else ""
    ledger = f", ledger ε {epsilon_text(spot.ledger)}" if spot.ledger is not None else ""
    chance = "" if spot.chance is None else f"<br>dominance probability {spot.chance:.2f}"
    return f"{spot.value.mean:.4g}{bar} (n = {spot.value.n})<br>ε of a trial {epsilon_text(spot.spent)}{ledger}{chance}"


def _totals(figure: go.Figure, data: Overlay) -> None:
    for row, (name, (_, total)) in enumerate(sorted(data.totals.items(), key=lambda item: item[1][1])):
        figure.add_vline(x=total, line={"color": INK, "width": 0.8, "dash": "dot"})
        figure.add_annotation(
            x=math.log10(total), y=1, yref="paper", yanchor="bottom", yshift=TOTAL_LINE * row, showarrow=False,
            text=f"all of {name}: ε = {epsilon_text(total)}", font_size=SMALL, xanchor="right",
        )  # fmt: skip


def _explain(figure: go.Figure, top: int) -> None:
    """A legend of the two readings of ε; the series have their names beside them."""
    for name, line in (
        ("ledger", {"color": GREY, "width": 1.8}),
        ("one trial", {"color": GREY, "width": 1.2, "dash": "dash"}),
    ):
        figure.add_scatter(x=[None], y=[None], name=f"ε of {name}", mode="lines", line=line)
    figure.update_layout(
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1 + (top - 2) / HEIGHT,
            "yanchor": "top",
            "font_size": SMALL,
        }
    )

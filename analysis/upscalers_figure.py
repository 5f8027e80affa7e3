"""Drawing of `analysis.upscalers`: a row an upscaler, best first; the metric on the left, seconds on the right."""

from __future__ import annotations

import math
import textwrap

import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from analysis.colours import INK, PALETTE
from analysis.epsilon_axis import power_of_ten
from analysis.paper_page import GRID, SMALL, TEXT, Columns, page
from analysis.replicates import epsilon_text
from analysis.upscalers import Bar, Upscalers, price_sentence

TOP, BOTTOM, RIGHT = 54, 36, 12  # pixels
ROW: dict[Columns, int] = {1: 24, 2: 16}  # height of an upscaler, pixels
LEFT: dict[Columns, int] = {1: 118, 2: 170}
LETTERS: dict[Columns, int] = {1: 21, 2: 34}  # of a name, in a line
SHARES: dict[Columns, tuple[float, float]] = {1: (0.58, 0.42), 2: (0.66, 0.34)}  # widths of the panels
LEAST_ROWS = 4
SYMBOLS = ("circle", "square", "diamond", "triangle-up")
SCALE, LIGHTEST = "Viridis", 0.8
SPREAD = 0.7  # of the points of a row, in rows


def upscalers_figure(data: Upscalers, columns: Columns = 2) -> go.Figure:
    """Draw it: a symbol a level; a colour an ε, or where there is one ε, a colour a level."""
    sign = 1 if data.lower_is_better else -1
    bars = sorted(data.bars, key=lambda bar: min(sign * value.mean for value in bar.values.values()))
    figure = make_subplots(cols=2, column_widths=list(SHARES[columns]), horizontal_spacing=0.05, shared_yaxes=True)
    for place, (colour, symbol, name) in _looks(data).items():
        rows = [row for row, bar in enumerate(bars) if place in bar.values]
        values = [bars[row].values[place] for row in rows]
        figure.add_scatter(
            x=[value.mean for value in values],
            y=[row + _aside(data, place) for row in rows],
            error_x={"array": [value.half_width or 0 for value in values], "thickness": 1, "width": 2},
            mode="markers",
            marker={"size": 7, "color": colour, "symbol": symbol},
            name=name,
            text=[
                f"{bars[row].label}: {value.mean:.4g}, n = {value.n}" for row, value in zip(rows, values, strict=True)
            ],
            hovertemplate="%{text}<extra>%{fullData.name}</extra>",
            row=1,
            col=1,
        )
    if data.floor is not None:
        figure.add_vline(x=data.floor, line={"color": INK, "width": 0.8, "dash": "dot"}, row=1, col=1)
        figure.add_annotation(
            x=data.floor, y=1, yref="y domain", yanchor="bottom", text="real images", showarrow=False, font_size=SMALL
        )
    figure.update_xaxes(title_standoff=4, **GRID)
    _draw_seconds(figure, data, bars, every=1 if columns == 2 else 2)
    names = ["<br>".join(textwrap.wrap(bar.label, LETTERS[columns], break_on_hyphens=False)) for bar in bars]
    figure.update_yaxes(range=[len(bars) - 0.4, -0.6], tickvals=list(range(len(bars))), ticktext=names, **GRID)
    arrow = "↓ lower is better" if data.lower_is_better else "↑ higher is better"
    figure.update_xaxes(title_text=f"{data.metric}{'  ' if columns == 2 else '<br>'}{arrow}", col=1)
    figure.update_xaxes(title_text="seconds per image" if columns == 2 else "s per image", col=2)
    price = price_sentence(data.extra, data.releases, len(bars))
    corner = {"x": 0, "xref": "paper", "xanchor": "left", "xshift": 6 - LEFT[columns], "y": 1, "yref": "paper"}
    figure.add_annotation(
        text=f"<b>{price}</b>", yanchor="bottom", yshift=TOP - 18, showarrow=False, font_size=TEXT, **corner
    )
    height = ROW[columns] * max(len(bars), LEAST_ROWS)
    above = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1 + 14 / height, "yanchor": "bottom"}
    figure.update_layout(legend={**above, "font_size": SMALL}, showlegend=len(data.places) > 1)
    margin = {"t": TOP, "b": BOTTOM + 12 * (columns == 1), "l": LEFT[columns], "r": RIGHT}
    return page(figure, columns, height, margin, data.caption, data.provenance)


def _looks(data: Upscalers) -> dict[tuple[int, float], tuple[str, str, str]]:
    """Colour, symbol and name of each level and ε."""
    levels, budgets = (sorted(set(each)) for each in zip(*data.places, strict=True))
    steps = [LIGHTEST * index / max(1, len(budgets) - 1) for index in range(len(budgets))]
    shades = dict(zip(budgets, sample_colorscale(SCALE, steps), strict=True))
    found = {}
    for level, budget in data.places:
        index = levels.index(level)
        colour = PALETTE[index % len(PALETTE)] if len(budgets) == 1 else shades[budget]
        parts = [f"level {level}"] * (len(levels) > 1) + [f"ε = {epsilon_text(budget)}"] * (len(budgets) > 1)
        found[level, budget] = colour, SYMBOLS[index % len(SYMBOLS)], ", ".join(parts)
    return found


def _aside(data: Upscalers, place: tuple[int, float]) -> float:
    """How far below its row a point lies, so that the ε of one row can be told apart."""
    budgets = sorted({epsilon for _, epsilon in data.places})
    return SPREAD * ((budgets.index(place[1]) + 0.5) / len(budgets) - 0.5)


def _draw_seconds(figure: go.Figure, data: Upscalers, bars: list[Bar], every: int) -> None:
    """Seconds on a logarithmic axis, and – where nobody knows. every: decades between ticks."""
    known = [seconds for bar in bars for seconds in bar.seconds.values() if seconds]
    if not known:
        middle = {"x": 0.5, "xref": "x2 domain", "y": 0.5, "yref": "y2 domain"}
        figure.add_annotation(text="not recorded", showarrow=False, font_size=SMALL, **middle)
        figure.update_xaxes(showticklabels=False, ticks="", showgrid=False, col=2)
        return
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    for index, level in enumerate(sorted({level for level, _ in data.places})):
        told = {row: bar.seconds[level] for row, bar in enumerate(bars) if bar.seconds.get(level)}
        figure.add_scatter(
            x=list(told.values()),
            y=list(told),
            mode="markers",
            name=f"level {level}",
            marker={"size": 6, "color": PALETTE[index % len(PALETTE)], "symbol": SYMBOLS[index % len(SYMBOLS)]},
            showlegend=False,
            row=1,
            col=2,
        )
    for row in (row for row, bar in enumerate(bars) if not any(bar.seconds.values())):
        figure.add_annotation(x=low, xanchor="left", y=row, text="–", showarrow=False, row=1, col=2)
    ticks = range(low, high + 1, every)
    figure.update_xaxes(
        type="log",
        range=[low - 0.3, high + 0.3],
        tickvals=[10.0**tick for tick in ticks],
        ticktext=[power_of_ten(tick) for tick in ticks],
        row=1,
        col=2,
    )

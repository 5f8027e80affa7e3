"""Drawing of `analysis.heatmap`: a panel a setting, a row a level, a column an ε; dark is better."""

from __future__ import annotations

import textwrap

import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from analysis.colours import FAINT, INK
from analysis.heatmap import Cell, Heatmap, Panel
from analysis.paper_page import SMALL, TEXT, WIDTHS, Columns, page
from analysis.replicates import epsilon_text
from analysis.tables import number_text

CELL, HEAD, TOP, BOTTOM, LEFT, RIGHT = 50, 34, 30, 22, 46, 8  # pixels
ACROSS: dict[Columns, int] = {1: 1, 2: 3}  # panels side by side
SCALE, DARK = "Cividis", 0.45  # a scale for all kinds of colour vision; below DARK of it, text is white
DIAGONALS = 6  # across half of a cell that has no result
LETTER, LEAST_LETTERS = 5.8, 9  # pixels of a letter in bold; letters in a line of a cell at least


def heatmap_figure(data: Heatmap, columns: Columns = 2) -> go.Figure:
    """Draw it; a cell without a result is hatched and says why."""
    across = min(ACROSS[columns], len(data.panels))
    down = -(-len(data.panels) // across)
    rows = CELL * len(data.levels)
    height = down * rows + (down - 1) * HEAD
    figure = make_subplots(
        rows=down,
        cols=across,
        subplot_titles=[panel.label for panel in data.panels],
        vertical_spacing=HEAD / height if down > 1 else 0,
        horizontal_spacing=0.02,
        shared_xaxes="all",
        shared_yaxes="all",
    )
    figure.update_annotations(font_size=TEXT, yshift=-2)
    values = [cell.value.mean for panel in data.panels for cell in panel.cells.values() if cell.value is not None]
    low, high = min(values), max(values)
    wide = (WIDTHS[columns] - LEFT - RIGHT) / across / len(data.epsilons)
    for index, panel in enumerate(data.panels):
        row, column = index // across + 1, index % across + 1
        for place, cell in panel.cells.items():
            share = None if cell.value is None else (cell.value.mean - low) / ((high - low) or 1)
            dark = None if share is None else share if data.lower_is_better else 1 - share
            _draw(figure, data, panel, place, cell, dark, wide, row, column)
    figure.update_xaxes(
        tickvals=list(range(len(data.epsilons))),
        ticktext=[f"ε = {epsilon_text(epsilon)}" for epsilon in data.epsilons],
        range=[-0.5, len(data.epsilons) - 0.5],
        showgrid=False,
        zeroline=False,
        tickfont_size=SMALL,
    )
    figure.update_yaxes(
        tickvals=list(range(len(data.levels))),
        ticktext=[f"level {level}" for level in data.levels],
        range=[len(data.levels) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
        tickfont_size=SMALL,
    )
    titled = any(panel.label for panel in data.panels)
    top = TOP + 14 * titled
    better = "↓ lower is better" if data.lower_is_better else "↑ higher is better"
    figure.add_annotation(
        x=0, xref="paper", xanchor="left", y=1, yref="paper", yanchor="bottom", yshift=4 + 14 * titled, showarrow=False,
        text=f"{data.metric}   {better}, and darker", font_size=SMALL,
    )  # fmt: skip
    return page(figure, columns, height, {"t": top, "b": BOTTOM, "l": LEFT, "r": RIGHT}, data.caption, data.provenance)


def _draw(
    figure: go.Figure,
    data: Heatmap,
    panel: Panel,
    place: tuple[int, float],
    cell: Cell,
    dark: float | None,
    wide: float,
    row: int,
    column: int,
) -> None:
    """A cell as a filled square. dark: 0 for the best value, None without one; wide: pixels of a cell."""
    x, y = data.epsilons.index(place[1]), data.levels.index(place[0])
    fill = "#ffffff" if dark is None else sample_colorscale(SCALE, [dark])[0]
    left, right, upper, lower = x - 0.5, x + 0.5, y - 0.5, y + 0.5
    figure.add_scatter(
        x=[left, right, right, left, left],
        y=[upper, upper, lower, lower, upper],
        mode="lines",
        fill="toself",
        fillcolor=fill,
        line={"color": "white", "width": 2},
        name=panel.label,
        text=_hover(place, cell),
        hoveron="fills",
        hoverinfo="text",
        showlegend=False,
        row=row,
        col=column,
    )
    if dark is None:
        _hatch(figure, left, upper, row, column)
    figure.add_annotation(
        x=x,
        y=y,
        text=_text(cell, max(LEAST_LETTERS, int((wide - 6) / LETTER))),
        showarrow=False,
        font={
            "size": SMALL if cell.value is not None else SMALL - 1,
            "color": "white" if dark is not None and dark < DARK else INK,
        },
        bgcolor="rgba(255,255,255,0.8)" if dark is None else None,
        borderpad=0,
        row=row,
        col=column,
    )


def _hatch(figure: go.Figure, left: float, upper: float, row: int, column: int) -> None:
    """Diagonals, as lines: plotly's own pattern would be pixels in a PDF."""
    x: list[float | None] = []
    y: list[float | None] = []
    for share in (index / DIAGONALS for index in range(1, 2 * DIAGONALS)):
        low, high = max(0.0, share - 1), min(1.0, share)
        x += [left + low, left + high, None]
        y += [upper + high, upper + low, None]
    line = {"color": FAINT, "width": 1.5}
    figure.add_scatter(
        x=x, y=y, mode="lines", line=line, name="no result", hoverinfo="skip", showlegend=False, row=row, col=column
    )


def _text(cell: Cell, letters: int) -> str:
    """What a cell says, in lines of so many letters."""
    if cell.value is None:
        lines = textwrap.wrap(cell.reason, letters, max_lines=4, placeholder=" …", break_long_words=False)
        return "<br>".join(lines)
    lines = [f"<b>{part}</b>" for part in _broken(number_text(cell.value), letters)]
    if cell.change is not None:
        lines.append(f"Δ {cell.change.mean:+.3g}".replace("-", "−"))
    if cell.lost:
        whole = f"n = {cell.value.n}, {cell.lost} lost"
        lines.append(whole if len(whole) <= letters else f"{cell.lost} lost")
    return "<br>".join(lines)


def _broken(text: str, letters: int) -> list[str]:
    """A value in two lines if it is longer than one, the second from ± on."""
    mean, mark, half = text.partition("±")
    return [text] if len(text) <= letters or not mark else [mean.strip(), mark + half]


def _hover(place: tuple[int, float], cell: Cell) -> str:
    where = f"level {place[0]}, ε = {epsilon_text(place[1])}"
    if cell.value is None:
        return f"{where}<br>{cell.reason}"
    change = "" if cell.change is None else f"<br>against level 0: {number_text(cell.change)} (n = {cell.change.n})"
    lost = f"<br>{cell.lost} without a result: {cell.reason}" if cell.lost else ""
    return f"{where}<br>{number_text(cell.value)} (n = {cell.value.n}){change}{lost}"

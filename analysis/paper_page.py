"""The page of a paper's figure: one or two columns wide, one font, names beside the lines, the caption apart.

A paper sets its captions itself, so a figure carries its own in `layout.meta`; `with_caption` draws it below for a
screen.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, Literal

import plotly.graph_objects as go

from analysis.colours import INK

Columns = Literal[1, 2]
WIDTHS: dict[Columns, int] = {1: 324, 2: 680}  # pixels of 1/96 inch: 3.4 and 7.1 inches
TEXT, SMALL = 10, 9  # pixels: 7.5 and 6.75 points
FONT = "DejaVu Sans, Helvetica, Arial, sans-serif"  # the first is embedded where it is installed; it has ε and ∞
LETTER, LINE = 0.54, 13  # mean width of a letter in font sizes; pixels of a line of a caption
SIDE, GAP = 10, 8  # pixels beside and above the caption
LETTER_ROW = 12  # pixels of a line of a name
GRID: dict[str, Any] = {
    "gridcolor": "#ececec",
    "linecolor": "#444444",
    "showline": True,
    "ticks": "outside",
    "ticklen": 3,
    "zeroline": False,
    "tickfont_size": SMALL,
    "title_font_size": TEXT,
}


def page(
    figure: go.Figure, columns: Columns, height: int, margin: dict[str, int], caption: str, provenance: dict[str, Any]
) -> go.Figure:
    """Set the size, in pixels, the font, and what the figure says of itself. height: of the plot without margins."""
    figure.update_layout(
        template="none",
        width=WIDTHS[columns],
        height=margin["t"] + height + margin["b"],
        margin=margin,
        font={"family": FONT, "size": TEXT, "color": INK},
        meta={"caption": caption, "provenance": provenance},
    )
    return figure


def with_caption(figure: go.Figure) -> go.Figure:
    """A copy with the caption below it."""
    caption = figure.layout.meta["caption"]
    letters = int((figure.layout.width - 2 * SIDE) / (LETTER * SMALL))
    lines = textwrap.wrap(caption, letters, break_on_hyphens=False)
    shown = go.Figure(figure)
    below = figure.layout.margin.b
    grown = LINE * len(lines) + 2 * GAP
    shown.update_layout(height=figure.layout.height + grown, margin_b=below + grown)
    shown.add_annotation(
        text="<br>".join(lines),
        x=0,
        xref="paper",
        xanchor="left",
        xshift=SIDE - figure.layout.margin.l,
        y=0,
        yref="paper",
        yanchor="top",
        yshift=-below - GAP,
        align="left",
        showarrow=False,
        font={"size": SMALL, "color": "#555555"},
    )
    return shown


def label_ends(
    figure: go.Figure, labels: Sequence[tuple[str, str, float]], letters: int, height: int, panel: str = ""
) -> None:
    """Write names to the right of the plot, each at its line's last height. labels: text, colour, and that height as a
    share of the plot's. letters: in a line of a name; height: of the plot, pixels; panel: the number of its axes."""
    wrapped = [textwrap.wrap(text, letters, break_on_hyphens=False) for text, _, _ in labels]
    places = stacked([share for _, _, share in labels], [(len(lines) * LETTER_ROW + 2) / height for lines in wrapped])
    for (_, colour, _), lines, place in zip(labels, wrapped, places, strict=True):
        figure.add_annotation(
            text="<br>".join(lines),
            x=1,
            xref=f"x{panel} domain",
            xanchor="left",
            xshift=5,
            y=place,
            yref=f"y{panel} domain",
            yanchor="middle",
            align="left",
            showarrow=False,
            font={"size": SMALL, "color": colour},
        )


def stacked(centres: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Move centres so that these heights do not overlap and, if they fit, lie between 0 and 1; their order is kept."""
    groups: list[tuple[float, list[int]]] = []  # centre, members from low to high

    def half(members: list[int]) -> float:
        return sum(heights[index] for index in members) / 2

    def inside(centre: float, members: list[int]) -> float:
        return max(min(centre, 1 - half(members)), half(members))

    for index in sorted(range(len(centres)), key=lambda index: centres[index]):
        members = [index]
        centre = inside(centres[index], members)
        while groups and centre - half(members) < groups[-1][0] + half(groups[-1][1]):
            members = groups.pop()[1] + members
            centre = inside(sum(centres[each] for each in members) / len(members), members)
        groups.append((centre, members))
    placed = dict.fromkeys(range(len(centres)), 0.0)
    for centre, members in groups:
        top = centre - half(members)
        for index in members:
            placed[index] = top + heights[index] / 2
            top += heights[index]
    return [placed[index] for index in range(len(centres))]

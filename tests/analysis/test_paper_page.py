"""The page of a paper's figures: widths, captions, and names that never overlap."""

from __future__ import annotations

import itertools

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.colours import pale
from analysis.paper_page import WIDTHS, label_ends, page, stacked, with_caption

MARGIN = {"t": 10, "b": 30, "l": 40, "r": 50}


@given(st.lists(st.tuples(st.floats(-0.5, 1.5), st.floats(0.01, 0.2)), max_size=9))
def test_names_keep_apart_and_in_order(names: list[tuple[float, float]]) -> None:
    centres, heights = [centre for centre, _ in names], [height for _, height in names]
    placed = stacked(centres, heights)
    order = sorted(range(len(names)), key=lambda index: (centres[index], placed[index]))
    for low, high in itertools.pairwise(order):
        assert placed[high] - placed[low] >= (heights[low] + heights[high]) / 2 - 1e-9
    if sum(heights) <= 1:
        for place, height in zip(placed, heights, strict=True):
            assert height / 2 - 1e-9 <= place <= 1 - height / 2 + 1e-9


def test_names_that_have_room_stay_where_they_are() -> None:
    assert stacked([0.2, 0.8], [0.1, 0.1]) == pytest.approx([0.2, 0.8])


@pytest.mark.parametrize("columns", [1, 2])
def test_a_caption_is_drawn_below_and_not_in_the_figure_itself(columns: int) -> None:
    figure = page(go.Figure(), columns, 100, MARGIN, "What is seen. " * 20, {"study": "s"})
    assert (figure.layout.width, figure.layout.height) == (WIDTHS[columns], 140)
    assert not figure.layout.annotations
    shown = with_caption(figure)
    (note,) = shown.layout.annotations
    assert note.text.replace("<br>", " ").strip() == ("What is seen. " * 20).strip()
    lines = note.text.count("<br>") + 1
    assert shown.layout.height == figure.layout.height + shown.layout.margin.b - figure.layout.margin.b
    assert shown.layout.margin.b - figure.layout.margin.b >= 13 * lines
    assert figure.layout.height == 140


def test_names_stand_beside_their_panel_in_their_colours() -> None:
    figure = go.Figure()
    label_ends(figure, [("one name of three words", "#0072B2", 0.5), ("other", "#D55E00", 0.5)], 8, 200, panel="2")
    first, second = figure.layout.annotations
    assert first.text == "one name<br>of three<br>words"
    assert (first.xref, first.yref, first.font.color) == ("x2 domain", "y2 domain", "#0072B2")
    assert second.y > first.y


def test_a_band_is_its_lines_colour() -> None:
    assert pale("#0072B2") == "rgba(0,114,178,0.16)"

"""Drawing of `analysis.composition`: ε against the number of trials, both logarithmic."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from analysis.captions import count_text
from analysis.colours import GREY, INK, PALETTE
from analysis.composition import Composition
from analysis.epsilon_axis import decimal_steps
from analysis.paper_page import GRID, Columns, label_ends, page
from analysis.replicates import epsilon_text

HEIGHT, TOP, BOTTOM, LEFT = 230, 12, 34, 44  # pixels
RIGHT: dict[Columns, int] = {1: 96, 2: 190}
LETTERS: dict[Columns, int] = {1: 17, 2: 34}


def composition_figure(data: Composition, columns: Columns = 2) -> go.Figure:
    """Draw it, the study as a marker."""
    figure = go.Figure()
    trials = [step.trials for step in data.steps]
    last = data.steps[-1]
    shared = f"its {count_text(last.releases)}, composed"
    lines = [
        (shared, [step.shared for step in data.steps], PALETTE[0], "solid"),
        ("a release of its own for each trial, composed", [step.apart for step in data.steps], PALETTE[1], "dash"),
        ("ε added up", [step.added for step in data.steps], PALETTE[2], "dashdot"),
    ]
    drawn = [(name, trials, values, colour, dash, 1.8) for name, values, colour, dash in lines]
    for law, points in data.laws.items():
        x, y = [mean for mean, _ in points], [epsilon for _, epsilon in points]
        drawn.append((f"best of K, {law.title()}" if law == "poisson" else f"best of K, {law}", x, y, GREY, "dot", 1.2))
    drawn = [line for line in drawn if line[1]]
    for name, x, y, colour, dash, width in drawn:
        look = {"color": colour, "dash": dash, "width": width}
        figure.add_scatter(
            x=x, y=y, mode="lines+markers", line=look, marker={"size": 3, "color": colour}, name=name, showlegend=False
        )
    figure.add_scatter(
        x=[last.trials],
        y=[data.total],
        mode="markers",
        marker={"symbol": "star", "size": 11, "color": INK},
        cliponaxis=False,
        showlegend=False,
        hovertemplate=f"{last.trials} private trials, {count_text(data.releases)}<extra></extra>",
    )
    values = [data.total, *(value for line in drawn for value in line[2])]
    low, high = math.log10(min(values)) - 0.1, math.log10(max(values)) + 0.1
    right = math.log10(max(2, last.trials))
    counts = {*(round(step) for step in decimal_steps(0, right)), last.trials}
    near = {count for count in counts if count != last.trials and last.trials / count < 1.4}
    ticks = sorted(counts - near)
    figure.update_xaxes(
        type="log", range=[-0.03, right + 0.03], tickvals=ticks, ticktext=list(map(str, ticks)),
        title={"text": f"private trials{' (for best of K: their mean)' * (columns == 2)}", "standoff": 4}, **GRID,
    )  # fmt: skip
    figure.update_yaxes(
        type="log",
        range=[low, high],
        tickvals=decimal_steps(low, high),
        title={"text": "ε of all together", "standoff": 4},
        **GRID,
    )
    ends = [(name, colour, (math.log10(y[-1]) - low) / (high - low)) for name, _, y, colour, _, _ in drawn]
    whole = f"★ {data.study}, {count_text(data.releases)}: ε = {epsilon_text(data.total)}"
    ends.append((whole, INK, (math.log10(data.total) - low) / (high - low)))
    label_ends(figure, ends, LETTERS[columns], HEIGHT)
    margin = {"t": TOP, "b": BOTTOM, "l": LEFT, "r": RIGHT[columns]}
    return page(figure, columns, HEIGHT, margin, data.caption, data.provenance)

"""Drawing of `analysis.hypervolume`: a step curve a study, with its band."""

from __future__ import annotations

import plotly.graph_objects as go

from analysis.colours import PALETTE, pale
from analysis.hypervolume import Hypervolumes
from analysis.paper_page import GRID, Columns, label_ends, page

HEIGHT, TOP, BOTTOM, LEFT = 220, 12, 34, 60  # pixels
RIGHT: dict[Columns, int] = {1: 96, 2: 150}
LETTERS: dict[Columns, int] = {1: 17, 2: 27}


def hypervolume_figure(data: Hypervolumes, columns: Columns = 2) -> go.Figure:
    """Draw it; a value holds until the next setting is complete."""
    figure = go.Figure()
    ends = []
    values = [
        end for growth in data.growths for _, found in growth.steps for end in (found.value, found.low, found.high)
    ]
    known = [value for value in values if value is not None]
    pad = 0.06 * (max(known) - min(known) or max(known) or 1.0)
    low, high = max(0.0, min(known) - pad), max(known) + pad
    most = max(growth.steps[-1][0] for growth in data.growths)
    for growth, colour in zip(data.growths, PALETTE * len(data.growths), strict=False):
        steps = [*growth.steps, (most, growth.steps[-1][1])]
        banded = [(trials, found) for trials, found in steps if found.low is not None]
        for ends_of, fill in (
            ([found.low for _, found in banded], None),
            ([found.high for _, found in banded], "tonexty"),
        ):
            figure.add_scatter(
                x=[trials for trials, _ in banded], y=ends_of, mode="lines", fill=fill, fillcolor=pale(colour),
                line={"width": 0, "shape": "hv", "color": colour}, hoverinfo="skip", showlegend=False,
            )  # fmt: skip
        figure.add_scatter(
            x=[trials for trials, _ in growth.steps],
            y=[found.value for _, found in growth.steps],
            mode="lines+markers",
            line={"width": 1.8, "shape": "hv", "color": colour},
            marker={"size": 4, "color": colour},
            name=growth.study,
            showlegend=False,
        )
        last = growth.steps[-1][1]
        ends.append((f"{growth.study}: {last.value:.3g}", colour, (last.value - low) / (high - low)))
    figure.update_xaxes(title={"text": "finished trials", "standoff": 4}, range=[0, 1.02 * most], **GRID)
    title = f"hypervolume ↑ larger is better<br>{data.metric} × decades of ε"
    figure.update_yaxes(title={"text": title, "standoff": 4}, range=[low, high], **GRID)
    label_ends(figure, ends, LETTERS[columns], HEIGHT)
    margin = {"t": TOP, "b": BOTTOM, "l": LEFT, "r": RIGHT[columns]}
    return page(figure, columns, HEIGHT, margin, data.caption, data.provenance)

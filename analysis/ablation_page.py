"""Drawing of `analysis.pareto`'s data of one ε for a paper: a row a series, best first."""

from __future__ import annotations

import textwrap

import plotly.graph_objects as go

from analysis.captions import count_text
from analysis.colours import GREY, INK, PALETTE
from analysis.paper_page import GRID, SMALL, Columns, page
from analysis.pareto import DOMINANCE, ParetoData
from analysis.replicates import epsilon_text
from wavedp.errors import UserError

TOP, BOTTOM, RIGHT = 24, 36, 40  # pixels
ROW: dict[Columns, int] = {1: 25, 2: 17}
LEFT: dict[Columns, int] = {1: 118, 2: 230}
LETTERS: dict[Columns, int] = {1: 21, 2: 44}  # of a name, in a line


def ablation_page(data: ParetoData, columns: Columns = 2) -> go.Figure:
    """Draw it, the best in colour. Raises UserError for several ε."""
    budgets = {point.epsilon for front in data.fronts for point in front.points}
    if len(budgets) > 1:
        raise UserError("an ablation has one ε: draw several with the figure pareto or overlay.")
    sign = 1 if data.lower_is_better else -1
    rows = sorted(((front.label, front.points[0].value) for front in data.fronts), key=lambda row: sign * row[1].mean)
    figure = go.Figure()
    figure.add_scatter(
        x=[value.mean for _, value in rows],
        y=list(range(len(rows))),
        error_x={"array": [value.half_width or 0 for _, value in rows], "thickness": 1, "width": 3, "color": GREY},
        mode="markers+text",
        marker={"size": 7, "color": [PALETTE[0], *[GREY] * (len(rows) - 1)]},
        text=[f"  {value.mean:.4g}" for _, value in rows],
        textposition="middle right",
        textfont={"size": SMALL, "color": INK},
        cliponaxis=False,
        showlegend=False,
        hoverinfo="skip",
    )
    if data.floor is not None:
        figure.add_vline(x=data.floor, line={"color": INK, "width": 0.8, "dash": "dash"})
        figure.add_annotation(
            x=data.floor, y=1, yref="paper", yanchor="bottom", text="real images", showarrow=False, font_size=SMALL
        )
    names = ["<br>".join(textwrap.wrap(label, LETTERS[columns], break_on_hyphens=False)) for label, _ in rows]
    arrow = "↓ lower is better" if data.lower_is_better else "↑ higher is better"
    title = f"{data.metric}{'  ' if columns == 2 else '<br>'}{arrow}"
    figure.update_xaxes(title={"text": title, "standoff": 4}, **GRID)
    figure.update_yaxes(range=[len(rows) - 0.4, -0.6], tickvals=list(range(len(rows))), ticktext=names, **GRID)
    whole = f"; whole study, {count_text(data.releases)}: ε = {data.total:.3g}" if data.total is not None else ""
    told = f"Best first, all at ε = {', '.join(map(epsilon_text, budgets))}{whole}."
    margin = {"t": TOP, "b": BOTTOM + 12 * (columns == 1), "l": LEFT[columns], "r": RIGHT}
    caption = data.caption.replace(DOMINANCE, told)
    return page(figure, columns, ROW[columns] * len(rows), margin, caption, data.provenance)

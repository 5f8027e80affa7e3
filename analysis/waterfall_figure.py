"""Figure of `analysis.waterfall`: a row of panels for each set of parts, a column for each wavelet level.

All panels have one scale, so that heights compare. A bar stands on the step before it; above it the score so far, and
what the step changed.
"""

from __future__ import annotations

import itertools
import textwrap
from html import escape

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.colours import GREY, INK, PALETTE
from analysis.pareto_figure import AXIS, CAPTION_COLUMNS, CAPTION_LINE, GRID, WIDTH, add_caption
from analysis.waterfall import Step, Waterfall, WaterfallData
from analysis.waterfall_table import decimals

STEP, PANEL, BETWEEN, TOP, LEFT, RIGHT, TICKS = 58, 230, 66, 96, 76, 24, 42  # pixels
COLOURS = {
    "floor": GREY, "detail": PALETTE[0], "tokens": PALETTE[1], "generator": PALETTE[2], "privacy": PALETTE[3],
}  # fmt: skip
BAR = 0.72  # of a step's width


def waterfall_figure(data: WaterfallData) -> go.Figure:
    """Draw `waterfall_data`."""
    rows, levels = _rows(data.chains), sorted({chain.level for chain in data.chains})
    steps = _steps(data.chains)
    panels = {(row, chain.level): chain for row, chains in rows.items() for chain in chains}
    width = max(WIDTH, LEFT + RIGHT + len(levels) * (STEP * len(steps) + 24))
    inner = len(rows) * PANEL + (len(rows) - 1) * BETWEEN
    figure = make_subplots(
        rows=len(rows),
        cols=len(levels),
        shared_yaxes=True,
        horizontal_spacing=24 / (width - LEFT - RIGHT) if len(levels) > 1 else 0,
        vertical_spacing=BETWEEN / inner if len(rows) > 1 else 0,
    )
    bottom, top = _range(data)
    for (row, level), chain in panels.items():
        place = {"row": list(rows).index(row) + 1, "col": levels.index(level) + 1}
        _draw(figure, chain, steps, decimals(data), place)
    for index, row in enumerate(rows):
        height = 1 - index * (PANEL + BETWEEN) / inner
        _write(figure, f"<b>{escape(row, quote=False)}</b>", 0, height, "left", 24 if index == 0 else 8)
    for index, level in enumerate(levels):
        side = next(chain.side for chain in data.chains if chain.level == level)
        _write(figure, f"level {level} ({side}×{side})", (index + 0.5) / len(levels), 1, "center", 4)
    lines = textwrap.wrap(data.caption, int(CAPTION_COLUMNS * width / WIDTH))
    margin = AXIS + TICKS + CAPTION_LINE * len(lines)
    arrow = "↓ lower is better" if data.lower_is_better else "↑ higher is better"
    figure.update_xaxes(
        tickvals=list(range(len(steps))),
        ticktext=[label.replace("+ generator", "+ generator,<br>ε = ∞") for label in steps],
        range=[-0.6, len(steps) - 0.4],
        tickangle=-35,
        tickfont_size=11,
        showticklabels=False,
        **{**GRID, "ticks": ""},
    )
    figure.update_xaxes(showticklabels=True, row=len(rows))
    figure.update_yaxes(range=[bottom, top], **GRID)
    figure.update_layout(
        template="none",
        width=width,
        height=TOP + inner + margin,
        margin={"t": TOP, "b": margin, "l": LEFT, "r": RIGHT},
        font={"family": "DejaVu Sans, Helvetica, Arial, sans-serif", "size": 13, "color": INK},
        title={
            "text": f"{data.title}; {data.metric}, {arrow}",
            "x": 0,
            "xref": "paper",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 14},
        },
        showlegend=False,
        meta=data.provenance,
    )
    add_caption(figure, lines, LEFT)
    figure.layout.annotations[-1].yshift = -AXIS - TICKS + 8  # under the slanted names of steps
    return figure


def _rows(chains: list[Waterfall]) -> dict[str, list[Waterfall]]:
    """{parts: chains}. Whole images need no upscaler: their chain stands in the row of every upscaler that follows the
    same tokens, or in one of its own."""
    found: dict[str, list[Waterfall]] = {}
    for chain in chains:
        if chain.upscaler:
            found.setdefault(chain.parts, []).append(chain)
    for chain in chains:
        if not chain.upscaler:
            alike = [row for row, (first, *_) in found.items() if first.upscaler and _goes_with(chain, first)]
            for row in alike or [chain.parts]:
                found.setdefault(row, []).append(chain)
    return found


def _goes_with(whole: Waterfall, chain: Waterfall) -> bool:
    same = (whole.data, whole.tokenizer) == (chain.data, chain.tokenizer)
    return same and whole.generator in ("", chain.generator)


def _steps(chains: list[Waterfall]) -> list[str]:
    """Labels of the steps of all chains in the order of the chain, ε from the largest down."""
    kinds = list(COLOURS)
    steps = {step.label: step for chain in chains for step in chain.steps}
    return sorted(steps, key=lambda label: (kinds.index(steps[label].kind), -(steps[label].epsilon or 0)))


def _range(data: WaterfallData) -> tuple[float, float]:
    """From 0, for bars stand on it, with room for the two lines above a bar."""
    ends = [end for chain in data.chains for step in chain.steps for end in (step.value.low, step.value.high, 0.0)]
    return min(ends), max(ends) + 0.2 * (max(ends) - min(ends))


def _draw(figure: go.Figure, chain: Waterfall, steps: list[str], digits: int, place: dict[str, int]) -> None:
    at = [steps.index(step.label) for step in chain.steps]
    ends = [step.value.mean for step in chain.steps]
    starts = [0.0, *ends[:-1]]
    figure.add_bar(
        x=at,
        y=[end - start for start, end in zip(starts, ends, strict=True)],
        base=starts,
        width=BAR,  # plotly's own would fill the gap of a missing step
        marker_color=[COLOURS[step.kind] for step in chain.steps],
        hoverinfo="skip",
        **place,
    )
    for (left, right), height in zip(itertools.pairwise(at), ends, strict=False):
        figure.add_scatter(
            x=[left - BAR / 2, right + BAR / 2],
            y=[height, height],
            mode="lines",
            line={"color": INK, "width": 1, "dash": "dot"},
            hoverinfo="skip",
            **place,
        )
    figure.add_scatter(
        x=at,
        y=ends,
        mode="markers",
        marker={"size": 1, "color": INK},
        error_y={"array": [step.value.half_width for step in chain.steps], "thickness": 1.3, "width": 4},
        text=[_hover(chain, step) for step in chain.steps],
        hovertemplate="%{text}<extra></extra>",
        **place,
    )
    heights = [max(start, step.value.high) for start, step in zip(starts, chain.steps, strict=True)]
    figure.add_scatter(
        x=at,
        y=heights,
        mode="text",
        text=[_text(step, digits) for step in chain.steps],
        textposition="top center",
        textfont={"size": 11, "color": INK},
        cliponaxis=False,
        hoverinfo="skip",
        **place,
    )


def _text(step: Step, digits: int) -> str:
    change = "" if step.change is None else f"<br>{step.change:+z.{digits}f}"
    return f"<b>{step.value.mean:.{digits}f}</b>{change}"


def _hover(chain: Waterfall, step: Step) -> str:
    bar = "" if step.value.half_width is None else f" ± {step.value.half_width:.2g}"
    change = "" if step.change is None else f"<br>{step.change:+.4g} from the step before"
    return (
        f"{escape(chain.parts, quote=False)}, level {chain.level}<br>{step.label}: {step.value.mean:.4g}{bar}{change}"
    )


def _write(figure: go.Figure, text: str, x: float, y: float, anchor: str, shift: int) -> None:
    figure.add_annotation(
        text=text,
        x=x,
        xref="paper",
        xanchor=anchor,
        y=y,
        yref="paper",
        yanchor="bottom",
        yshift=shift,
        showarrow=False,
        font_size=13,
    )

"""The numbers of the waterfalls, for reading (waterfall.md) and for other programs (waterfall.csv)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from analysis.replicates import Interval, epsilon_text
from analysis.waterfall import Step, Waterfall, WaterfallData
from wavedp.store import write_atomically

COLUMNS = (
    "metric", "level", "tokenizer", "upscaler", "generator",
    "step", "epsilon", "mean", "half_width", "n", "of", "change",
)  # fmt: skip


def markdown(every: Sequence[WaterfallData]) -> str:
    """A table a metric: a row a chain, a column a step, `mean ± half (change)`; an empty cell is a step of no row."""
    return "\n".join(f"{_table(data)}\n\n{data.caption}\n" for data in every)


def rows(every: Sequence[WaterfallData]) -> list[tuple[str, ...]]:
    """One row a step, in the order of COLUMNS, numbers in full."""
    return [
        (data.metric, str(chain.level), *_parts(chain), step.kind, *_numbers(step))
        for data in every
        for chain in data.chains
        for step in chain.steps
    ]


def write_tables(every: Sequence[WaterfallData], folder: Path) -> list[Path]:
    """waterfall.md and waterfall.csv."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([COLUMNS, *rows(every)])
    written = {folder / "waterfall.md": markdown(every), folder / "waterfall.csv": text.getvalue()}
    for path, content in written.items():
        write_atomically(path, content.encode())
    return list(written)


def _table(data: WaterfallData) -> str:
    steps = list(dict.fromkeys(step.label for chain in ordered(data.chains) for step in chain.steps))
    header = [f"{data.metric} {'↓' if data.lower_is_better else '↑'}", "level", *steps]
    lines = [header, ["---"] * len(header)]
    for chain in data.chains:
        cells = {step.label: cell(step, decimals(data)) for step in chain.steps}
        lines.append([chain.parts, str(chain.level), *(cells.get(step, "") for step in steps)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ordered(chains: Sequence[Waterfall]) -> list[Waterfall]:
    """The chains with most steps first, so that a list of steps by first appearance is in their order."""
    return sorted(chains, key=lambda chain: -len(chain.steps))


def cell(step: Step, digits: int) -> str:
    """`141.3 ± 0.8 (+48.8)`."""
    value: Interval = step.value
    bar = "" if value.half_width is None else f" ± {value.half_width:.{digits}f}"
    return f"{value.mean:.{digits}f}{bar}" + ("" if step.change is None else f" ({step.change:+z.{digits}f})")


def decimals(data: WaterfallData) -> int:
    """Decimal places that suit a metric: one for distances, three for shares."""
    return 1 if max(abs(step.value.mean) for chain in data.chains for step in chain.steps) > 2 else 3


def _parts(chain: Waterfall) -> tuple[str, str, str]:
    return chain.tokenizer, chain.upscaler, chain.generator


def _numbers(step: Step) -> tuple[str, ...]:
    value = step.value
    numbers = (value.mean, value.half_width, value.n, value.of, step.change)
    return (
        "" if step.epsilon is None else epsilon_text(step.epsilon).replace("∞", "inf"),
        *("" if item is None else str(item) for item in numbers),
    )

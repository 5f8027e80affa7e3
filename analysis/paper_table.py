"""Table T1: methods × ε as Markdown, LaTeX (booktabs) and CSV, the best of an ε in bold where its interval overlaps no
other's.

LaTeX is pandas' own (Styler, which needs jinja2); a paper needs \\usepackage{booktabs}.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path

from analysis import captions
from analysis.chosen import on_one_axis
from analysis.compare_rows import MethodRow, rows_of
from analysis.load import Study, together
from analysis.replicates import Interval, epsilon_text
from analysis.tables import apart, markdown_table, number_text
from wavedp.store import write_atomically

CSV = ("method", "study", "epsilon", "mean", "half_width", "n", "of", "best", "note")
TO_LATEX = {
    "ε": r"$\varepsilon$",
    "∞": r"$\infty$",
    "±": r"$\pm$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "δ": r"$\delta$",
}


@dataclass(frozen=True)
class Entry:
    """value: None without a result. best: in bold. told: what is unusual of it: its n, trials without a result."""

    value: Interval | None
    best: bool
    told: str

    @property
    def text(self) -> str:
        if self.value is None:
            return self.told
        return number_text(self.value) + (f" ({self.told})" if self.told else "")


@dataclass(frozen=True)
class MethodTable:
    """entries: by method and ε. studies: of each method; notes: sentences below the table."""

    metric: str
    lower_is_better: bool
    epsilons: list[float]
    studies: dict[str, str]
    entries: dict[tuple[str, float], Entry]
    notes: list[str]
    said: list[str]


def table_data(studies: Sequence[Study], metric: str | None = None) -> MethodTable:
    """The methods of all studies that may share an axis. Raises UserError if no finished trial has the metric."""
    shared = on_one_axis(studies, metric)
    several = len(shared.studies) > 1
    rows = [
        row
        for study, name in zip(shared.studies, shared.names, strict=True)
        for row in rows_of(study, shared.metric, name, several)
        if row.competes
    ]
    epsilons = sorted({epsilon for row in rows for epsilon in (*row.points, *row.lost)})
    counts = [value.n for row in rows for point in row.points.values() if (value := point.interval(shared.metric))]
    usual = max(set(counts), key=lambda n: (counts.count(n), n))
    entries = {
        (unescape(row.label), epsilon): entry
        for epsilon in epsilons
        for row, entry in zip(rows, _column(rows, epsilon, shared.metric, usual, shared.lower_is_better), strict=True)
        if entry.text
    }
    both = together(shared.studies)
    notes = [
        captions.seeds_sentence([entry.value for entry in entries.values() if entry.value is not None], "value", "±"),
        *([f"n = {usual} where no n is given."] if len(set(counts)) > 1 else []),
        "Bold: the best of its ε, where its interval overlaps no other.",
        captions.metric_sentence(both, shared.metric) + captions.floor_clause(both, shared.metric),
        "ε is that of one trial alone, as asked for.",
        captions.privacy_sentence(both),
        captions.nonprivate_sentence(both),
    ]
    return MethodTable(
        shared.metric,
        shared.lower_is_better,
        epsilons,
        {unescape(row.label): row.study for row in rows},
        entries,
        notes,
        shared.said,
    )


def _column(rows: Sequence[MethodRow], epsilon: float, metric: str, usual: int, lower: bool) -> list[Entry]:
    values = [point.interval(metric) if (point := row.points.get(epsilon)) is not None else None for row in rows]
    places = [place for place, value in enumerate(values) if value is not None]
    best = apart([value for value in values if value is not None], lower)
    return [
        Entry(
            value,
            best is not None and place == places[best],
            ", ".join(
                ([] if value is None or value.n == usual else [f"n={value.n}"])
                + [f"{count} {status}" for status, count in row.lost.get(epsilon, {}).items()]
            ),
        )
        for place, (row, value) in enumerate(zip(rows, values, strict=True))
    ]


def to_markdown(data: MethodTable) -> str:
    """The table and its notes."""
    header = [f"{data.metric} {_arrow(data)}", *(f"ε = {epsilon_text(epsilon)}" for epsilon in data.epsilons)]
    body = [[method.replace("|", "\\|"), *(_bold(entry) for entry in row)] for method, row in _rows(data)]
    notes = "\n".join(f"* {note}" for note in [*data.notes, *data.said])
    return f"{markdown_table(header, body)}\n\n{notes}\n"


def to_latex(data: MethodTable) -> str:
    """A tabular between booktabs' rules."""
    import pandas

    body = {method: [entry.text if entry else "" for entry in row] for method, row in _rows(data)}
    columns = [f"ε = {epsilon_text(epsilon)}" for epsilon in data.epsilons]
    frame = pandas.DataFrame.from_dict(body, orient="index", columns=columns)
    frame.columns.name = f"{data.metric} {_arrow(data)}"
    bold = pandas.DataFrame("", index=frame.index, columns=columns)
    for (method, epsilon), entry in data.entries.items():
        if entry.best:
            bold.loc[method, f"ε = {epsilon_text(epsilon)}"] = "textbf:--rwrap;"
    style = frame.style.format(escape="latex").format_index(escape="latex").format_index(escape="latex", axis=1)
    style = style.format_index_names(escape="latex", axis=1).apply(lambda _: bold, axis=None)
    text = style.to_latex(hrules=True, column_format="l" + "r" * len(columns))
    for sign, command in TO_LATEX.items():
        text = text.replace(sign, command)
    return text


def to_csv(data: MethodTable) -> str:
    """A line a method and ε, numbers in full."""
    import pandas

    lines = [
        (
            method,
            data.studies[method],
            epsilon_text(epsilon).replace("∞", "inf"),
            *((value.mean, value.half_width, value.n, value.of) if (value := entry.value) else (None,) * 4),
            "yes" if entry.best else "",
            entry.told,
        )
        for (method, epsilon), entry in data.entries.items()
    ]
    return str(pandas.DataFrame(lines, columns=list(CSV)).astype({"n": "Int64"}).to_csv(index=False))


def write_table_files(data: MethodTable, stem: Path) -> list[Path]:
    """Write stem.md, stem.tex and stem.csv."""
    texts = {"md": to_markdown(data), "tex": to_latex(data), "csv": to_csv(data)}
    written = [stem.with_name(f"{stem.name}.{kind}") for kind in texts]
    for path, text in zip(written, texts.values(), strict=True):
        write_atomically(path, text.encode())
    return written


def _rows(data: MethodTable) -> list[tuple[str, list[Entry | None]]]:
    return [(method, [data.entries.get((method, epsilon)) for epsilon in data.epsilons]) for method in data.studies]


def _bold(entry: Entry | None) -> str:
    return "" if entry is None else f"**{entry.text}**" if entry.best else entry.text


def _arrow(data: MethodTable) -> str:
    return "↓" if data.lower_is_better else "↑"

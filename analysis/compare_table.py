"""The page of `analysis.compare`: compare.md for reading, compare.csv and compare_tests.csv for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from analysis.comparable import Published, published_sentences
from analysis.compare import Axis, Compared, Wanted
from analysis.compare_rows import MethodRow
from analysis.costs import PARTS
from analysis.front import MOST_LISTED, Least
from analysis.paired import LEVEL, Paired
from analysis.replicates import LEAST_SEEDS, epsilon_text
from analysis.tables import markdown_table, number_text
from wavedp.store import write_atomically

HOLLOW, FILLED = "○", "●"
COLUMNS = (
    "metric", "study", "method", "epsilon", "mean", "half_width", "n", "of", "without_result", "comparable",
)  # fmt: skip
TEST_COLUMNS = ("metric", "epsilon", "method", "other", "difference", "half_width", "n", "t", "p", "p_holm", "reason")
NAMED_PAIRS = 6  # more pairs without a test are only counted


def markdown(data: Compared) -> str:
    """The whole page; a part that has nothing to say is not there."""
    tests = [test for axis in data.axes for test in axis.tests]
    family = sum(test.p is not None for test in tests)
    parts = [part for axis in data.axes for part in _axis(axis, family)]
    sentences = [*data.apart, *data.left_out, *_sources(data)]
    return "\n\n".join([*parts, "\n".join(f"* {_escaped(sentence)}" for sentence in sentences)]) + "\n"


def write_tables(data: Compared, folder: Path) -> list[Path]:
    """compare.md, compare.csv and compare_tests.csv; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {
        folder / "compare.md": markdown(data),
        folder / "compare.csv": _csv(COLUMNS, rows(data)),
        folder / "compare_tests.csv": _csv(TEST_COLUMNS, test_rows(data)),
    }
    for path, content in written.items():
        write_atomically(path, content.encode())
    return list(written)


def rows(data: Compared) -> list[tuple[str, ...]]:
    """A row a method and ε, in the order of COLUMNS, numbers in full. comparable: of a published number, whether it may
    share the axis."""
    found = []
    for axis in data.axes:
        for row in axis.rows:
            for epsilon in sorted({*row.points, *row.lost}):
                value = axis.value(row, epsilon)
                numbers = (value.mean, value.half_width, value.n, value.of) if value else (None,) * 4
                lost = row.lost.get(epsilon, {})
                told = " ".join(f"{count} {status}" for status, count in lost.items())
                found.append((axis.metric, row.study, row.label, _epsilon(epsilon), *_texts(numbers), told, ""))
        for paper in axis.published:
            comparable = "yes" if paper.comparable else "no"
            for method, values in paper.methods.items():
                for epsilon, score in values.items():
                    place = (paper.metric, paper.name, method, _epsilon(epsilon))
                    found.append((*place, str(score), "", "", "", "", comparable))
    return found


def test_rows(data: Compared) -> list[tuple[str, ...]]:
    """A row a pair and ε, in the order of TEST_COLUMNS."""
    found = []
    for axis in data.axes:
        for test in axis.tests:
            gap = test.difference
            numbers = (gap.mean, gap.half_width, gap.n) if gap else (None, None, 0)
            place = (axis.metric, _epsilon(test.epsilon), test.one, test.other)
            found.append((*place, *_texts((*numbers, test.t, test.p, test.adjusted)), test.reason))
    return found


def _axis(axis: Axis, family: int) -> list[str]:
    """The parts of one axis, headings among them."""
    arrow = "↓" if axis.lower_is_better else "↑"
    parts = [f"## {axis.metric} {arrow}: {', '.join(axis.studies)}", _values_table(axis)]
    parts.append("\n".join(f"* {_escaped(note)}" for note in [*_marks(axis), *axis.notes]))
    if axis.published:
        parts.append("\n".join(f"* {_escaped(note)}" for note in published_sentences(list(axis.published))))
    if axis.tests:
        parts += ["### Differences, paired by seed", *_tests(axis, family)]
    parts += ["### Hypervolume", *_volumes(axis)]
    if axis.target is not None:
        sign = "≤" if axis.lower_is_better else "≥"
        parts += [f"### Least ε for {axis.metric} {sign} {axis.target:g}", *_least(axis)]
    if axis.costs:
        parts += ["### What it took", *_costs(axis)]
    return parts


def _values_table(axis: Axis) -> str:
    usual = _usual(axis)
    body = [[_escaped(row.label), *(_cell(axis, row, e, usual) for e in axis.epsilons)] for row in axis.rows]
    for paper in axis.published:
        mark = FILLED if paper.comparable else HOLLOW
        told = ", ".join(filter(None, (paper.name, paper.metric, paper.classifiers)))
        for method, values in paper.methods.items():
            doubts = {e: " (?)" if _is_doubtful(paper, method, e) else "" for e in values}
            cells = [f"{mark} {values[e]:.4g}{doubts[e]}" if e in values else "" for e in axis.epsilons]
            body.append([_escaped(f"{mark} {method} ({told})"), *cells])
    return markdown_table(["method", *(f"ε = {epsilon_text(e)}" for e in axis.epsilons)], body)


def _usual(axis: Axis) -> int | None:
    """The number of seeds behind most values."""
    counts = [value.n for row in axis.rows for e in row.points if (value := axis.value(row, e)) and value.of == "seeds"]
    return max(set(counts), key=lambda n: (counts.count(n), n)) if counts else None


def _cell(axis: Axis, row: MethodRow, epsilon: float, usual: int | None) -> str:
    """`123.5 ± 2.4`, with what is unusual of it: fewer seeds, sample sets of one fit, trials without a result."""
    value, lost = axis.value(row, epsilon), row.lost.get(epsilon, {})
    told = [f"{count} {status}" for status, count in lost.items()]
    if value is None:
        return ", ".join(told)
    if value.of == "sample sets":
        told.insert(0, f"n=1×{value.n}")
    elif value.n != usual:
        told.insert(0, f"n={value.n}")
    return number_text(value) + (f" ({', '.join(told)})" if told else "")


def _marks(axis: Axis) -> list[str]:
    """What the cells mean."""
    values = [value for row in axis.rows for epsilon in row.points if (value := axis.value(row, epsilon))]
    usual = _usual(axis)
    found = []
    if any(value.half_width is not None for value in values):
        found.append(f"Mean ± half of the 95% Student t interval over {usual} seeds, unless n is given.")
    elif usual:
        found.append(f"Mean over {usual} seeds." if usual > 1 else "One seed a value.")
    if any(value.of == "seeds" and value.n < LEAST_SEEDS for value in values):
        found.append(f"Values of fewer than {LEAST_SEEDS} seeds have no interval.")
    if any(value.of == "sample sets" for value in values):
        found.append("n=1×k: the mean of k sample sets of one private fit, which tell nothing of another fit.")
    if axis.published:
        found.append(f"{HOLLOW}: published, not comparable; {FILLED}: published, comparable; (?): doubtful, see below.")
    return found


def _is_doubtful(paper: Published, method: str, epsilon: float) -> bool:
    return any(text.startswith(f"{method} at ε = {epsilon:g}:") for text in paper.caveats)


def _tests(axis: Axis, family: int) -> list[str]:
    made = [test for test in axis.tests if test.p is not None]
    other = [test for test in axis.tests if test.p is None]
    parts = []
    if made:
        header = ["ε", "method", "minus", "difference", "n", "t", "p", "p (Holm)"]
        parts.append(markdown_table(header, [_test(test) for test in made]))
        holds = sum(test.holds for test in made)
        parts.append(
            f"Two-sided paired t-tests, Holm-corrected over the {family} tests of this page. Differences that hold at "
            f"{LEVEL:.0%} (bold): {holds} of {len(made)}."
        )
    reasons: dict[str, list[Paired]] = {}
    for test in other:
        reasons.setdefault(test.reason, []).append(test)
    pairs = {why: dict.fromkeys(f"{t.one} and {t.other}" for t in tests) for why, tests in reasons.items()}
    named = {why: "; ".join(of) if len(of) <= NAMED_PAIRS else f"{len(of)} pairs" for why, of in pairs.items()}
    untested = [
        f"* Not tested, {why}: {_escaped(named[why])}, at ε = "
        f"{', '.join(dict.fromkeys(epsilon_text(test.epsilon) for test in tests))}."
        for why, tests in reasons.items()
    ]
    return [*parts, *(["\n".join(untested)] if untested else [])]


def _test(test: Paired) -> list[str]:
    assert test.difference is not None
    assert test.t is not None
    difference = number_text(test.difference)
    cells = [epsilon_text(test.epsilon), _escaped(test.one), _escaped(test.other)]
    numbers = [f"{test.difference.n}", f"{test.t:.2f}", _p(test.p), _p(test.adjusted)]
    return [*cells, f"**{difference}**" if test.holds else difference, *numbers]


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}" if value >= 1e-4 else "<0.0001"


def _volumes(axis: Axis) -> list[str]:
    if not axis.volumes or axis.reference is None:
        return ["None: no finite ε is common to all methods that have one."]
    table = []
    ranked = sorted(axis.volumes.items(), key=lambda item: -item[1].value)
    for label, found in ranked:
        between = "" if found.low is None or found.high is None else f"{found.low:.4g} to {found.high:.4g}"
        table.append([_escaped(label), f"{found.value:.4g}", between, str(found.seeds or "")])
    budgets = ", ".join(map(epsilon_text, axis.budgets))
    text = (
        f"Area between the front and the reference point ε = {axis.reference[0]:g}, {axis.metric} = "
        f"{axis.reference[1]:.4g}, over log10 ε, from the means at ε = {budgets}, which all methods have; larger is "
        "better."
    )
    counts = {found.seeds for found in axis.volumes.values() if found.seeds}
    if counts:
        how = "of all resamples" if max(counts) ** max(counts) <= MOST_LISTED else "of resamples"
        text += (
            f" Interval: 2.5% to 97.5% {how} of whole seeds; of {min(counts)} seeds it is rough, and narrower than it "
            "should be."
        )
    else:
        text += f" No interval: it takes {LEAST_SEEDS} seeds or more, the same at each ε."
    without = [row.label for row in axis.rows if row.competes and row.label not in axis.volumes]
    if without:
        text += f" Without a finite ε: {_escaped('; '.join(without))}."
    return [markdown_table(["method", "hypervolume", "95% bootstrap", "seeds"], table), text]


def _least(axis: Axis) -> list[str]:
    table = [[_escaped(each.method), least_text(each.least, axis.lower_is_better), _sure(each)] for each in axis.wanted]
    text = (
        "By the means, along a straight line over log ε between neighbouring ε that were tried, never across one with "
        "a trial without a result; and the least ε that was tried whose whole 95% interval reaches the value."
    )
    return [markdown_table(["method", "least ε", "whole interval"], table), text]


def _costs(axis: Axis) -> list[str]:
    places = sorted({place for each in axis.costs for place in each.memory}, reverse=True)
    header = ["method", *(f"{part}, s" for part in PARTS), *(f"{place}, MiB" for place in places), "releases"]
    body = [
        [
            _escaped(each.method),
            *("–" if seconds is None else f"{seconds:.3g}" for seconds in each.seconds.values()),
            *(str(each.memory.get(place, "–")) for place in places),
            str(each.releases),
        ]
        for each in axis.costs
    ]
    text = (
        "Seconds of one trial, the mean, as if it shared no stage; –: not made by this study (a model of the zoo, or "
        "found in the store), or not recorded."
    )
    if places:
        text += " MiB: the largest of a stage's process, its libraries included."
    return [markdown_table(header, body), text]


def least_text(found: Least, lower: bool) -> str:
    """The answer in words where it is no number."""
    if found.kind == "unknown":
        return "none: nothing was measured"
    if found.kind == "never":
        assert found.best is not None
        epsilon, value = found.best
        best = f"the {'lowest' if lower else 'highest'} is {value:.4g} at ε = {epsilon_text(epsilon)}"
        text = f"none that was tried; {best}"
    elif found.kind == "public":
        return "0: no private image is needed"
    elif found.kind == "infinite":
        text = "none that is finite; ε = ∞ reaches it"
    else:
        assert found.epsilon is not None
        number = epsilon_text(found.epsilon)
        span = " and ".join(map(epsilon_text, found.between or ()))
        text = {
            "at most": f"at most {number}, the smallest that was tried and has a result",
            "between": f"{number}, between {span}",
            "tested": f"{number}, the first that reaches it; between {span} no line is drawn",
        }[found.kind]
    if found.failed:
        text += f" (trials without a result at ε = {', '.join(map(epsilon_text, found.failed))})"
    if found.lost:
        text += f"; not at ε = {', '.join(map(epsilon_text, found.lost))}"
    return text


def _sure(each: Wanted) -> str:
    if each.sure is not None:
        return epsilon_text(each.sure)
    return "none that was tried" if each.intervals else f"no interval (fewer than {LEAST_SEEDS} seeds)"


def _sources(data: Compared) -> list[str]:
    return [
        f"{origin['study']}: trials.jsonl sha256 {str(origin['trials_sha256'])[:12]}, commit {origin['commit']}."
        for origin in data.provenance["studies"]
    ]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _epsilon(epsilon: float) -> str:
    return epsilon_text(epsilon).replace("∞", "inf")


def _texts(values: Sequence[float | int | str | None]) -> tuple[str, ...]:
    return tuple("" if value is None else str(value) for value in values)


def _csv(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([header, *lines])
    return text.getvalue()

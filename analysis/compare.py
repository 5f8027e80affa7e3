"""Methods of one or several studies against each other, by one metric at every ε.

    python -m analysis.compare results/A [results/B …] [--metric NAME] [--at 100] [--against METHOD]
                               [--reference EPSILON,VALUE] [--published] [-o folder]

    methods × ε      mean ± half of the 95% t interval over seeds, from three seeds on
    tests            every pair of methods at every ε, paired by seed, Holm-corrected over the page (analysis.paired);
                     --against keeps the pairs with one method, for fewer tests
    hypervolume      FID against log10 ε, with a bootstrap interval and the reference point (analysis.front)
    what it took     seconds of a trial's public training, private fit and samples, peak memory, releases
    --at X           the least ε for FID ≤ X, or accuracy ≥ X
    --published      other papers' numbers, hollow (○) unless comparable (analysis.comparable); never tested

A method is a series of a study: every axis but ε and the seeds. Studies that may not share an axis get tables of their
own, with the reasons; one without the metric, or without a finished trial, is left out with a sentence. Of all methods
that a study tried only its author knows which were planned: the correction covers the tests of this page and no choice
made before it.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis import captions
from analysis.chosen import Chosen, chosen_of, groups_of, names_of, read
from analysis.comparable import Published, published
from analysis.compare_rows import MethodRow, means_of, rows_of, shared_sentences
from analysis.costs import Cost, cost
from analysis.front import BEYOND, Least, Volume, least, surely, volume
from analysis.load import Study, together
from analysis.paired import Paired, corrected, paired
from analysis.price import composed, releases
from analysis.replicates import Interval, epsilon_text
from wavedp.command import command
from wavedp.errors import UserError, nearest


@dataclass(frozen=True)
class Wanted:
    """The answer to --at for one method. sure: the least ε that was tried whose whole interval reaches the value."""

    method: str
    least: Least
    sure: float | None
    intervals: bool


@dataclass(frozen=True)
class Axis:
    """Studies that may share an axis, and what is said of their methods there.

    apart: why other studies of the page are not here. tests: before `corrected`, whose family is the page.
    budgets: the ε of all hypervolumes; volumes: by method, empty if there is no common ε.
    """

    metric: str
    lower_is_better: bool
    studies: tuple[str, ...]
    rows: tuple[MethodRow, ...]
    published: tuple[Published, ...]
    tests: tuple[Paired, ...]
    reference: tuple[float, float] | None
    budgets: tuple[float, ...]
    volumes: dict[str, Volume]
    target: float | None
    wanted: tuple[Wanted, ...]
    costs: tuple[Cost, ...]
    notes: tuple[str, ...]

    @property
    def epsilons(self) -> list[float]:
        """The columns: every ε that a row or a published number has."""
        ours = {epsilon for row in self.rows for epsilon in (*row.points, *row.lost)}
        theirs = {e for paper in self.published for row in paper.methods.values() for e in row}
        return sorted(ours | theirs)

    def value(self, row: MethodRow, epsilon: float) -> Interval | None:
        """Mean, with an interval over seeds only: sample sets of one fit do not tell how fits vary."""
        point = row.points.get(epsilon)
        found = point.interval(self.metric) if point is not None else None
        return found if found is None or found.of == "seeds" else replace(found, half_width=None)


@dataclass(frozen=True)
class Compared:
    """A page: its axes, why they are apart, and what was left out."""

    axes: tuple[Axis, ...]
    apart: tuple[str, ...]
    left_out: tuple[str, ...]
    provenance: dict[str, Any]


def compare_data(
    studies: Sequence[Study],
    metric: str | None = None,
    target: float | None = None,
    against: str | None = None,
    reference: tuple[float, float] | None = None,
    with_published: bool = False,
) -> Compared:
    """Everything on the page. metric: None for the first study's primary one; studies that have another of its family
    are shown by that, apart. Raises UserError if no study has a finished trial with such a metric, or `against` is no
    method."""
    names = names_of(studies)
    chosen, left_out = chosen_of(studies, names, metric)
    groups, apart = groups_of(chosen, names)
    axes = [_axis(group, names, target, reference, with_published) for group in groups]
    if against is not None:
        axes = _only(axes, against)
    tests = iter(corrected([test for axis in axes for test in axis.tests]))
    axes = [replace(axis, tests=tuple(next(tests) for _ in axis.tests)) for axis in axes]
    if with_published and not any(axis.published for axis in axes):
        left_out.append("No number of this data set and family of metrics is in analysis/published.")
    origins = [{**study.provenance(), "study": names[study.folder]} for study, _ in chosen]
    return Compared(tuple(axes), tuple(apart), tuple(left_out), {"studies": origins})


def _axis(
    group: Sequence[Chosen],
    names: dict[Path, str],
    target: float | None,
    reference: tuple[float, float] | None,
    with_published: bool,
) -> Axis:
    metric = group[0][1]
    studies = [study for study, _ in group]
    lower = studies[0].lower_is_better(metric)
    rows = [row for study in studies for row in rows_of(study, metric, names[study.folder], len(group) > 1)]
    means = {row.label: means_of(row, metric) for row in rows}
    rivals = [row for row in rows if row.competes]
    budgets, corner = _reference(rivals, metric, lower, reference)
    axis = Axis(
        metric=metric,
        lower_is_better=lower,
        studies=tuple(names[study.folder] for study in studies),
        rows=tuple(rows),
        published=tuple(published(studies[0], metric)) if with_published else (),
        tests=tuple(_tests(rivals, metric)),
        reference=corner,
        budgets=budgets,
        volumes={
            row.label: volume([(epsilon, row.points[epsilon].by_seed(metric)) for epsilon in budgets], corner, lower)
            for row in rivals
            if corner and budgets and set(budgets) <= set(means[row.label])
        },
        target=target,
        wanted=(),
        costs=tuple(cost for study in studies for cost in _costs(study, rows, names[study.folder])),
        notes=tuple(_notes(studies, names, metric, rows)),
    )
    return axis if target is None else replace(axis, wanted=tuple(_wanted(axis, rivals, means, target)))


def _costs(study: Study, rows: Sequence[MethodRow], name: str) -> list[Cost]:
    own = [row for row in rows if row.study == name and row.points]
    return [cost(study, row.label, [trial for point in row.points.values() for trial in point.trials]) for row in own]


def _tests(rows: Sequence[MethodRow], metric: str) -> list[Paired]:
    return [
        paired(a.label, b.label, epsilon, a.points[epsilon].by_seed(metric), b.points[epsilon].by_seed(metric))
        for a, b in itertools.combinations(rows, 2)
        for epsilon in sorted(a.points.keys() & b.points.keys())
    ]


def _reference(
    rows: Sequence[MethodRow], metric: str, lower: bool, asked: tuple[float, float] | None
) -> tuple[tuple[float, ...], tuple[float, float] | None]:
    """The finite ε that every method has (of those that have any), and the reference point: unless asked for, BEYOND
    times the largest of them, so that the largest counts for a decade too, and the worst single run."""
    finite = [{epsilon for epsilon in row.points if 0 < epsilon < math.inf} for row in rows]
    common = sorted(set.intersection(*filter(None, finite))) if any(finite) else []
    if not common:
        return (), asked
    runs = [v for row in rows for e in common if e in row.points for v in row.points[e].by_seed(metric).values()]
    return tuple(common), asked or (BEYOND * common[-1], (max if lower else min)(runs))


def _wanted(axis: Axis, rows: Sequence[MethodRow], means: dict[str, dict[float, float]], target: float) -> list[Wanted]:
    found = []
    for row in rows:
        values = {epsilon: value for epsilon in row.points if (value := axis.value(row, epsilon)) is not None}
        intervals = any(value.half_width is not None for epsilon, value in values.items() if 0 < epsilon < math.inf)
        answer = least(means[row.label], list(row.lost), target, axis.lower_is_better)
        found.append(Wanted(row.label, answer, surely(values, target, axis.lower_is_better), intervals))
    return found


def _only(axes: Sequence[Axis], against: str) -> list[Axis]:
    """The axes with the tests of one method. against: its label, or a part that only one label has."""
    labels = [row.label for axis in axes for row in axis.rows if row.competes]
    found = [label for label in labels if label == against] or [label for label in labels if against in label]
    if len(found) != 1:
        what = "is no method here" if not found else f"could be {' or '.join(found)}"
        raise UserError(f"--against {against!r} {what}: {nearest(against, labels) if not found else 'say which.'}")
    return [
        replace(axis, tests=tuple(test for test in axis.tests if found[0] in (test.one, test.other))) for axis in axes
    ]


def _notes(studies: Sequence[Study], names: dict[Path, str], metric: str, rows: Sequence[MethodRow]) -> list[str]:
    """What the numbers rest on, for below the tables."""
    both = together(studies)
    prices = [_price_sentence(names[study.folder], releases(study)) for study in studies]
    if len(studies) > 1:
        prices.append(_price_sentence("All of them together", releases(both)))
    floors = {floor for study in studies if (floor := study.floor(metric)) is not None}
    return [
        captions.metric_sentence(both, metric),
        *([f"Real images in place of generated ones get {min(floors):.3g}."] if floors else []),
        "ε in the columns is that of one trial alone, as asked for.",
        *prices,
        captions.privacy_sentence(both),
        captions.nonprivate_sentence(both),
        *shared_sentences(rows),
    ]


def _price_sentence(name: str, lines: list[dict[str, Any]]) -> str:
    if not lines:
        return f"{name}: no private release was made."
    return f"{name}: {captions.count_text(len(lines))}, composed ε = {epsilon_text(composed(lines))}."


def _point(text: str) -> tuple[float, float]:
    """A reference point, such as 100,250."""
    try:
        epsilon, value = map(float, text.split(","))
    except ValueError:
        raise UserError(f"--reference {text} is not a point: give ε and value, such as 100,250.") from None
    if not (0 < epsilon < math.inf and math.isfinite(value)):
        raise UserError(f"--reference {text} has no place on the logarithm of ε: both must be finite and ε above 0.")
    return epsilon, value


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.compare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("studies", type=Path, nargs="+", metavar="study", help="results/<study>, one or several")
    parser.add_argument("--metric", help="one metric (the first study's primary one)")
    parser.add_argument("--at", type=float, metavar="X", help="say the least ε that reaches this value of the metric")
    parser.add_argument("--against", metavar="METHOD", help="test the others against this method only")
    parser.add_argument("--reference", metavar="EPSILON,VALUE", help="reference point of the hypervolume")
    parser.add_argument("--published", action="store_true", help="add other papers' numbers, hollow unless comparable")
    parser.add_argument("-o", "--output", type=Path, help="folder for compare.md, compare.csv and compare_tests.csv")
    chosen = parser.parse_args(arguments)
    if chosen.at is not None and not math.isfinite(chosen.at):
        raise UserError(f"--at {chosen.at} is no value that a metric can reach: give a finite number.")
    reference = _point(chosen.reference) if chosen.reference else None
    studies, said = read(chosen.studies)
    for sentence in said:
        print(f"analysis.compare: {sentence}", file=sys.stderr)
    data = compare_data(studies, chosen.metric, chosen.at, chosen.against, reference, chosen.published)
    from analysis.compare_table import markdown, write_tables

    print(markdown(data), end="")
    if chosen.output is not None:
        print("\n".join(map(str, write_tables(data, chosen.output))), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

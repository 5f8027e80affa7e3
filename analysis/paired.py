"""Tests of two methods against each other, run by run of one seed, and their correction for many tests.

Runs of one seed begin with the same first weights and draw their samples from the same noise wherever they share a
stage. The difference within a seed therefore varies less than two independent runs would, and Student's paired t-test
of the differences has more power than a test of the two means.

Holm's correction (Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6, 1979) keeps the
probability of any false finding in the family at the level, whatever the dependence between the tests. It is written
out here: scipy corrects for the false discovery rate alone, and statsmodels would be a dependency for four lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from analysis.replicates import LEAST_SEEDS, Interval, interval

LEVEL = 0.05
ROUNDING = 1e-12  # relative


@dataclass(frozen=True)
class Paired:
    """`one` minus `other` at one ε. difference: mean and 95% interval over common seeds. p: two-sided. adjusted: by
    Holm, over the whole family. reason: why there was no test; then t, p and adjusted are None."""

    one: str
    other: str
    epsilon: float
    difference: Interval | None
    t: float | None = None
    p: float | None = None
    adjusted: float | None = None
    reason: str = ""

    @property
    def holds(self) -> bool:
        """Whether the difference stands at LEVEL after the correction."""
        return self.adjusted is not None and self.adjusted <= LEVEL


def paired(one: str, other: str, epsilon: float, a: Mapping[int, float], b: Mapping[int, float]) -> Paired:
    """Test the values {seed: value} of two methods; not corrected yet."""
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return Paired(one, other, epsilon, None, reason="no seed in common")
    differences = [a[seed] - b[seed] for seed in seeds]
    found = Paired(one, other, epsilon, interval(differences))
    if len(seeds) < LEAST_SEEDS:
        return replace(found, reason=f"{len(seeds)} of at least {LEAST_SEEDS} seeds in common")
    size = max(abs(value) for seed in seeds for value in (a[seed], b[seed]))
    if max(differences) - min(differences) <= ROUNDING * size:  # t would be a ratio of rounding errors
        same = "the same results" if max(map(abs, differences)) <= ROUNDING * size else "differences without any spread"
        return replace(found, reason=same)
    from scipy.stats import ttest_rel  # takes a second to import and is needed only here

    test = ttest_rel([a[seed] for seed in seeds], [b[seed] for seed in seeds])
    return replace(found, t=float(test.statistic), p=float(test.pvalue))


def corrected(tests: Sequence[Paired]) -> list[Paired]:
    """The tests with their `adjusted` p-values; those that were not made are not in the family."""
    adjusted = iter(holm([test.p for test in tests if test.p is not None]))
    return [test if test.p is None else replace(test, adjusted=next(adjusted)) for test in tests]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: the k-th smallest of m times m - k + 1, at most 1, and never below
    that of a smaller one. A test is rejected at a level if its adjusted value is at most the level."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted

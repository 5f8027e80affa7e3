"""What a front of quality against ε amounts to in one number: its hypervolume, and the least ε for a wanted quality.

The hypervolume (Zitzler and Thiele, Multiobjective Evolutionary Algorithms, IEEE Trans. Evol. Comput. 3(4), 1999) is
the area between a reference point and the points that are better than it in both coordinates, log10 ε and the metric:
here in units of the metric times decades of ε. A larger one is better. It has a meaning only with its reference point,
and only over one set of ε: whoever measures at more of them can only gain. On the logarithm ε = 0 and ∞ have no place,
and are left out.

In two dimensions it is a sweep of five lines; optuna's own is private to it (the tests hold ours against it).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from analysis.replicates import LEAST_SEEDS, Interval

MOST_LISTED = 5**5  # resamples that are listed one by one: all of up to five seeds
BEYOND = 10.0  # the usual reference point lies at this multiple of the largest ε
DRAWN, SEED = 2000, 0  # resamples beyond that, and the seed of their choice

Kind = Literal["public", "at most", "between", "tested", "infinite", "never", "unknown"]


@dataclass(frozen=True)
class Volume:
    """A method's hypervolume and the ends of its 95% bootstrap interval; None with fewer than three complete seeds."""

    value: float
    low: float | None = None
    high: float | None = None
    seeds: int = 0


@dataclass(frozen=True)
class Least:
    """The least ε that reaches a value. kind: how it is known.

    public      ε = 0 reaches it
    at most     the smallest finite ε that was tried reaches it
    between     between two neighbours that were tried, by a straight line over log ε
    tested      the first ε that was tried and reaches it, where trials without a result forbid that line
    infinite    only the fit without noise reaches it
    never       no ε that was tried reaches it; `best` is the nearest
    unknown     nothing was measured
    """

    kind: Kind
    epsilon: float | None = None
    between: tuple[float, float] | None = None
    failed: tuple[float, ...] = ()
    lost: tuple[float, ...] = ()
    best: tuple[float, float] | None = None


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Area that the points dominate, smaller being better in both coordinates; a point outside the reference adds
    nothing."""
    area, best = 0.0, reference[1]
    for x, y in sorted(points):
        if x < reference[0] and y < best:
            area += (reference[0] - x) * (best - y)
            best = y
    return area


def volume(points: Sequence[tuple[float, Mapping[int, float]]], reference: tuple[float, float], lower: bool) -> Volume:
    """Hypervolume of points, each an ε and its values by seed, and its percentile bootstrap over seeds.

    reference: ε and value.

    A resample takes seeds with replacement, each with all its points, for a method's runs of one seed share their
    start. All resamples of up to five seeds are listed, DRAWN are drawn of more. There is no interval unless every
    point has the same seeds, three at least; of three it is a rough one, for there are only ten different resamples.
    """
    corner = (math.log10(reference[0]), reference[1] if lower else -reference[1])

    def area(means: Sequence[float]) -> float:
        logs = [math.log10(epsilon) for epsilon, _ in points]
        return hypervolume([(x, y if lower else -y) for x, y in zip(logs, means, strict=True)], corner)

    names = sorted({seed for _, row in points for seed in row})
    whole = area([math.fsum(row.values()) / len(row) for _, row in points])
    if len(names) < LEAST_SEEDS or any(sorted(row) != names for _, row in points):
        return Volume(whole)
    import numpy as np

    n = len(names)
    if n**n <= MOST_LISTED:
        chosen = list(itertools.product(range(n), repeat=n))
    else:
        chosen = [tuple(row) for row in np.random.default_rng(SEED).integers(0, n, (DRAWN, n))]
    areas = [area([math.fsum(row[names[i]] for i in picked) / n for _, row in points]) for picked in chosen]
    low, high = np.quantile(areas, (0.025, 0.975))
    return Volume(whole, float(low), float(high), n)


def unbroken(epsilons: Sequence[float], lost: Collection[float]) -> list[list[float]]:
    """Ascending ε in runs that a line may join: it never crosses an ε whose trials have no result."""
    runs: list[list[float]] = []
    for epsilon in sorted(epsilons):
        if runs and not any(runs[-1][-1] < gap < epsilon for gap in lost):
            runs[-1].append(epsilon)
        else:
            runs.append([epsilon])
    return runs


def least(means: Mapping[float, float], failed: Sequence[float], target: float, lower: bool) -> Least:
    """The least ε whose mean is at most `target` (at least, if larger is better). failed: ε with a trial that has no
    result: no line is drawn from, to or across them."""

    def reaches(value: float) -> bool:
        return value <= target if lower else value >= target

    if not means:
        return Least("unknown", failed=tuple(sorted(failed)))
    finite = sorted(epsilon for epsilon in means if 0 < epsilon < math.inf)
    reached = [epsilon for epsilon in finite if reaches(means[epsilon])]
    if 0.0 in means and reaches(means[0.0]):
        return Least("public", 0.0)
    if not reached:
        if math.inf in means and reaches(means[math.inf]):
            return Least("infinite", math.inf, failed=tuple(sorted(failed)))
        nearest = (min if lower else max)(means, key=means.__getitem__)
        return Least("never", best=(nearest, means[nearest]), failed=tuple(sorted(failed)))
    first = reached[0]
    lost = tuple(epsilon for epsilon in finite if epsilon > first and not reaches(means[epsilon]))
    before = [epsilon for epsilon in finite if epsilon < first]
    between = [epsilon for epsilon in sorted(failed) if (before[-1] if before else 0) <= epsilon <= first]
    if not before:
        return Least("at most", first, failed=tuple(between), lost=lost)
    if between:
        return Least("tested", first, (before[-1], first), tuple(between), lost)
    low, high = means[before[-1]], means[first]
    share = (low - target) / (low - high)
    crossing = 10 ** (math.log10(before[-1]) + share * (math.log10(first) - math.log10(before[-1])))
    return Least("between", crossing, (before[-1], first), lost=lost)


def surely(values: Mapping[float, Interval], target: float, lower: bool) -> float | None:
    """The least finite ε that was tried whose whole 95% interval reaches the target; None if there is none."""
    for epsilon in sorted(values):
        value = values[epsilon]
        if 0 < epsilon < math.inf and value.half_width is not None:
            end = value.high if lower else value.low
            if end <= target if lower else end >= target:
                return epsilon
    return None

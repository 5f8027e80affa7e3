"""How sure it is that a point is on the front of quality against ε.

The dominance probability of a point is the share of resamples in which no other point has both an ε that is no larger
and a value that is no worse, one of them being better. A resample takes the seeds of each point with replacement; the
points of one study that have the same seeds are resampled together, for runs of one seed share their start. A point of
fewer than LEAST_SEEDS seeds keeps its mean in every resample, and has no probability of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.replicates import LEAST_SEEDS

DRAWN, SEED = 2000, 0


@dataclass(frozen=True)
class Tried:
    """A point: its study, its ε and its values by seed."""

    study: str
    epsilon: float
    values: Mapping[int, float]

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.values.values())))


def on_front(points: Sequence[Tried], lower: bool) -> list[bool]:
    """Whether no other point dominates it, by the means."""
    means = np.array([[point.mean for point in points]]).reshape(1, len(points))
    return [bool(found) for found in _undominated(points, means, lower)[0]]


def chances(points: Sequence[Tried], lower: bool) -> list[float | None]:
    """The dominance probability of each point."""
    random, drawn = np.random.default_rng(SEED), {}
    means = np.empty((DRAWN, len(points)))
    for column, point in enumerate(points):
        seeds = tuple(sorted(point.values))
        values = np.array([point.values[seed] for seed in seeds])
        if len(seeds) < LEAST_SEEDS:
            means[:, column] = values.mean()
            continue
        if (point.study, seeds) not in drawn:
            drawn[point.study, seeds] = random.integers(0, len(seeds), (DRAWN, len(seeds)))
        means[:, column] = values[drawn[point.study, seeds]].mean(1)
    shares = _undominated(points, means, lower).mean(0)
    return [
        float(share) if len(point.values) >= LEAST_SEEDS else None for point, share in zip(points, shares, strict=True)
    ]


def _undominated(points: Sequence[Tried], means: np.ndarray, lower: bool) -> np.ndarray:
    """means: resamples by points. Returns as many truth values."""
    epsilon, score = np.array([point.epsilon for point in points]), means if lower else -means
    found = np.ones(means.shape, dtype=bool)
    for other in range(len(points)):
        theirs = score[:, other, None]
        no_worse = (epsilon[other] <= epsilon) & (theirs <= score)
        found &= ~(no_worse & ((epsilon[other] < epsilon) | (theirs < score)))
    return found

"""What an audit found, against what was claimed: bounds on ε, and measurements that the claim gives a law for.

Formal guarantee. Of a fit that keeps its claim, `rejected` is true with probability at most `level`, shared by all the
evidence given to it. Measurements of noise, sampling and votes are exact tests, or sums of hundreds of terms taken as
normal; bounds as in wavedp.audit.bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, chi2, norm, pearsonr


@dataclass(frozen=True)
class Evidence:
    """measured is to stay within claimed (`least`: to reach it). p_value: how likely what was measured is under the
    claim; a bound on ε that was computed at the level of the verdict has 0 when it exceeds the claim, 1 otherwise."""

    name: str
    measured: float
    claimed: float
    p_value: float
    least: bool = False

    def __str__(self) -> str:
        side = ">=" if self.least else "<="
        return f"{self.name} {self.measured:.4g}, claimed {side} {self.claimed:.4g} (p = {self.p_value:.1e})"


def rejected(evidence: Sequence[Evidence], level: float) -> Evidence | None:
    """The evidence that rejects the claim, the strongest if there are several; None if none does."""
    worst = min(evidence, key=lambda item: (item.p_value, -_excess(item)))
    return worst if worst.p_value < level / len(evidence) else None


def of_bound(name: str, bound: float, epsilon: float) -> Evidence:
    """A lower bound on ε, of a confidence of the verdict's own, against the claim."""
    return Evidence(f"ε, {name}", bound, epsilon, 0.0 if bound > epsilon else 1.0)


def of_noise(values: np.ndarray) -> Evidence:
    """Numbers that should be N(0, 1) or wider, where no record has a vote: the noise in units of what was claimed."""
    total = float(np.square(values).sum())
    return Evidence("noise", math.sqrt(total / len(values)), 1.0, float(chi2.cdf(total, len(values))), least=True)


def of_sampling(drawn: int, chances: int, rate: float) -> Evidence:
    """How often records were drawn, of so many times that each could have been."""
    p_value = binomtest(drawn, chances, rate, alternative="greater").pvalue if rate < 1 else 1.0
    return Evidence("sample rate", drawn / chances, rate, float(p_value))


def of_vote(length: float) -> Evidence:
    """The length of one record's vote in units of C, computed without noise: certain, but for rounding."""
    return Evidence("vote of a record", length, 1.0, 0.0 if length > 1 + 1e-4 else 1.0)


def of_votes(scores: np.ndarray, most: float, spread: float) -> Evidence:
    """Scores of included canaries, each of expectation at most `most` and standard deviation `spread`."""
    z = (float(scores.mean()) - most) / (spread / math.sqrt(len(scores)))
    return Evidence("votes of included canaries", float(scores.mean()), most, float(norm.sf(z)))


def of_sharing(first: np.ndarray, second: np.ndarray) -> Evidence:
    """Correlation of two releases' noise, in the same places."""
    if not (first.std() and second.std()):
        return Evidence("correlation of two releases' noise", 0.0, 0.0, 1.0)
    found = pearsonr(first, second, alternative="greater")
    return Evidence("correlation of two releases' noise", float(found.statistic), 0.0, float(found.pvalue))


def _excess(item: Evidence) -> float:
    """By how much a claim was missed, as a ratio where there is one: orders evidence of equal p-values."""
    if item.least:
        return item.claimed / max(item.measured, 1e-9)
    return item.measured / item.claimed if item.claimed else abs(item.measured)

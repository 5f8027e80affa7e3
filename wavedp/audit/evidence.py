"""Evidence of an audit against a claim: bounds on ε, and measurements whose distribution the claim determines.

Formal guarantee. If a fit keeps its claim, `rejected` returns evidence with probability at most `level`, which all
evidence given to it shares. Measurements of noise, sampling and votes are exact tests, or sums of hundreds of terms
that are taken as normal; bounds are those of wavedp.audit.bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, chi2, norm, pearsonr


@dataclass(frozen=True)
class Evidence:
    """One measurement: `measured` must be at most `claimed`, or with `least` at least that. p_value: probability of
    such a measurement under the claim; a bound on ε, computed at the verdict's confidence, has 0 if it exceeds the
    claim and 1 otherwise."""

    name: str
    measured: float
    claimed: float
    p_value: float
    least: bool = False

    def __str__(self) -> str:
        side = ">=" if self.least else "<="
        return f"{self.name} {self.measured:.4g}, claimed {side} {self.claimed:.4g} (p = {self.p_value:.1e})"


def rejected(evidence: Sequence[Evidence], level: float) -> Evidence | None:
    """The strongest evidence that rejects the claim; None if none does."""
    worst = min(evidence, key=lambda item: (item.p_value, -_excess(item)))
    return worst if worst.p_value < level / len(evidence) else None


def of_bound(name: str, bound: float, epsilon: float) -> Evidence:
    """Evidence from a lower bound on ε that was computed at the verdict's confidence."""
    return Evidence(f"ε, {name}", bound, epsilon, 0.0 if bound > epsilon else 1.0)


def of_noise(values: np.ndarray) -> Evidence:
    """Evidence from noise that no record influences, in units of the claimed one: it should be N(0, 1) or wider."""
    total = float(np.square(values).sum())
    return Evidence("noise", math.sqrt(total / len(values)), 1.0, float(chi2.cdf(total, len(values))), least=True)


def of_sampling(drawn: int, chances: int, rate: float) -> Evidence:
    """Evidence from the number of times that records were drawn, out of `chances` independent draws."""
    p_value = binomtest(drawn, chances, rate, alternative="greater").pvalue if rate < 1 else 1.0
    return Evidence("sample rate", drawn / chances, rate, float(p_value))


def of_vote(length: float) -> Evidence:
    """Evidence from the length of one record's clipped gradient in units of C, computed without noise: exact except
    for rounding."""
    return Evidence("vote of a record", length, 1.0, 0.0 if length > 1 + 1e-4 else 1.0)


def of_votes(scores: np.ndarray, most: float, spread: float) -> Evidence:
    """Evidence from scores of included canaries, of mean at most `most` and standard deviation `spread` each."""
    z = (float(scores.mean()) - most) / (spread / math.sqrt(len(scores)))
    return Evidence("votes of included canaries", float(scores.mean()), most, float(norm.sf(z)))


def of_sharing(first: np.ndarray, second: np.ndarray) -> Evidence:
    """Evidence from the correlation of two releases' noise in the same coordinates."""
    if not (first.std() and second.std()):
        return Evidence("correlation of two releases' noise", 0.0, 0.0, 1.0)
    found = pearsonr(first, second, alternative="greater")
    return Evidence("correlation of two releases' noise", float(found.statistic), 0.0, float(found.pvalue))


def _excess(item: Evidence) -> float:
    """The amount by which a claim was missed, as a ratio if possible; it orders evidence of equal p-values."""
    if item.least:
        return item.claimed / max(item.measured, 1e-9)
    return item.measured / item.claimed if item.claimed else abs(item.measured)

"""Lower bounds on ε, at a stated confidence, from an attacker's scores.

    m  canaries   r  guesses (no guess on the rest)   v  right guesses   μ  of Gaussian differential privacy
    included, excluded   scores of canaries that were in the data and of those that were not; higher means "in"

Formal guarantee. If the mechanism is (ε, δ)-differentially private when one record is added or removed, each bound
exceeds ε with probability at most 1 - confidence. In addition they assume

    clopper_pearson       independent scores, of any distribution
    gaussian              the same, and that the mechanism's trade-off is that of a Gaussian mechanism
    one_run               independent fair coins decided which canaries were included; scores may be dependent
    one_run_gaussian      the same as one_run, and a Gaussian trade-off

and that the scores themselves did not decide the threshold or r. `best_thresholds` and `best_guesses` choose those that
would be best for an ideal attacker of the claimed mechanism.

    case                                     result
    no guess better than chance              0: no evidence of anything, least of all of privacy
    all guesses right                        finite, limited by the number of canaries: ln of about m / 3 (one_run)
    δ of the claim                           part of every bound: success that δ explains does not count
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from dp_accounting.gaussian_mechanism import get_epsilon_gaussian
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import beta, binom

LARGEST_EPSILON, LARGEST_MU = 100.0, 40.0
"""Upper ends of searches: beyond them no number of canaries tells a mechanism from one without noise."""

_THRESHOLDS = 800  # candidates
_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)  # of the canaries on which an attacker may guess


@dataclass(frozen=True)
class Scores:
    """Scores of included and of excluded canaries, float64, at least one of each kind."""

    included: np.ndarray
    excluded: np.ndarray

    @property
    def m(self) -> int:
        """The number of canaries."""
        return len(self.included) + len(self.excluded)


class Thresholds(NamedTuple):
    """Thresholds for `clopper_pearson` and `gaussian`: a score >= threshold means "in"."""

    epsilon: float
    mu: float


class Guesses(NamedTuple):
    """Numbers of guesses r for `one_run` and `one_run_gaussian`, half on the highest and half on the lowest scores."""

    epsilon: int
    mu: int


def ideal_scores(mu: float, m: int, rng: np.random.Generator) -> Scores:
    """N(μ, 1) for included and N(0, 1) for excluded canaries, each included by a fair coin: the most that a μ-GDP
    mechanism reveals."""
    coins = rng.random(m) < 0.5
    noise = rng.standard_normal(m)
    return Scores(noise[coins] + mu, noise[~coins])


def mu_of(epsilon: float, delta: float) -> float:
    """The μ of the Gaussian mechanism that is exactly (ε, δ)-differentially private."""
    return float(brentq(lambda mu: epsilon_of(mu, delta) - epsilon, 1e-6, LARGEST_MU))


def epsilon_of(mu: float, delta: float) -> float:
    """The ε of a μ-GDP mechanism at δ (Balle & Wang 2018, arXiv 1805.06530, by dp-accounting); 0 if δ covers it."""
    if mu <= 0 or 2 * ndtr(mu / 2) - 1 <= delta:
        return 0.0
    return float(get_epsilon_gaussian(1 / mu, delta))


def best_thresholds(mu: float, n: int, delta: float, confidence: float, rate: float = 1.0) -> Thresholds:
    """The best thresholds for an ideal attacker with n included and n excluded scores; they use no audited score.

    rate: the probability that an included canary took part; its score is N(μ, 1) if it did and N(0, 1) if not.
    """
    at = np.linspace(-6, 6 + mu, _THRESHOLDS)
    seen = rate * ndtr(mu - at) + (1 - rate) * ndtr(-at)
    counts = np.rint(n * seen), np.rint(n * ndtr(-at)), n, n, confidence
    return Thresholds(float(at[_epsilons(*counts, delta).argmax()]), float(at[_mus(*counts).argmax()]))


def best_guesses(mu: float, m: int, delta: float, confidence: float) -> Guesses:
    """The best numbers of guesses for an ideal attacker of a μ-GDP mechanism with m canaries."""
    counts = sorted({2 * max(1, round(share * m / 2)) for share in _SHARES})
    right = {r: _expected_right(mu, r, m) for r in counts}
    return Guesses(
        max(counts, key=lambda r: one_run(m, r, right[r], delta, confidence)),
        max(counts, key=lambda r: one_run_mu(m, r, right[r], confidence)),
    )


def clopper_pearson(scores: Scores, threshold: float, delta: float, confidence: float) -> float:
    """A bound from the error rates of one test: ln((TPR - δ) / FPR), or the same with in and out exchanged, at the ends
    of exact binomial intervals (Clopper & Pearson 1934)."""
    return float(_epsilons(*_counts(scores, threshold), confidence, delta))


def gaussian(scores: Scores, threshold: float, delta: float, confidence: float) -> float:
    """The ε of the smallest μ whose Gaussian trade-off allows the test's error rates, Φ⁻¹(TPR) - Φ⁻¹(FPR), at the ends
    of the same intervals (Nasr et al. 2023, arXiv 2302.07956)."""
    return epsilon_of(float(_mus(*_counts(scores, threshold), confidence)), delta)


def right_guesses(scores: Scores, guesses: int) -> int:
    """The number of right ones among `guesses` guesses: "in" for the highest scores, "out" for the lowest, half each.

    A fixed shuffle breaks ties, so that scores without information are right half of the time.
    """
    values = np.concatenate([scores.included, scores.excluded])
    truth = np.arange(len(values)) < len(scores.included)
    shuffled = np.random.default_rng(0).permutation(len(values))
    order = shuffled[np.argsort(values[shuffled], kind="stable")]
    half = guesses // 2
    return int((~truth[order[:half]]).sum() + truth[order[len(order) - (guesses - half) :]].sum())


def one_run(m: int, r: int, v: int, delta: float, confidence: float) -> float:
    """The largest ε at which v or more right guesses of r have a p-value (`one_run_p_value`) below 1 - confidence."""

    def excess(epsilon: float) -> float:
        return one_run_p_value(m, r, v, epsilon, delta) - (1 - confidence)

    return _last_rejected(excess, LARGEST_EPSILON)


def one_run_p_value(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """The largest probability under (ε, δ) of v or more right guesses among r on m canaries, by theorem 5.2 of Steinke,
    Nasr & Jagielski 2023 (arXiv 2305.08846): P[W >= v] + 2 m δ max_i P[v - i <= W < v] / i, W ~ Bin(r, e^ε/(1 + e^ε)).
    """
    right = 1 / (1 + math.exp(-epsilon))
    below = np.cumsum(binom.pmf(np.arange(v - 1, -1, -1), r, right))  # P[v - i <= W < v] for i = 1..v
    worst = float((below / np.arange(1, v + 1)).max()) if v else 0.0
    return min(1.0, float(binom.sf(v - 1, r, right)) + 2 * m * delta * worst)


def one_run_gaussian(m: int, r: int, v: int, delta: float, confidence: float) -> float:
    """The ε at δ of the largest μ that `one_run_mu` rejects."""
    return epsilon_of(one_run_mu(m, r, v, confidence), delta)


def one_run_mu(m: int, r: int, v: int, confidence: float) -> float:
    """The largest μ under which v or more right guesses of r are less likely than 1 - confidence."""
    return _last_rejected(lambda mu: r / m - _least_mass(mu, m, r, v, 1 - confidence), LARGEST_MU)


def _least_mass(mu: float, m: int, r: int, v: int, tail: float) -> float:
    """A lower bound on (Σ_t p_t) r / m if p_t is the law of the right guesses and P[t >= v] = tail. The true value is
    r / m, so a bound above that refutes μ.

    Mahloujifar, Melis & Chaudhuri 2024 (arXiv 2410.22235), for two-way guesses. Let R_i = Σ_{t >= i} p_t t / m and
    W_i = Σ_{t >= i} p_t (r - t) / m be the shares of canaries guessed right and wrong. f-DP of each canary given the
    others says R_{i+1} <= 1 - f(W_i), which for a Gaussian trade-off is W_i >= Φ(Φ⁻¹(R_{i+1}) - μ). Mass at t = i adds
    to R and W in the ratio of i to r - i. The minimum has all of the tail at t = v.
    """
    right, wrong = tail * v / m, tail * (r - v) / m
    for i in range(v - 1, -1, -1):
        least = max(wrong, float(ndtr(ndtri(min(right, 1.0)) - mu)))
        right += i / (r - i) * (least - wrong)
        wrong = least
    return right + wrong


def _last_rejected(excess: Callable[[float], float], largest: float) -> float:
    """The end of the interval from 0 on which the increasing `excess` is negative; 0 if it is negative nowhere."""
    if excess(0.0) >= 0:
        return 0.0
    if excess(largest) < 0:
        return largest
    return float(brentq(excess, 0.0, largest, xtol=1e-4))


def _expected_right(mu: float, r: int, m: int) -> int:
    """The right guesses of an ideal attacker who guesses on the r / 2 highest and the r / 2 lowest of m scores."""
    share = r / (2 * m)
    cut = brentq(lambda x: (ndtr(-x) + ndtr(mu - x)) / 2 - share, -40, 40 + mu)
    return min(r, int(r * ndtr(mu - cut) / (ndtr(-cut) + ndtr(mu - cut))))


def _counts(scores: Scores, threshold: float) -> tuple[int, int, int, int]:
    """Numbers of included and excluded scores at or above the threshold, and of all included and excluded scores."""
    above = [int((part >= threshold).sum()) for part in (scores.included, scores.excluded)]
    return above[0], above[1], len(scores.included), len(scores.excluded)


def _rates(
    included: np.ndarray | int, excluded: np.ndarray | int, n_included: int, n_excluded: int, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Lower bounds on TPR and TNR that hold together with `confidence`. Both directions of a test need only these two,
    since 1 - TNR is its FPR and 1 - TPR its FNR."""
    miss = (1 - confidence) / 2
    return _low(included, n_included, miss), _low(n_excluded - excluded, n_excluded, miss)


def _epsilons(
    included: np.ndarray | int,
    excluded: np.ndarray | int,
    n_included: int,
    n_excluded: int,
    confidence: float,
    delta: float,
) -> np.ndarray:
    tpr, tnr = _rates(included, excluded, n_included, n_excluded, confidence)
    return np.log(np.maximum(np.maximum((tpr - delta) / (1 - tnr), (tnr - delta) / (1 - tpr)), 1.0))


def _mus(
    included: np.ndarray | int, excluded: np.ndarray | int, n_included: int, n_excluded: int, confidence: float
) -> np.ndarray:
    tpr, tnr = _rates(included, excluded, n_included, n_excluded, confidence)
    return np.clip(ndtri(tpr) + ndtri(tnr), 0.0, LARGEST_MU)  # -Φ⁻¹(FPR) = Φ⁻¹(TNR)


def _low(k: np.ndarray | int, n: int, miss: float) -> np.ndarray:
    """Lower end of the one-sided Clopper-Pearson interval for k of n; scipy's `proportion_ci` takes no arrays."""
    count = np.asarray(k, np.float64)
    return np.where(count > 0, beta.ppf(miss, np.maximum(count, 1e-9), n - count + 1), 0.0)

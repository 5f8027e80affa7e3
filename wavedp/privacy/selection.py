"""The price of selection: the ε of publishing only the best of a random number of private runs.

    Q      one run, its score included; K   how many independent runs there were; A   the best of them
    λ, ε   Rényi order and divergence of one run; λ̂, ε̂, δ̂   the theorem's second order and what Q costs there
    η, γ   shape in (-1, ∞) and scale in (0, 1) of a truncated negative binomial

Formal guarantee. Draw K from a `RandomK` before anything is run, with randomness that stays secret; run Q K times, each
with independent randomness; publish the output with the best score and nothing else. Then `epsilon_of_best` returns an
ε such that this is (ε, δ)-differentially private when one record is added or removed. The source is Papernot & Steinke,
"Hyperparameter Tuning with Rényi Differential Privacy", 2021 (arXiv 2110.03620), theorem 2 (truncated negative
binomial) and theorem 6 (Poisson), over all pairs of the orders in `ORDERS`, converted by Canonne, Kamath & Steinke,
2020 (arXiv 2004.00010), proposition 12. Q may begin by drawing its configuration: at each order it then costs at most
as much as the worst configuration that it *could* draw, because e^((λ-1)D) of a mixture is at most the mean of
e^((λ-1)D) over its parts. The score must be a function of the run's output, public data and unprotected records only.

    case                                          result
    K geometric, logarithmic                      theorem 2 with η = 1, η = 0
    K = 0 (Poisson only)                          nothing is published: its probability e^-mean is the same for all
                                                  neighbours
    one mechanism                                 its price
    several mechanisms, one drawn for each run    at each order the price of the worst of them; give all of them
    several mechanisms, fixed runs of each        no bound: the runs are not draws of one Q; compose them
    K fixed, a grid                               UserError: the best of K fixed runs may leak as much as all of them
    mean of K not above 1 (Poisson: below 1)      UserError: a fixed K = 1, or a bound below that of one run
    a run without noise (ε = ∞)                   UserError: one run has no bound, so the best has none
    K, its seed, or a second output published     no bound: compose what was published
    runs chosen by earlier scores (Optuna's TPE)  no bound: the runs are not independent
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS, compute_delta, compute_epsilon
from scipy.optimize import brentq

from wavedp.errors import UserError
from wavedp.privacy import accounting
from wavedp.privacy.accounting import Mechanism

Distribution = Literal["geometric", "logarithmic", "poisson", "truncated_negative_binomial"]

ORDERS = (*DEFAULT_RDP_ORDERS, 2048, 4096)
"""Rényi orders, ascending: those of dp-accounting and two larger ones for small budgets."""

_SHAPES = {"geometric": 1.0, "logarithmic": 0.0}


@dataclass(frozen=True)
class RandomK:
    """A law for the number of runs. mean: E[K], > 1 (Poisson: >= 1). eta, gamma: see the module; gamma replaces mean.

    The support is 1, 2, …; for Poisson it includes 0. truncated_negative_binomial needs eta; the others refuse it.
    Raises UserError for another distribution (a fixed number too) and for parameters out of range.
    """

    distribution: Distribution
    mean: float | None = None
    gamma: float | None = None
    eta: float | None = None

    def __post_init__(self) -> None:
        offered, poisson = get_args(Distribution), self.distribution == "poisson"
        if self.distribution not in offered:
            raise UserError(
                f"distribution={self.distribution!r} of K has no price of selection, which needs a random K: use one "
                f"of {', '.join(offered)}."
            )
        if (self.distribution == "truncated_negative_binomial") != (self.eta is not None):
            raise UserError(
                f"eta={self.eta} does not fit distribution={self.distribution}: give eta to "
                "truncated_negative_binomial, and to no other."
            )
        if self.eta is not None and not -1 < self.eta < math.inf:
            raise UserError(f"eta={self.eta} is not a shape of a truncated negative binomial: use eta > -1.")
        if (self.mean is None) == (self.gamma is None) or (poisson and self.mean is None):
            raise UserError(
                f"mean={self.mean} and gamma={self.gamma} do not say how many runs {self.distribution} gives: use "
                f"{'mean' if poisson else 'one of the two'}."
            )
        if self.mean is not None and not (1 < self.mean < math.inf or (poisson and self.mean == 1)):
            raise UserError(f"mean={self.mean} of K is not random enough for the bound: use a finite mean > 1.")
        if self.gamma is not None and not 0 < self.gamma < 1:
            raise UserError(f"gamma={self.gamma} is not a scale of {self.distribution}: use 0 < gamma < 1.")

    def __str__(self) -> str:
        given = {"mean": self.mean, "gamma": self.gamma, "eta": self.eta}
        return f"{self.distribution}({', '.join(f'{k} {v:g}' for k, v in given.items() if v is not None)})"

    @cached_property
    def shape(self) -> tuple[float, float]:
        """η and γ of a truncated negative binomial."""
        eta = _SHAPES[self.distribution] if self.eta is None else self.eta
        if self.gamma is not None:
            return eta, self.gamma

        def excess(log_gamma: float) -> float:  # decreasing: E[K] goes from ∞ to 1 as γ goes from 0 to 1
            return math.log(_mean(eta, math.exp(log_gamma))) - math.log(self.mean or 1)

        least, most = -690, -1e-9
        if not excess(most) < 0 < excess(least):
            raise UserError(
                f"no gamma gives {self.distribution} with eta={eta:g} the mean {self.mean:g}: use a larger eta, or "
                "a mean further from 1."
            )
        return eta, math.exp(brentq(excess, least, most))

    @property
    def expectation(self) -> float:
        """E[K]."""
        return float(self.mean or 0) if self.distribution == "poisson" else _mean(*self.shape)

    def draw(self, uniform: float) -> int:
        """The smallest K whose distribution function exceeds `uniform`, in [0, 1): the same K on every machine."""
        # Start at P(K = first) and multiply by P(K = k + 1) / P(K = k): the paper's definition 1, and the Poisson law.
        if self.distribution == "poisson":
            k, log_chance = 0, -self.expectation
            factor, shift = self.expectation, None
        else:
            shift, gamma = self.shape
            k, log_chance = 1, (1 + shift) * math.log(gamma) + math.log(self.expectation)
            factor = 1 - gamma
        below = math.exp(log_chance)
        while below <= uniform and (k < self.expectation or log_chance > -745):
            log_chance += math.log(factor * (1 if shift is None else k + shift) / (k + 1))
            k += 1
            below += math.exp(log_chance)
        return k


def law_of(spec: Mapping[str, Any]) -> RandomK:
    """The law of a sweep's `search.random_k`, without its seed and drawn K. Raises UserError if it states none."""
    known = {item.name for item in fields(RandomK)}
    unknown = set(spec) - known - {"seed", "drawn"}
    if unknown or "distribution" not in spec:
        raise UserError(
            f"search.random_k={dict(spec)} is not a law of K: give distribution, mean (or gamma), eta and seed only."
        )
    return RandomK(**{name: value for name, value in spec.items() if name in known})


def drawn(law: RandomK, seed: int) -> int:
    """Draw K by one uniform number of numpy's PCG64. Whoever knows the seed knows K, so keep both secret."""
    return law.draw(float(np.random.Generator(np.random.PCG64(seed)).random()))


def epsilon_of_best(candidates: Sequence[Sequence[Mechanism]], delta: float, law: RandomK) -> float:
    """ε of the best of K ~ law independent runs at `delta` in (0, 1), by RDP.

    candidates: every configuration that a run could draw, each as the mechanisms that such a run composes; equal ones
    count once. With one candidate, all runs are the same mechanism. Raises UserError if a candidate has no noise.
    """
    kinds = list(dict.fromkeys(tuple(candidate) for candidate in candidates))
    if not kinds:
        raise UserError("the price of selection needs a mechanism and none was given: name what one run releases.")
    curves = [accounting.renyi(kind, ORDERS) for kind in kinds]
    if not all(np.isfinite(curve).any() for curve in curves):
        raise UserError(
            "a run without noise (epsilon = inf) has no price of selection, whatever K is: leave it out of the search."
        )
    epsilon, _ = compute_epsilon(
        ORDERS, rdp_of_best(ORDERS, np.max(curves, axis=0), law), accounting.valid_delta(delta)
    )
    return float(epsilon)


def rdp_of_best(orders: Sequence[float], rdp: np.ndarray, law: RandomK) -> np.ndarray:
    """Rényi divergences of the best of K runs, from those of one run. orders: ascending, > 1. rdp and the result:
    [orders], inf where nothing is known."""
    order = np.asarray(orders, np.float64)
    if law.distribution == "poisson":
        # Theorem 6: any ε̂ with e^ε̂ <= 1 + 1/(λ-1); the largest has the smallest δ̂. The bound is then
        # ε + μ δ̂ + ln(μ) / (λ-1). Its case K = 0 needs μ e^((λ-1) μ δ̂) >= 1, which μ >= 1 gives.
        known = np.isfinite(rdp)
        seen = np.maximum(rdp[known], 1e-12)  # compute_delta takes the logarithm of 1 - e^-rdp
        second = law.expectation * np.array(
            [compute_delta(order[known], seen, math.log1p(1 / (x - 1)))[0] for x in order]
        )
    else:
        # Theorem 2: ε + (1+η) [(1 - 1/λ̂) ε̂ + ln(1/γ) / λ̂] + ln(E[K]) / (λ-1), minimised over λ̂.
        eta, gamma = law.shape
        second = (1 + eta) * np.min((1 - 1 / order) * rdp - math.log(gamma) / order)
    best = rdp + second + math.log(law.expectation) / (order - 1)
    # A Rényi divergence grows with its order, so a bound at a larger order also holds at a smaller one.
    return np.minimum.accumulate(best[::-1])[::-1]


def _mean(eta: float, gamma: float) -> float:
    """E[K] of a truncated negative binomial: η (1-γ) / (γ (1 - γ^η)), and its limit (1/γ - 1) / ln(1/γ) at η = 0."""
    if eta == 0:
        return (1 - gamma) / (gamma * -math.log(gamma))
    return eta * (1 - gamma) / (gamma * -math.expm1(eta * math.log(gamma)))

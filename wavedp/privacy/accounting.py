"""Privacy accounting: the noise that a budget asks for, and the budget that a given noise has spent.

    q      sample rate, B / N: the probability that a record is in a batch
    σ      noise multiplier: noise standard deviation / clipping norm
    PLD    privacy loss distribution (dp-accounting): calibrates noise and gives every reported epsilon
    PRV    privacy random variables (Opacus); like RDP (dp-accounting), a cross-check only

Formal guarantee. `compose(mechanisms, delta)` returns an epsilon such that running all the mechanisms, in any order
and each with independent noise and sampling, is (epsilon, delta)-differentially private when one record is added or
removed, or, with relation="replace_one", when one record is replaced by another. A mechanism may depend on the outputs
of earlier ones, but its (q, σ, steps) must be fixed in advance. The result is an upper bound at every discretisation:
connect-the-dots rounding can only enlarge the hockey-stick divergence (Doroshenko et al., 2022, arXiv 2207.04380), so a
coarse grid loses tightness, never validity. FFTs are exact up to double-precision rounding.

    case                                 result
    noise_multiplier = 0                 epsilon = inf
    no mechanism                         epsilon = 0
    sample_rate = 1                      the plain Gaussian mechanism, composed exactly
    budget epsilon = inf                 noise_multiplier = 0: the non-private reference
    delta < 1e-14                        UserError: double precision cannot tell it from zero, so no grid bounds it
    σ or q change from step to step      `spent` takes single steps and groups equal ones
    relation = replace_one               PLD only; at q = 1 the noise counts half. PRV and RDP: UserError
    PRV with a grid of gigabytes         UserError before it is laid out: an epsilon of hundreds, millions of steps
    a Gaussian (GDP/CLT) approximation   never used: it reports less than was spent
"""

from __future__ import annotations

import math
import re
import statistics
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Literal, get_args

import numpy as np
from dp_accounting import dp_event, rdp
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.privacy_accountant import NeighboringRelation

from wavedp.config import PrivacyConfig
from wavedp.errors import InfeasibleError, UserError

Accountant = Literal["pld", "prv", "rdp"]
Relation = Literal["add_or_remove_one", "replace_one"]
"""Neighbouring data sets: one has one record more; or both have the same size and differ in one record."""

NOISE_MULTIPLIER_RANGE = (0.01, 1e4)
"""Calibration searches this range: below it noise hides hardly anything, above it nothing is left to learn."""

ACCOUNTABLE_NOISE = (1e-3, 1e9)
"""The noise multipliers > 0 that a mechanism may have: beyond them, exponentials overflow."""

LEAST_DELTA = 1e-14

_GRID_POINTS = 30_000
"""Most points of one step's grid for reported budgets: at a sample rate of 1e-6, 0.2 % of ε in a third of a second."""
_COARSE_POINTS = 5_000
"""The same where a search only looks for the place to look closely."""
_FINEST = 1e-4
"""Losses are rounded to no less than this over √steps: finer, and double precision loses more than the grid gains."""
_PRV_POINTS = 4_000_000
"""The largest grid for PRV, of a gigabyte and a few seconds."""


@dataclass(frozen=True)
class Mechanism:
    """`steps` Poisson-subsampled Gaussian mechanisms; sample_rate=1 and steps=1 make one plain Gaussian release.

    sample_rate: in (0, 1]. noise_multiplier: noise standard deviation / L2 sensitivity, in ACCOUNTABLE_NOISE; 0 is no
    privacy. steps: >= 1.
    kind: the name for the ledger of a mechanism that is not DP-SGD, such as "noisy_vote": a lower-case identifier of at
    most 32 characters, never "nonprivate". It changes no cost: equality and hashes ignore it.
    """

    sample_rate: float
    noise_multiplier: float
    steps: int
    kind: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.sample_rate <= 1:
            raise UserError(f"sample_rate={self.sample_rate} is not a probability: use 0 < sample_rate <= 1.")
        if not 0 <= self.noise_multiplier < math.inf:
            raise UserError(f"noise_multiplier={self.noise_multiplier} cannot be drawn: use a finite number >= 0.")
        low, high = ACCOUNTABLE_NOISE
        if self.noise_multiplier and not low <= self.noise_multiplier <= high:
            size = "small" if self.noise_multiplier < low else "large"
            raise UserError(
                f"noise_multiplier={self.noise_multiplier} is too {size} for the accountants' arithmetic: use {low:g} "
                f"to {high:g}, or 0 for a run without privacy."
            )
        if self.steps < 1:
            raise UserError(f"steps={self.steps} releases nothing: use steps >= 1.")
        if self.kind == "nonprivate":
            raise UserError(
                "kind='nonprivate' is reserved for looks without noise, which are not mechanisms: use another kind, or "
                "noise_multiplier=0 for a run without privacy."
            )
        if self.kind and not re.fullmatch("[a-z][a-z0-9_]{0,31}", self.kind):
            raise UserError(
                f"kind={self.kind!r} is not a name for a ledger: use a lower-case identifier of at most 32 characters, "
                "such as noisy_vote."
            )

    @property
    def ledger_kind(self) -> str:
        """`kind`, or if that is empty `gaussian` for one release of all records and `dp_sgd` for anything else."""
        return self.kind or ("gaussian" if self.sample_rate == 1 and self.steps == 1 else "dp_sgd")


def sample_rate(config: PrivacyConfig, n_records: int) -> float:
    """The exact q = B / N. Raises UserError when B is not in 1..N."""
    if not 1 <= config.batch_size <= n_records:
        raise UserError(
            f"privacy.batch_size={config.batch_size} cannot be drawn from {n_records} records: "
            f"use 1 <= batch_size <= {n_records}."
        )
    return config.batch_size / n_records


def delta(config: PrivacyConfig, n_records: int) -> float:
    """The configured delta, or 1 / (N ln N) (DPImageBench's rule). Raises UserError when it is not in (0, 1)."""
    if config.delta is None:
        if n_records < 3:
            raise UserError(f"{n_records} records are too few for delta = 1 / (N ln N): give privacy.delta.")
        return 1 / (n_records * math.log(n_records))
    return valid_delta(config.delta)


def check(config: PrivacyConfig, n_records: int) -> list[str]:
    """Check a fit's configuration before training; returns warnings, one sentence each.

    Runs `check_training`, `mechanisms` and `check_delta`. Raises UserError for values out of range and InfeasibleError
    when no noise meets the budget.
    """
    if not config.epsilon >= 0:
        raise UserError(
            f"privacy.epsilon={config.epsilon} is not a budget: use epsilon > 0, or inf for the non-private reference."
        )
    check_training(config)
    mechanisms(config, n_records)
    return check_delta(config, n_records)


def check_training(config: PrivacyConfig) -> None:
    """Raise UserError when a field that a DP-SGD fit reads is out of range, whatever the data.

    adam_floor is read under optimizer=adam_bc only.
    """
    floor = ["adam_floor"] if config.optimizer == "adam_bc" else []
    for name in (
        "batch_size",
        "steps",
        "max_grad_norm",
        "learning_rate",
        *floor,
        *([] if config.microbatch_size == "auto" else ["microbatch_size"]),
        "checkpoint_every",
    ):
        if not 0 < getattr(config, name) < math.inf:
            raise UserError(f"privacy.{name}={getattr(config, name)} trains nothing: use a finite number > 0.")
    if not 0 <= config.ema_decay < 1:
        raise UserError(f"privacy.ema_decay={config.ema_decay} never averages: use 0 <= ema_decay < 1.")
    if not 0 <= config.mean_share < 1:
        raise UserError(f"privacy.mean_share={config.mean_share} leaves the fit nothing: use 0 <= mean_share < 1.")
    if config.noise_source == "secure" and config.mean_share > 0:
        raise UserError(
            "privacy.noise_source=secure would draw the class means anew at every restart, a release each time: set "
            "privacy.mean_share=0, or noise_source=seeded."
        )


def check_delta(config: PrivacyConfig, n_records: int) -> list[str]:
    """Warn, in one sentence, of a delta that is not below 1 / N. Raises UserError when delta is not in (0, 1)."""
    probability = delta(config, n_records)
    if probability < 1 / n_records:
        return []
    return [
        f"privacy.delta={probability:.3g} is not below 1/N={1 / n_records:.3g}, so publishing one random record "
        f"would satisfy it: use privacy.delta=null for 1/(N ln N)."
    ]


def mechanisms(config: PrivacyConfig, n_records: int, alongside: tuple[Mechanism, ...] = ()) -> list[Mechanism]:
    """The mechanisms of one private fit, in order: the release of class means if mean_share > 0, then the DP-SGD fit.

    The means by themselves are calibrated to mean_share * epsilon. The fit gets the noise with which both together
    spend at most epsilon, usually less than a budget of (1 - mean_share) * epsilon would ask for. epsilon = inf gives
    σ = 0 for both. alongside: mechanisms that are planned already and that the same epsilon pays for; they are not in
    the result. Raises InfeasibleError when no noise meets the budget, UserError for values out of range.
    """
    probability, rate = delta(config, n_records), sample_rate(config, n_records)
    before: tuple[Mechanism, ...] = ()
    if config.mean_share > 0:
        before = (for_share(config, n_records, config.mean_share, "privacy.mean_share", "the class means"),)
    sigma = calibrate(config.epsilon, probability, rate, config.steps, (*before, *alongside))
    return [*before, Mechanism(rate, sigma, config.steps)]


def for_share(config: PrivacyConfig, n_records: int, share: float, name: str, what: str) -> Mechanism:
    """One Gaussian release of all records that by itself spends at most share * epsilon; σ = 0 for epsilon = inf.

    share: in (0, 1). name, what: of the share and of the release, for the sentence of InfeasibleError, which is raised
    when no noise meets the share.
    """
    epsilon = share * config.epsilon
    try:
        return Mechanism(1, calibrate(epsilon, delta(config, n_records), 1, 1), 1)
    except InfeasibleError as error:
        raise InfeasibleError(
            f"{name}={share:g} gives {what} epsilon={epsilon:.3g}, which no noise multiplier up to "
            f"{NOISE_MULTIPLIER_RANGE[1]:g} meets: raise {name}."
        ) from error


@lru_cache(maxsize=1024)
def calibrate(
    epsilon: float,
    delta: float,
    sample_rate: float,
    steps: int,
    alongside: tuple[Mechanism, ...] = (),
    relation: Relation = "add_or_remove_one",
) -> float:
    """The smallest noise multiplier of 4 significant digits that, together with `alongside`, spends at most `epsilon`.

    epsilon: > 0; inf gives 0.0. delta: in (0, 1). sample_rate: in (0, 1]. steps: >= 1. alongside: mechanisms that the
    same budget also pays for, whose noise is fixed.
    Accounted by PLD at the returned value itself, so it is never over budget. Never below 0.01.
    Raises InfeasibleError when even a noise multiplier of 10,000 spends more, UserError for arguments out of range.
    """
    if not epsilon > 0:
        raise UserError(f"epsilon={epsilon} is not a budget: use epsilon > 0, or inf for the non-private reference.")
    valid_delta(delta)
    high = NOISE_MULTIPLIER_RANGE[1]
    Mechanism(sample_rate, high, steps)
    if math.isinf(epsilon):
        return 0.0

    def excess(noise_multiplier: float, grid_points: int) -> float:
        """ln(spent / budget), which falls as the noise grows; `spent` is kept above zero."""
        mechanisms = _grouped([Mechanism(sample_rate, noise_multiplier, steps), *alongside])
        cost = _pld(mechanisms, delta, relation, grid_points)
        return math.log(max(cost, 1e-3 * epsilon) / epsilon)

    if compose([Mechanism(sample_rate, high, steps), *alongside], delta, relation=relation) > epsilon:
        taken = compose(alongside, delta, relation=relation)
        if taken > epsilon:
            raise InfeasibleError(
                f"What runs alongside spends epsilon={taken:.4g} of {epsilon:g} at "
                f"delta={delta:.3g}, which leaves nothing for {steps} steps: give it more noise, or raise epsilon."
            )
        raise InfeasibleError(
            f"No noise multiplier up to {high:g} keeps {steps} steps at sample rate {sample_rate:.4g} within "
            f"epsilon={epsilon:g} at delta={delta:.3g}: raise epsilon or delta, or lower steps or batch_size."
        )
    asked = _first_guess(epsilon, delta, sample_rate, steps, alongside)
    asked, slope = _search(partial(excess, grid_points=_COARSE_POINTS), asked, near=0.01)
    return _search(partial(excess, grid_points=_GRID_POINTS), asked, slope)[0]


def compose(
    mechanisms: Sequence[Mechanism],
    delta: float,
    accountant: Accountant = "pld",
    relation: Relation = "add_or_remove_one",
) -> float:
    """Epsilon of all the mechanisms together at `delta` in (0, 1), by this accountant under this neighbouring relation.

    Equal mechanisms are grouped, so 45 releases of 5 different mechanisms need 5 distributions. inf when one of them
    has no noise. Raises UserError for a delta out of range, an unknown accountant, or a relation that the accountant
    does not support.
    """
    accountants: dict[str, Callable[[tuple[Mechanism, ...], float], float]] = {
        "pld": partial(_pld, relation=relation), "prv": _prv, "rdp": _rdp,
    }  # fmt: skip
    if accountant not in accountants:
        raise UserError(f"accountant={accountant!r} is not offered: use one of {', '.join(accountants)}.")
    if relation not in get_args(Relation):
        raise UserError(f"relation={relation!r} is not offered: use one of {', '.join(get_args(Relation))}.")
    if relation == "replace_one" and accountant != "pld":
        raise UserError(
            f"accountant={accountant} has no relation=replace_one for Poisson sampling: use accountant=pld, or "
            "relation=add_or_remove_one."
        )
    valid_delta(delta)
    if any(mechanism.noise_multiplier == 0 for mechanism in mechanisms):
        return math.inf
    if not mechanisms:
        return 0.0
    return accountants[accountant](_grouped(mechanisms), delta)


def spent(
    history: Iterable[Mechanism | tuple[float, float]],
    delta: float,
    accountant: Accountant = "pld",
    relation: Relation = "add_or_remove_one",
) -> float:
    """Epsilon that a run has spent, as `compose` gives it.

    history: what was run, in any order, as mechanisms or as pairs (sample_rate, noise_multiplier) of single steps, for
    runs whose noise or batch size follows a schedule. The schedule must not depend on the records.
    """
    return compose(
        [item if isinstance(item, Mechanism) else Mechanism(*item, 1) for item in history], delta, accountant, relation
    )


def renyi(mechanisms: Sequence[Mechanism], orders: Sequence[float]) -> np.ndarray:
    """Rényi divergence of all the mechanisms together at each order > 1, by dp-accounting; inf without noise."""
    return _rdp_accountant(_grouped(mechanisms), orders).rdp


def valid_delta(delta: float) -> float:
    """Return `delta`. Raises UserError when it is not in [1e-14, 1)."""
    if not 0 < delta < 1:
        raise UserError(f"delta={delta} is out of range: use 0 < delta < 1, well below 1 / N.")
    if delta < LEAST_DELTA:
        raise UserError(
            f"delta={delta} is below {LEAST_DELTA:g}, where double precision cannot tell it from zero: use a delta "
            "such as 1 / (N ln N)."
        )
    return delta


def _grouped(mechanisms: Sequence[Mechanism]) -> tuple[Mechanism, ...]:
    """The same mechanisms, with one entry for all steps of equal noise and sampling."""
    steps: dict[tuple[float, float], int] = {}
    for item in mechanisms:
        kind = (item.sample_rate, item.noise_multiplier)
        steps[kind] = steps.get(kind, 0) + item.steps
    return tuple(Mechanism(*kind, count) for kind, count in sorted(steps.items()))


def _search(
    excess: Callable[[float], float], asked: float, slope: float = -3.5, near: float = 0.0
) -> tuple[float, float]:
    """The smallest noise multiplier of four digits that has no excess, and d ln ε / d ln σ there; 10,000 has none.

    asked, slope: first guesses of both. near: stop at an excess below this, without the last digits.
    """
    # Secant steps on ln σ, each rounded to four digits and kept inside the bracket (low spends too much, high does
    # not). Written by hand: a library's root finder would refine digits that we do not return, at 0.1 s a step.
    low, high = _round_down(NOISE_MULTIPLIER_RANGE[0]), NOISE_MULTIPLIER_RANGE[1]
    points: list[tuple[float, float]] = []
    while _next(low) < high:
        candidate = min(max(_round_up(asked), _next(low)), _previous(high))
        if len(points) > 8:  # the secant converges too slowly: halve the bracket
            candidate = _round_up(math.sqrt(low * _previous(high)))
        points.append((math.log(candidate), excess(candidate)))
        low, high = (candidate, high) if points[-1][1] > 0 else (low, candidate)
        x, y = points[-1]
        if len(points) > 1 and points[-2][1] != y:
            slope = (y - points[-2][1]) / (x - points[-2][0])
        asked = math.exp(min(max(x - y / slope, math.log(low)), math.log(high)))
        if abs(y) < near:
            return asked, slope
    return high, slope


@lru_cache(maxsize=4096)
def _pld(mechanisms: tuple[Mechanism, ...], delta: float, relation: Relation, grid_points: int = _GRID_POINTS) -> float:
    # n plain Gaussian releases of one σ cost as much as one release with σ / sqrt(n).
    mechanisms = tuple(
        Mechanism(1, item.noise_multiplier / math.sqrt(item.steps), 1) if item.sample_rate == 1 else item
        for item in mechanisms
    )
    # Replacing a record moves a sum twice as far as adding it.
    moved = 2 if relation == "replace_one" else 1
    interval = grid_interval(
        [replace(item, noise_multiplier=item.noise_multiplier / moved) for item in mechanisms], grid_points
    )
    total = pld.identity(value_discretization_interval=interval)
    for item in mechanisms:
        one = pld.from_gaussian_mechanism(
            item.noise_multiplier,
            value_discretization_interval=interval,
            sampling_prob=item.sample_rate,
            neighboring_relation=NeighboringRelation[relation.upper()],
        )
        total = total.compose(one.self_compose(item.steps))
    return float(total.get_epsilon_for_delta(delta))


def grid_interval(mechanisms: Sequence[Mechanism], grid_points: int = _GRID_POINTS) -> float:
    """The interval of the grid that losses are rounded to. Any gives an upper bound; this one is tight and fast.

    Rounding to a grid of interval h adds a variance of at most h²/4 per step, so h is a tenth of the steps' root mean
    square loss. That loss is approximated by q sqrt(e^(1/σ²) - 1), the chi-square distance of one step, which is q / σ
    for large noise.
    """
    variance = sum(
        item.steps * min(0.1, item.sample_rate * math.sqrt(math.expm1(min(100, item.noise_multiplier**-2)))) ** 2
        for item in mechanisms
    )
    steps = sum(item.steps for item in mechanisms)
    interval = max(math.sqrt(variance / steps) / 10, _FINEST / math.sqrt(steps))
    return max(interval, max(map(_largest_loss, mechanisms)) / grid_points)


def _largest_loss(mechanism: Mechanism) -> float:
    """The loss ln(1 + q (e^x - 1)) of one step at 10 standard deviations of noise, beyond which tails are cut."""
    x = 10 / mechanism.noise_multiplier + 0.5 / mechanism.noise_multiplier**2
    if x > 500:  # e^x would overflow
        return x + math.log(mechanism.sample_rate)
    return math.log1p(mechanism.sample_rate * math.expm1(x))


def _prv(mechanisms: tuple[Mechanism, ...], delta: float) -> float:
    import numpy  # opacus imports torch, which a dry run must not pay for
    from opacus.accountants import PRVAccountant
    from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV

    accountant = PRVAccountant()
    accountant.history = [(item.noise_multiplier, item.sample_rate, item.steps) for item in mechanisms]
    variables = [PoissonSubsampledGaussianPRV(item.sample_rate, item.noise_multiplier) for item in mechanisms]

    def bound(error: float) -> float:
        grid = accountant._get_domain(variables, [item.steps for item in mechanisms], error, delta / 1000)
        if grid.size > _PRV_POINTS:
            raise UserError(
                f"accountant=prv needs a grid of {grid.size:,} points for {sum(item.steps for item in mechanisms)} "
                f"steps at delta={delta:.3g}, which takes gigabytes: use accountant=pld."
            )
        return float(accountant.get_epsilon(delta, eps_error=error))

    # Harmless here: its ln(1 - q) at q = 1, and the RDP orders that it uses to guess the domain.
    with numpy.errstate(all="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order")
        try:
            epsilon = bound(0.01)
            # The error is absolute and part of the bound: keep it near 1 %.
            return bound(0.01 * epsilon) if epsilon < 1 else epsilon
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"accountant=prv finds no bound at delta={delta:.3g} ({str(error).rstrip('.')}): use accountant=pld."
            ) from error


def _rdp(mechanisms: tuple[Mechanism, ...], delta: float) -> float:
    return float(_rdp_accountant(mechanisms).get_epsilon(delta))


def _rdp_accountant(mechanisms: Sequence[Mechanism], orders: Sequence[float] | None = None) -> rdp.RdpAccountant:
    accountant = rdp.RdpAccountant(orders)
    for item in mechanisms:
        step = dp_event.PoissonSampledDpEvent(item.sample_rate, dp_event.GaussianDpEvent(item.noise_multiplier))
        accountant.compose(step, item.steps)
    return accountant


def _first_guess(
    epsilon: float, delta: float, sample_rate: float, steps: int, alongside: tuple[Mechanism, ...]
) -> float:
    """A noise multiplier from which the search starts, by the central limit theorem; it is never reported.

    μ = q √(T (e^(1/σ²) - 1)) (Dong et al., 2019, arXiv 1905.02383) and δ ≈ Φ(μ/2 - ε/μ), dropping the second term.
    The μ² of several mechanisms add up; this one is given at least a tenth of the total.
    """
    tail = statistics.NormalDist().inv_cdf(delta)
    mu = tail + math.sqrt(tail**2 + 2 * epsilon)
    taken = sum(
        item.sample_rate**2 * item.steps * math.expm1(min(100, item.noise_multiplier**-2)) for item in alongside
    )
    return 1 / math.sqrt(math.log1p(max(mu**2 - taken, 0.1 * mu**2) / (sample_rate**2 * steps)))


def _unit(value: float) -> float:
    """The value of one unit in the fourth significant digit."""
    return 10.0 ** (math.floor(math.log10(value)) - 3)


def _round_up(value: float) -> float:
    return float(f"{math.ceil(value / _unit(value) - 1e-9) * _unit(value):.4g}")


def _round_down(value: float) -> float:
    return _previous(_round_up(value))


def _next(value: float) -> float:
    """The next larger number of four significant digits."""
    return _round_up(value * (1 + 1e-6))


def _previous(value: float) -> float:
    """The next smaller number of four significant digits, for a value that has four."""
    below = value * (1 - 1e-6)
    return float(f"{math.floor(below / _unit(below) + 1e-9) * _unit(below):.4g}")

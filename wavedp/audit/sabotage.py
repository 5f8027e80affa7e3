"""Ways to break the private fit, each of which the audit must notice: an audit that passes everything proves nothing.

Each is a context manager that replaces one of wavedp's functions by a broken one; wavedp itself has no switch for any
of them. `suite` runs the same audit on the intact fit and under each sabotage. It rejects a fit by a bound on ε above
the claim, or by the p-value of a measurement of known distribution (noise, sampling, votes, noise shared by releases).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from wavedp.audit import bounds
from wavedp.audit.canaries import CanaryFit, audited_fit
from wavedp.audit.evidence import (
    Evidence,
    of_bound,
    of_noise,
    of_sampling,
    of_sharing,
    of_vote,
    of_votes,
    rejected,
)
from wavedp.audit.mechanism import draw_steps
from wavedp.full_precision import Precision
from wavedp.privacy import accounting, clipping, training
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.clipping import LossFn, RecordGradients
from wavedp.progress import Report, silent

EVIDENCE = 10
"""Number of pieces of evidence from `collect`, which share the suite's level."""


@dataclass(frozen=True)
class Setting:
    """One audit of the suite. rate: of its two fits and of its one subsampled step. steps: of the fits. precision,
    device: of the gradients."""

    epsilon: float = 4.0
    delta: float = 1e-5
    rate: float = 0.25
    steps: int = 8
    canaries: int = 600
    draws: int = 50_000
    precision: Precision = "float32"
    device: str = "cpu"


@dataclass(frozen=True)
class Finding:
    """sabotage: None is the intact fit. rejection: the strongest evidence that rejects the claim, None if none does.
    evidence: all of it."""

    sabotage: str | None
    rejection: Evidence | None
    evidence: list[Evidence]

    @property
    def expected(self) -> bool:
        """True if the audit rejected a sabotaged fit or accepted the intact one."""
        return (self.rejection is None) == (self.sabotage is None)


def suite(
    images: Tensor,
    labels: Tensor,
    level: float,
    seed: int,
    setting: Setting | None = None,
    names: Sequence[str] | None = None,
    report: Report = silent,
) -> list[Finding]:
    """Audit the intact fit, then the fit under each sabotage. level: probability of rejecting the intact fit."""
    setting, chosen = setting or Setting(), [None, *(SABOTAGES if names is None else names)]
    findings = []
    for number, name in enumerate(chosen):
        with SABOTAGES[name]() if name else nullcontext():
            evidence = collect(images, labels, level, seed, setting)
        findings.append(Finding(name, rejected(evidence, level), evidence))
        report(number + 1, len(chosen))
    return findings


def collect(images: Tensor, labels: Tensor, level: float, seed: int, setting: Setting) -> list[Evidence]:
    """All evidence of one audit: of one step without and one with subsampling, and of two fits of one seed with
    different canaries. Bounds are computed at their share of `level`."""
    confidence, delta, epsilon = 1 - level / EVIDENCE, setting.delta, setting.epsilon
    whole, part = (Mechanism(rate, accounting.calibrate(epsilon, delta, rate, 1), 1) for rate in (1.0, setting.rate))
    evidence = []
    for claim in (whole, part):
        drawn = draw_steps(claim, setting.draws, seed, precision=setting.precision, device=setting.device)
        mu = 1 / claim.noise_multiplier
        best = bounds.best_thresholds(mu, setting.draws, delta, confidence, claim.sample_rate)
        low = bounds.clopper_pearson(drawn.scores, best.epsilon, delta, confidence)
        evidence.append(of_bound(f"one step at q = {claim.sample_rate:g}, Clopper-Pearson", low, epsilon))
        if claim is whole:
            low = bounds.gaussian(drawn.scores, best.mu, delta, confidence)
            evidence += [of_bound("one step at q = 1, Gaussian", low, epsilon), of_noise(drawn.noise)]
            evidence.append(of_vote(drawn.vote))
        else:
            evidence.append(of_sampling(drawn.drawn, setting.draws, claim.sample_rate))

    first, second = (_fit(images, labels, seed, coins, setting) for coins in (1, 2))
    m, mu = setting.canaries, bounds.mu_of(epsilon, delta)
    guesses = bounds.best_guesses(mu, m, delta, confidence).epsilon
    low = bounds.one_run(m, guesses, bounds.right_guesses(first.scores, guesses), delta, confidence)
    evidence.append(of_bound("one fit, one run", low, epsilon))
    evidence.append(of_noise(first.noise[np.isfinite(first.noise)]))
    rate, steps, sigma = first.mechanism.sample_rate, setting.steps, first.mechanism.noise_multiplier
    spread = math.sqrt(1 + rate * (1 - rate) / sigma**2)  # of noise and of Poisson sampling
    evidence.append(of_votes(first.scores.included, rate * math.sqrt(steps) / sigma, spread))
    both = np.isfinite(first.noise) & np.isfinite(second.noise)
    evidence.append(of_sharing(first.noise[both], second.noise[both]))
    assert len(evidence) == EVIDENCE
    return evidence


def _fit(images: Tensor, labels: Tensor, seed: int, coins: int, setting: Setting) -> CanaryFit:
    return audited_fit(
        images,
        labels,
        epsilon=setting.epsilon,
        delta=setting.delta,
        canaries=setting.canaries,
        rate=setting.rate,
        steps=setting.steps,
        seed=seed,
        coins=coins,
        precision=setting.precision,
        device=setting.device,
    )


@contextmanager
def noise_scaled(factor: float) -> Iterator[None]:
    """Noise of `factor` times the claimed standard deviation; 0 is none."""
    own = training.noisy_mean

    def noisy_mean(sums: Sequence[Tensor], noise_multiplier: float, *rest: Any) -> list[Tensor]:
        return own(sums, factor * noise_multiplier, *rest)

    with patch.object(training, "noisy_mean", noisy_mean):
        yield


@contextmanager
def no_clipping() -> Iterator[None]:
    """Gradients are not clipped."""
    with patch.object(clipping, "clipping_factors", lambda norms, *rest: torch.ones_like(norms)):
        yield


@contextmanager
def batch_clipping(of_mean: bool) -> Iterator[None]:
    """The microbatch's gradient is clipped as a whole: the mean to C (as clip_grad_norm_ on a batch's loss does), or
    the sum to C."""

    def clipped_sum(
        self: RecordGradients, loss_fn: LossFn, batch: Sequence[Tensor], size: int | None = None
    ) -> list[Tensor]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Full backward hook is firing")  # as in clipped_sum itself
            total = clipping.plain_sum(self.model, loss_fn, batch, self.precision)
        length = torch.cat([part.flatten() for part in total]).norm()
        most = self.max_grad_norm * (len(batch[0]) if of_mean else 1)
        return [part * min(1.0, most / float(length)) for part in total]

    with patch.object(RecordGradients, "clipped_sum", clipped_sum):
        yield


@contextmanager
def oversampling(factor: float) -> Iterator[None]:
    """Records join batches more often than the accountant was told."""
    own = training.poisson_sample

    def poisson_sample(n_records: int, rate: float, generator: torch.Generator) -> Tensor:
        return own(n_records, min(1.0, factor * rate), generator)

    with patch.object(training, "poisson_sample", poisson_sample):
        yield


@contextmanager
def shared_noise() -> Iterator[None]:
    """The noise is seeded by the study's seed only, so all releases have the same noise."""
    own = training.derive_seed

    def derive_seed(seed: int, *names: str | int) -> int:
        return own(seed, *(names[:1] if names[0] == "noise" else names))

    with patch.object(training, "derive_seed", derive_seed):
        yield


SABOTAGES: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "noise off": lambda: noise_scaled(0.0),
    "noise halved": lambda: noise_scaled(0.5),
    "clipping off": no_clipping,
    "clip per batch (mean)": lambda: batch_clipping(of_mean=True),
    "clip per batch (sum)": lambda: batch_clipping(of_mean=False),
    "sampling twice as often": lambda: oversampling(2.0),
    "noise shared by releases": shared_noise,
}

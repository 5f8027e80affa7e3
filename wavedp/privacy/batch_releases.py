"""Sums over Poisson batches of the records, released with Gaussian noise at every step.

    N  records   q  sample rate   K  classes   P  released numbers of a class   T  steps
    Δ  L2 sensitivity of all K P numbers together   z  noise multiplier: noise standard deviation / Δ

At each step every record joins the batch independently with probability q, and a statistic, which may be another at
every step, maps each record of the batch to P numbers, which are added to the row of its class. Adding or removing a
record changes, where it is in the batch, one row by its statistic: Δ is the largest norm that a statistic can have.

Formal guarantee. T calls of `next` are T adaptively composed Poisson-subsampled Gaussian mechanisms, Mechanism(q, z,
T), under `add_or_remove_one`, if no record's statistic has a norm above `sensitivity`, which is the caller's to prove,
and if a step's statistic is made of public numbers and of earlier steps' releases only. Everything computed from the
releases is post-processing. It assumes a secret seed (or source="secure"), real numbers, and public z, Δ, q, N and
shapes. Which records, and how many, were in a batch is never told.

Seeded noise belongs to a release, as in wavedp.privacy.training.

    case                                 result
    no record drawn                      noise alone: an ordinary step
    z = 0 (epsilon = inf)                the exact totals of the same batches
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from wavedp.privacy import one_release
from wavedp.privacy.clipping import noisy_mean
from wavedp.privacy.randomness import Generator
from wavedp.privacy.training import poisson_sample


@dataclass
class BatchReleases:
    """pixels, labels: as `one_release.checked` gives them. sampling, noise: generators on the CPU, secret."""

    pixels: Tensor
    labels: Tensor
    n_classes: int
    sample_rate: float
    sensitivity: float
    noise_multiplier: float
    sampling: Generator
    noise: Generator

    def next(self, summed: Callable[[Tensor], Tensor]) -> Tensor:
        """The totals of a new batch plus N(0, (zΔ)²) on every number, K P float64 on the CPU. summed: from pixels b D
        of some records of one class to the sum of their statistics, P; zeros from no records."""
        rows = poisson_sample(len(self.pixels), self.sample_rate, self.sampling)
        totals = one_release.class_totals(self.pixels[rows], self.labels[rows], self.n_classes, summed)
        (noisy,) = noisy_mean([totals], self.noise_multiplier, self.sensitivity, 1, self.noise)
        return noisy

"""Feature likelihood divergence (Jiralerspong et al., 2023, arXiv 2302.04440), of features of three sets.

A mixture of m Gaussians, one around each generated sample g_j and each with a variance v_j of its own, should make the
real samples likely; the variances are fitted to the training samples. In D dimensions, of samples x_i,

    log p(x_i) = logsumexp_j [ -d_ij² / (2 v_j) - D/2 log(2π v_j) ] - log m
    NLL(X)     = -mean_i log p(x_i) / D
    FLD        = 100 (NLL of real samples - NLL of the test samples around half of the training samples)

A sample that copies a training sample gets a tiny variance, which is of no use to test samples: memorisation raises the
divergence. 0 is as good as training samples are, and less is better.

As in the authors' program (marcojira/fld), which the paper's formulas leave open: features are standardised by the test
samples; v_j begins at (d_j² + 0.001) / D, for the nearest training sample; 50 epochs of Adam at 0.5 on log v_j, in
batches of 10,000; while fitting only, one more Gaussian around the training mean, at 0.9 of the distance, keeps far
samples from ruling. The program draws batches and halves at random without a seed; here both are fixed. Features that
are the same for all test samples have no scale, and are left out.

    n training, t test, m generated samples, D dimensions; memory: 4 n m bytes of distances
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wavedp.errors import UserError

EPOCHS, BATCH, LEARNING_RATE = 50, 10_000, 0.5
LARGEST, SMALLEST = 20.0, -40.0  # log v
TOWARDS_MEAN = 0.9
ROWS = 1000  # of distances computed at a time, in float64


def divergences(train: Tensor, test: Tensor, generated: Tensor, device: str = "cpu") -> dict[str, float]:
    """FLD of test samples, and of training samples (DPImageBench's, blind to memorisation), from features n D, t D and
    m D. Raises UserError for sets that are too small."""
    if len(train) < 4 or len(test) < 2 or len(generated) < 2:
        raise UserError(
            f"fld needs 4 training, 2 test and 2 generated images, got {len(train)}, {len(test)} and {len(generated)}: "
            "give more, or leave fld out."
        )
    train, test, generated = standardised(train, test, generated)
    mixture = Mixture(generated, train, device)
    shuffled = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(0))]
    size = min(len(generated), len(train) // 2)
    baseline = Mixture(shuffled[:size], shuffled[size:], device).nll(test)
    return {name: 100 * (mixture.nll(real) - baseline) for name, real in (("test", test), ("train", train))}


def standardised(train: Tensor, test: Tensor, generated: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three sets in float64, shifted and scaled so that each feature of the test samples has mean 0 and variance
    1."""
    mean, deviation = test.double().mean(0), test.double().std(0)
    varies = deviation > 0
    if not varies.any():
        raise UserError("fld needs test images that differ, and these are all the same: give others, or leave it out.")
    made = [((features.double() - mean) / deviation)[:, varies] for features in (train, test, generated)]
    return made[0], made[1], made[2]


class Mixture:
    """Gaussians around `centres` m D, whose log variances m are fitted to samples n D."""

    def __init__(self, centres: Tensor, samples: Tensor, device: str = "cpu") -> None:
        self.centres, self.dimensions, self.device = centres.to(device), centres.shape[1], device
        self.log_variances = self._fit(samples)

    def nll(self, samples: Tensor) -> float:
        """The mean negative log likelihood of samples n D, per dimension."""
        total = 0.0
        for rows in samples.split(ROWS):
            total -= float(self._log_likelihoods(self._squares(rows), self.log_variances).double().sum())
        return total / len(samples) / self.dimensions

    def _fit(self, samples: Tensor) -> Tensor:
        squares = torch.cat([self._squares(rows) for rows in samples.split(ROWS)])  # n m
        mean = samples.mean(0)
        to_mean = (TOWARDS_MEAN**2 * (samples - mean).square().sum(1)).float().to(self.device)
        log_variances = ((squares.min(0).values + 1e-3) / self.dimensions).log().requires_grad_()
        around_mean = torch.zeros((), device=self.device, requires_grad=True)
        optimiser = torch.optim.Adam([log_variances, around_mean], lr=LEARNING_RATE)
        for _ in range(EPOCHS):
            for batch, far in zip(squares.split(BATCH), to_mean.split(BATCH), strict=True):
                found = torch.logaddexp(self._log_likelihoods(batch, log_variances), self._log_normal(far, around_mean))
                optimiser.zero_grad()
                (-found.mean() / self.dimensions).backward()
                optimiser.step()
                with torch.no_grad():
                    log_variances.clamp_(SMALLEST, LARGEST)
        return log_variances.detach()

    def _log_likelihoods(self, squares: Tensor, log_variances: Tensor) -> Tensor:
        """n, from squared distances n m."""
        return self._log_normal(squares, log_variances).logsumexp(1) - math.log(len(log_variances))

    def _log_normal(self, squares: Tensor, log_variances: Tensor) -> Tensor:
        return -squares / (2 * log_variances.exp()) - self.dimensions / 2 * (log_variances + math.log(2 * math.pi))

    def _squares(self, rows: Tensor) -> Tensor:
        return torch.cdist(rows.to(self.device), self.centres).square().float()

"""Fréchet distance between two Gaussians (Dowson & Landau, 1982), which FID computes between features.

    d² = |m1 - m2|² + tr S1 + tr S2 - 2 tr (S1 S2)^½

The trace of the root is computed without a general matrix square root, whose imaginary parts other FID code discards.
    n1 n2 samples, D dimensions
"""

from __future__ import annotations

import torch
from scipy import stats


def frechet_distance(mean1: torch.Tensor, cov1: torch.Tensor, mean2: torch.Tensor, cov2: torch.Tensor) -> float:
    """Compute d² from means [D] and covariances [D D], which may be singular, in float64; >= 0 up to rounding."""
    mean1, cov1, mean2, cov2 = (statistic.double() for statistic in (mean1, cov1, mean2, cov2))
    values, vectors = torch.linalg.eigh(cov1)
    root1 = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # S1 S2 and S1^½ S2 S1^½ have the same eigenvalues; the second is symmetric, so they are real.
    trace_root = torch.linalg.eigvalsh(root1 @ cov2 @ root1).clamp(min=0).sqrt().sum()
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * trace_root)


def frechet_distance_of(features1: torch.Tensor, features2: torch.Tensor) -> float:
    """Compute d² between Gaussians fitted to features [n1 D] and [n2 D] (unbiased covariances), in float64.

    Equal to `frechet_distance` of their statistics. Let A and B be the centred features over √(n1 - 1) and √(n2 - 1),
    so S1 = A'A and S2 = B'B. The trace of the root is then the sum of the singular values of AB', an n1 × n2 matrix:
    with fewer samples than dimensions no D × D covariance is built.
    """
    mean1, factor1 = _centred_factor(features1)
    mean2, factor2 = _centred_factor(features2)
    trace_root = torch.linalg.svdvals(factor1 @ factor2.T).sum()
    return float((mean1 - mean2).square().sum() + factor1.square().sum() + factor2.square().sum() - 2 * trace_root)


def frechet_distance_at_infinity(
    generated: torch.Tensor, real: torch.Tensor, points: int = 8, seed: int = 0
) -> tuple[float, float]:
    """Extrapolate the distance to infinitely many generated samples; returns it and its standard error.

    FID's bias falls as 1/n (Chong & Forsyth, 2020, arXiv 1911.07023). A straight line in 1/n is fitted to the distances
    of `points` random subsets, from a tenth of `generated` [n1 D] to all of it and evenly spaced in 1/n; its value at 0
    is returned. All samples of `real` [n2 D] are used, so the bias due to their number remains. The error is that of
    the fit and assumes independent subsets, which they are not.
    """
    order = torch.Generator().manual_seed(seed)
    inverse = torch.linspace(10 / len(generated), 1 / len(generated), points, dtype=torch.float64)
    counts = (1 / inverse).round().long().clamp(min=2)
    found = [
        frechet_distance_of(generated[torch.randperm(len(generated), generator=order)[:count]], real)
        for count in counts.tolist()
    ]
    fit = stats.linregress((1 / counts).numpy(), found)
    return float(fit.intercept), float(fit.intercept_stderr)


def _centred_factor(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean [D] and a matrix A [min(n, D) D] such that A'A is the covariance."""
    features = features.double()
    mean = features.mean(0)
    factor = (features - mean) / (len(features) - 1) ** 0.5
    # If A = QR, then A'A = R'R, and R has at most D rows.
    return mean, torch.linalg.qr(factor, mode="r").R if len(factor) > factor.shape[1] else factor

"""The Fréchet distance between two Gaussians (Dowson & Landau, 1982), which FID takes between features.

    d² = |m1 - m2|² + tr S1 + tr S2 - 2 tr (S1 S2)^½

The trace of the root needs no general matrix square root, whose imaginary remainders other FID code drops.
    n1 n2 samples, D dimensions
"""

from __future__ import annotations

import torch
from scipy import stats


def frechet_distance(mean1: torch.Tensor, cov1: torch.Tensor, mean2: torch.Tensor, cov2: torch.Tensor) -> float:
    """From means [D] and covariances [D D], in float64; covariances may be singular. At least 0 up to rounding."""
    mean1, cov1, mean2, cov2 = (statistic.double() for statistic in (mean1, cov1, mean2, cov2))
    values, vectors = torch.linalg.eigh(cov1)
    root1 = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # S1 S2 and S1^½ S2 S1^½ have the same eigenvalues; the second is symmetric, so they are real.
    trace_root = torch.linalg.eigvalsh(root1 @ cov2 @ root1).clamp(min=0).sqrt().sum()
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * trace_root)


def frechet_distance_of(features1: torch.Tensor, features2: torch.Tensor) -> float:
    """Between the Gaussians fitted to features [n1 D] and [n2 D] (unbiased covariances), in float64.

    Equal to `frechet_distance` of their statistics. With A and B the centred features over √(n1 - 1) and √(n2 - 1), so
    that S1 = A'A and S2 = B'B, the trace of the root is the sum of the singular values of AB', an n1 × n2 matrix: with
    fewer samples than dimensions no D × D covariance is built.
    """
    mean1, factor1 = _centred_factor(features1)
    mean2, factor2 = _centred_factor(features2)
    trace_root = torch.linalg.svdvals(factor1 @ factor2.T).sum()
    return float((mean1 - mean2).square().sum() + factor1.square().sum() + factor2.square().sum() - 2 * trace_root)


def frechet_distance_at_infinity(
    generated: torch.Tensor, real: torch.Tensor, points: int = 8, seed: int = 0
) -> tuple[float, float]:
    """The distance extrapolated to infinitely many generated samples, and the standard error of that extrapolation.

    FID's bias falls as 1/n (Chong & Forsyth, 2020, arXiv 1911.07023): distances of `points` random subsets of n
    samples, from a tenth of `generated` [n1 D] to all of it and evenly spaced in 1/n, are fitted by a straight line in
    1/n, whose value at 0 is returned. The samples of `real` [n2 D] are taken as they are: what their number biases
    stays. The error is that of the line, as if the subsets were independent, which they are not.
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
    """The mean [D] and a matrix A [min(n, D) D] with A'A = the covariance."""
    features = features.double()
    mean = features.mean(0)
    factor = (features - mean) / (len(features) - 1) ** 0.5
    # A = QR has A'A = R'R, and R has no more than D rows.
    return mean, torch.linalg.qr(factor, mode="r").R if len(factor) > factor.shape[1] else factor

"""Normal distributions of coarse images, one a class, from noisy second moments.

    D = C h w  numbers of an image   d = D + 1   K  classes   n  records of a class   z  noise multiplier
    R = clip_rms √D  the largest |y|   w  the constant coordinate   s = zΔ  noise standard deviation

The statistic. A record x becomes y = x - 1/2, shortened to |y| <= R, and u = [y, w] with w² = R²/3. For each class the
sum of uuᵀ is released: [[Σyyᵀ, wΣy], [wΣyᵀ, w²n]]. The count n is a part of the release, so that no private number
divides anything.

Vectorisation and sensitivity. A symmetric matrix is released as the d(d+1)/2 numbers of its upper triangle, those off
the diagonal times √2. This vectorisation keeps lengths: the norm of the numbers is the Frobenius norm of the matrix. A
record adds uuᵀ to the matrix of one class, and |uuᵀ|_F = |u|² = |y|² + w² <= R² + w² = 4R²/3. So Δ = 4R²/3 for all K
matrices together, attained by every record of |y| >= R; at clip_rms = 1/2 by black and white images. (Without
the √2 a record would move the triangle by √((|u|⁴ + Σu⁴)/2), which is |u|² too if one coordinate is all of u: the same
Δ for records of any direction, and noise √2 larger off the diagonal.) Noise of s on every number is,
back in the matrix, a symmetric E with N(0, s²) on the diagonal and N(0, s²/2) off it.

The repair, from released and public numbers only. n̂ = max(M_dd / w², 1), m = M_yw / (w n̂), and the covariance is
M_yy / n̂ - mmᵀ. To first order in the noise, its error is AEAᵀ / n̂ with A = [I, -m/w]: the noise of a D × D matrix with
variance v = s²/2 off the diagonal, except in the direction of m, where the variance is r v with r = 1 + |m|²/w². The
largest eigenvalue of such a matrix is, for large D,

    √(vD) / n̂ · 2                   if r <= 2: the edge of Wigner's semicircle
    √(vD) / n̂ · r / √(r - 1)        if r > 2: an eigenvalue λ of its own, λ = r G(λ), G the semicircle's transform
                                    (λ - √(λ² - 4)) / 2, in units of √(vD)

Eigenvalues of the covariance up to `edge` times this are dropped with their directions. The rest stay as they are, and
a sample is 1/2 + m + (covariance)^(1/2) N(0, I) with m clipped to ±1/2, clipped to [0, 1]. Variance that is dropped is
not put back elsewhere: where no eigenvalue stays, every sample is the noisy mean of its class.

The weight w. The edge grows with Δ r / √(r - 1) = (R² + w²)(w² + |m|²) / (w |m|). For the worst mean, |m| = R, that is
(R² + w²)² / (w R), smallest at w² = R²/3.

    case                                   result
    a class without records, small n       n̂ is 1 or too small; the edge is as large as the noise, so that few
                                           eigenvalues stay, or none
    no eigenvalue stays in any class       the stage `evaluate` refuses samples that are one image a class
                                           (wavedp.metrics.suite.require_variety): raise ε or the level
    epsilon = inf                          exact moments of unclipped records; eigenvalues > 0 stay
    weights not finite                     UserError before a matrix is taken apart
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wavedp.config import SamplingConfig
from wavedp.finite import require_finite
from wavedp.generators import FitSettings, PrivateFit
from wavedp.generators.dp_gaussian import PURPOSE, DPGaussianConfig
from wavedp.methods import Weights
from wavedp.privacy import one_release
from wavedp.progress import Report
from wavedp.seeds import derive_seed


class DPGaussianModel:
    """shape: C h w of the coarse images."""

    def __init__(self, config: DPGaussianConfig, shape: tuple[int, int, int], n_classes: int) -> None:
        self.config, self.shape, self.n_classes = config, shape, n_classes

    @property
    def radius(self) -> float:
        """R, the norm to which y is clipped."""
        return self.config.clip_rms * math.sqrt(math.prod(self.shape))

    def fit_private(
        self, weights: Weights, images: Tensor, conditions: Tensor, fit: FitSettings, report: Report
    ) -> PrivateFit:
        """The release: `moments` K d(d+1)/2 float64 as the module says, and `noise_std`, s. conditions: labels B."""
        planned = fit.mechanisms[PURPOSE]
        pixels, labels = one_release.checked(images, conditions, self.n_classes)
        radius = self.radius if planned.noise_multiplier else math.inf  # ε = ∞: no noise, no clipping
        totals = moments(pixels, labels, self.n_classes, radius, constant(self.radius))
        noisy, release = one_release.release(
            totals,
            (pixels, labels),
            {"statistic": PURPOSE, "clip_rms": self.config.clip_rms, "n_classes": self.n_classes},
            sensitivity=sensitivity(self.radius),
            noise_multiplier=planned.noise_multiplier,
            seed=fit.seed,
            source=fit.privacy.noise_source,
        )
        report(1, 1)
        std = torch.tensor(planned.noise_multiplier * sensitivity(self.radius), dtype=torch.float64)
        return PrivateFit({"moments": noisy, "noise_std": std}, {PURPOSE: planned}, {PURPOSE: release})

    def sample(
        self, weights: Weights, conditions: Tensor, sampling: SamplingConfig, seed: int, report: Report
    ) -> Tensor:
        """A draw from the normal distribution of each label. All noise is drawn at once, so that batches cannot
        matter."""
        require_finite(weights, "weights of generator=dp_gaussian", "look for a damaged artifact")
        labels, generator = conditions.cpu(), torch.Generator().manual_seed(derive_seed(seed, "coarse_samples"))
        noise = torch.randn(len(labels), math.prod(self.shape), generator=generator)
        images = torch.empty_like(noise)
        for label in labels.unique().tolist():
            mean, values, vectors = self.distribution(weights, label)
            # The symmetric root, unlike a factor of eigenvectors, does not depend on their signs.
            root = ((vectors * values.sqrt()) @ vectors.T).float()
            chosen = labels == label
            images[chosen] = 0.5 + mean.clamp(-0.5, 0.5).float() + noise[chosen] @ root
            report(int((labels <= label).sum()), len(labels))
        return images.clamp(0, 1).reshape(-1, *self.shape)

    def distribution(self, weights: Weights, label: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of a class, as `repaired` gives it."""
        noisy, noise_std = matrix(weights["moments"][label].double()), float(weights["noise_std"])
        return repaired(noisy, constant(self.radius), noise_std, self.config.edge)


def constant(radius: float) -> float:
    """w = R / √3, the last coordinate of u; see the module."""
    return radius / math.sqrt(3)


def sensitivity(radius: float) -> float:
    """Δ = R² + w² = 4R²/3: the most that one record changes the moments of all classes together, in L2 norm."""
    return radius**2 + constant(radius) ** 2


def moments(pixels: Tensor, labels: Tensor, n_classes: int, radius: float, weight: float) -> Tensor:
    """Σ uuᵀ of every class without noise, vectorised, K d(d+1)/2 float64. pixels: B D in [0, 1]. radius: R, or inf for
    no clipping."""

    def summed(part: Tensor) -> Tensor:
        y = part.double() - 0.5
        y = y * (radius / y.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
        u = torch.cat([y, torch.full((len(y), 1), weight, dtype=torch.float64)], dim=1)
        return vector(u.T @ u)

    return one_release.class_totals(pixels, labels, n_classes, summed)


def vector(symmetric: Tensor) -> Tensor:
    """The upper triangle of a symmetric matrix d d, row by row, d(d+1)/2 numbers, those off the diagonal times √2: its
    length is the matrix's Frobenius norm."""
    rows, columns = torch.triu_indices(*symmetric.shape)
    return symmetric[rows, columns] * torch.where(rows == columns, 1.0, math.sqrt(2)).to(symmetric)


def matrix(numbers: Tensor) -> Tensor:
    """The symmetric matrix that `vector` made the numbers of."""
    size = (math.isqrt(8 * len(numbers) + 1) - 1) // 2
    rows, columns = torch.triu_indices(size, size)
    values = numbers / torch.where(rows == columns, 1.0, math.sqrt(2)).to(numbers)
    found = torch.zeros(size, size, dtype=numbers.dtype)
    found[rows, columns] = values
    found[columns, rows] = values
    return found


def repaired(noisy: Tensor, weight: float, noise_std: float, edge: float) -> tuple[Tensor, Tensor, Tensor]:
    """From a noisy Σ uuᵀ d d: the mean of y, D, and the covariance's eigenvalues, D, ascending and 0 where they may be
    noise, with their vectors as columns, D D; see the module."""
    count = (noisy[-1, -1] / weight**2).clamp(min=1)
    mean = noisy[:-1, -1] / (weight * count)
    values, vectors = torch.linalg.eigh(noisy[:-1, :-1] / count - mean[:, None] * mean)
    largest = noise_edge(len(mean), float(count), float(mean.norm()), weight, noise_std)
    return mean, torch.where(values > edge * largest, values, 0.0).clamp(min=0), vectors


def noise_edge(size: int, count: float, mean_norm: float, weight: float, noise_std: float) -> float:
    """The largest eigenvalue of the covariance's noise, for large D = size. count: n̂. mean_norm: |m|."""
    ratio = 1 + (mean_norm / weight) ** 2  # r
    return noise_std * math.sqrt(size / 2) / count * (2 if ratio <= 2 else ratio / math.sqrt(ratio - 1))

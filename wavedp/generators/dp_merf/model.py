"""DP-MERF: the release of noisy mean embeddings, and a generator trained on them.

    D = C h w  numbers of an image   d  features   K  classes   n  records of a class   z  noise multiplier
    w  weight of the count   Δ  L2 sensitivity

The statistic. Random Fourier features of an image x are φ(x) = √(2/d) [cos(Ωx), sin(Ωx)] with d/2 public frequencies,
the rows of Ω, from N(0, I/σ²); <φ(x), φ(y)> approximates the kernel exp(-|x - y|² / 2σ²) (Rahimi & Recht, 2007). For
each class [Σφ(x), w n] is released.

Sensitivity. |φ(x)|² = (2/d) Σ (cos² + sin²) = 1 for every x, so nothing is clipped. A record enters the d + 1 numbers
of one class, as [φ(x), w]: adding or removing it changes all K (d + 1) numbers together by exactly Δ = √(1 + w²).
Published code releases the mean, Σφ / N, with 2/N (one record replaced by another) or 1/N, and N known. Here neighbours
differ by one record, so that N and n are not the same for both: n is released instead of known. (One record replaced by
another would change the numbers by up to 2 in its class, or by √2 Δ if it moves to another; privacy.relation offers
add_or_remove_one alone.)

The weight w. With noise zΔ the error of the estimated mean embedding is, to first order in 1 / n,
(z / n)² (1 + w²) (d + |μ|² / w²) with |μ| <= 1: smallest for |μ| = 1 at w² = 1 / √d, where it is (1 + 1 / √d)² times
that of a known count, 2 % at d = 10,000.

The training, of released and public numbers only. n̂ = max(noisy count, 1) and μ = noisy sum / n̂, shortened to |μ| <= 1
as every mean embedding is. The generator G minimises Σ_k |E φ(G(·, k)) - μ_k|² by Adam. A batch has b images of each
class, whose mean embedding e estimates |E φ|² by (b |e|² - 1) / (b - 1) without bias, since |φ| = 1. (b |e|² alone
would reward images of one class for being alike.) Its weights, codes and order follow from the release alone, so that
every sample set of a release comes from the same generator.

    case                                   result
    a class without records                a direction of pure noise, no longer than another class's embedding
    epsilon = inf                          exact mean embeddings
    weights not finite                     UserError before training
    training diverged                      UserError (wavedp.resume)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wavedp import resume
from wavedp.config import SamplingConfig
from wavedp.devices import fused
from wavedp.finite import require_finite
from wavedp.generators import FitSettings, PrivateFit
from wavedp.generators.dp_merf import PURPOSE, DPMERFConfig
from wavedp.generators.dp_merf.network import CODE, ConvGenerator
from wavedp.methods import Weights
from wavedp.privacy import one_release
from wavedp.privacy.checkpoint import digest
from wavedp.progress import Report
from wavedp.seeds import derive_seed

PUBLISHED_SIZE = 784
"""The numbers of an image for which kernel_variance is stated."""


class DPMERFModel:
    """shape: C h w of the coarse images."""

    def __init__(self, config: DPMERFConfig, shape: tuple[int, int, int], n_classes: int, device: str) -> None:
        self.config, self.shape, self.n_classes, self.device = config, shape, n_classes, device

    def fit_private(
        self, weights: Weights, images: Tensor, conditions: Tensor, fit: FitSettings, report: Report
    ) -> PrivateFit:
        """The release: `sums` K (d+1) float64 as the module says; and `frequencies` d/2 D float32, which are public.
        conditions: labels B."""
        planned, config = fit.mechanisms[PURPOSE], self.config
        pixels, labels = one_release.checked(images, conditions, self.n_classes)
        omega = frequencies(config.features, math.prod(self.shape), config.kernel_variance)
        totals = embeddings(pixels, labels, self.n_classes, omega.to(self.device))
        noisy, release = one_release.release(
            totals,
            (pixels, labels),
            {"statistic": PURPOSE, "frequencies": digest([("frequencies", omega)]), "n_classes": self.n_classes},
            sensitivity=sensitivity(config.features),
            noise_multiplier=planned.noise_multiplier,
            seed=fit.seed,
            source=fit.privacy.noise_source,
        )
        report(1, 1)
        return PrivateFit({"sums": noisy, "frequencies": omega}, {PURPOSE: planned}, {PURPOSE: release})

    def sample(
        self, weights: Weights, conditions: Tensor, sampling: SamplingConfig, seed: int, report: Report
    ) -> Tensor:
        """Images of the generator that `trained` gives. All codes are drawn at once, so that batches cannot matter."""
        require_finite(weights, "weights of generator=dp_merf", "look for a damaged artifact")
        model = self.trained(weights, report).eval()
        generator = torch.Generator().manual_seed(derive_seed(seed, "coarse_samples"))
        codes = torch.randn(len(conditions), CODE, generator=generator)
        size, images = sampling.batch_size, []
        with torch.inference_mode():
            for code, labels in zip(codes.split(size), conditions.split(size), strict=True):
                images.append(model(code.to(self.device), labels.to(self.device)).cpu())
        return torch.cat(images)

    def trained(self, weights: Weights, report: Report) -> ConvGenerator:
        """The generator, trained on the released sums."""
        config, n_classes = self.config, self.n_classes
        targets = mean_embeddings(weights["sums"]).float().to(self.device)
        omega = weights["frequencies"].to(self.device)
        each = config.train_batch // n_classes
        labels = torch.arange(n_classes, device=self.device).repeat(each)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(0, "dp_merf", digest(weights.items())))
            model = ConvGenerator(self.shape, n_classes, config.channels).to(self.device)
            optimizer = torch.optim.Adam(model.parameters(), lr=config.train_learning_rate, fused=fused(self.device))
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(config.train_steps, 1))
            for _ in resume.steps(config.train_steps, report, None, model=model):
                codes = torch.randn(len(labels), CODE).to(self.device)
                features = embedded(model(codes, labels).flatten(1), omega)
                loss = distance(features.view(each, n_classes, -1), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return model


def frequencies(features: int, size: int, kernel_variance: float) -> Tensor:
    """Ω, d/2 D float32, for images of D = size numbers: public, the same for every study."""
    generator = torch.Generator().manual_seed(derive_seed(0, "dp_merf", "frequencies"))
    return torch.randn(features // 2, size, generator=generator) / math.sqrt(kernel_variance * size / PUBLISHED_SIZE)


def embedded(pixels: Tensor, omega: Tensor) -> Tensor:
    """φ(x), B d of norm 1, of images B D."""
    angles = pixels @ omega.T
    return torch.cat([angles.cos(), angles.sin()], dim=1) / math.sqrt(len(omega))


def count_weight(features: int) -> float:
    """w = d^(-1/4); see the module."""
    return features**-0.25


def sensitivity(features: int) -> float:
    """Δ = √(1 + w²), by which one record changes the sums of all classes together, in L2 norm."""
    return math.sqrt(1 + count_weight(features) ** 2)


def embeddings(pixels: Tensor, labels: Tensor, n_classes: int, omega: Tensor) -> Tensor:
    """[Σφ(x), w n] of every class without noise, K (d+1) float64. pixels: B D in [0, 1]."""
    weight = count_weight(2 * len(omega))

    def summed(part: Tensor) -> Tensor:
        total = embedded(part.to(omega), omega).double().sum(0)
        return torch.cat([total, total.new_tensor([weight * len(part)])])

    return one_release.class_totals(pixels, labels, n_classes, summed)


def mean_embeddings(sums: Tensor) -> Tensor:
    """μ of every class, K d float64 with |μ| <= 1, from released sums K (d+1)."""
    counts = (sums[:, -1:] / count_weight(sums.shape[1] - 1)).clamp(min=1)
    means = sums[:, :-1] / counts
    return means / means.norm(dim=1, keepdim=True).clamp(min=1)


def distance(features: Tensor, targets: Tensor) -> Tensor:
    """An unbiased estimate of Σ_k |E φ - μ_k|², up to a constant, over K. features: b K d, of b >= 2 generated images
    of each class. targets: μ, K d."""
    each, mean = len(features), features.mean(0)
    squares = (each * mean.square().sum(1) - 1) / (each - 1)
    return (squares - 2 * (mean * targets).sum(1)).mean()

"""The release of noisy mean embeddings, and a generator trained on them.

    D = C h w  numbers of an image   d  features   K  classes   n  records of a class   z  noise multiplier
    w  weight of the count   Δ  L2 sensitivity

The statistic. A method has features φ(x), d numbers with |φ(x)| = 1 for every image x. For each class [Σφ(x), w n] is
released.

Sensitivity. A record enters the d + 1 numbers of one class, as [φ(x), w]: adding or removing it changes all K (d + 1)
numbers together by exactly Δ = √(1 + w²). Published code releases the mean, Σφ / N, with 2/N (one record replaced by
another) or 1/N, and N known. Here neighbours differ by one record, so that N and n are not the same for both: n is
released instead of known. (One record replaced by another would change the numbers by up to 2 in its class, or by √2 Δ
if it moves to another; privacy.relation offers add_or_remove_one alone.)

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
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from wavedp import resume
from wavedp.config import SamplingConfig
from wavedp.devices import fused
from wavedp.finite import require_finite
from wavedp.generators import FitSettings, PrivateFit
from wavedp.generators.mean_embedding.network import CODE, ConvGenerator, drawn
from wavedp.methods import Weights
from wavedp.privacy import one_release
from wavedp.privacy.checkpoint import digest
from wavedp.progress import Report
from wavedp.seeds import derive_seed


class MeanEmbeddingModel(ABC):
    """config: a MatchedConfig. shape: C h w of the coarse images. A subclass gives `purpose`, of its mechanism, and
    the features."""

    purpose: ClassVar[str]
    parts = 1
    """How many vectors of length 1 the means are of, one after another."""

    def __init__(self, config: Any, shape: tuple[int, int, int], n_classes: int, device: str) -> None:
        self.config, self.shape, self.n_classes, self.device = config, shape, n_classes, device

    @property
    @abstractmethod
    def size(self) -> int:
        """d."""

    @abstractmethod
    def public(self) -> Weights:
        """The tensors that the features are made of, float32: the same for every study."""

    @abstractmethod
    def summed(self, pixels: Tensor, public: Weights) -> Tensor:
        """Σφ, d float64, of records B D float32 in [0, 1]. public: on the device."""

    @abstractmethod
    def means(self, images: Tensor, each: int, public: Weights) -> Tensor:
        """The mean of φ over `each` images of every class, K d, of images (each K) C h w whose labels are 0..K-1 over
        and over; differentiable."""

    def fit_private(
        self, weights: Weights, images: Tensor, conditions: Tensor, fit: FitSettings, report: Report
    ) -> PrivateFit:
        """The release: `sums` K (d+1) float64 as the module says; and what `public` gives. conditions: labels B."""
        planned, public = fit.mechanisms[self.purpose], self.public()
        pixels, labels = one_release.checked(images, conditions, self.n_classes)
        noisy, release = one_release.release(
            self.totals(pixels, labels, public),
            (pixels, labels),
            {"statistic": self.purpose, "n_classes": self.n_classes, **self.about(public)},
            sensitivity=sensitivity(self.size),
            noise_multiplier=planned.noise_multiplier,
            seed=fit.seed,
            source=fit.privacy.noise_source,
        )
        report(1, 1)
        return PrivateFit({"sums": noisy, **public}, {self.purpose: planned}, {self.purpose: release})

    def about(self, public: Weights) -> dict[str, Any]:
        """JSON values of all that the features depend on: the release's name has them."""
        return {name: digest([(name, tensor)]) for name, tensor in public.items()}

    def targets(self, weights: Weights) -> Tensor:
        """What `means` should be, K d float64, from the release."""
        return mean_embeddings(weights["sums"])

    def totals(self, pixels: Tensor, labels: Tensor, public: Weights) -> Tensor:
        """[Σφ(x), w n] of every class without noise, K (d+1) float64. pixels: B D in [0, 1]."""
        weight, there = count_weight(self.size), self._there(public)

        def summed(part: Tensor) -> Tensor:
            total = self.summed(part.to(self.device), there)
            return torch.cat([total, total.new_tensor([weight * len(part)])])

        return one_release.class_totals(pixels, labels, self.n_classes, summed)

    def sample(
        self, weights: Weights, conditions: Tensor, sampling: SamplingConfig, seed: int, report: Report
    ) -> Tensor:
        """Images of the generator that `trained` gives."""
        require_finite(weights, f"weights of generator={self.config.name}", "look for a damaged artifact")
        return drawn(self.trained(weights, report), conditions, sampling.batch_size, seed, self.device)

    def trained(self, weights: Weights, report: Report) -> ConvGenerator:
        """The generator, trained on the released sums."""
        config, n_classes = self.config, self.n_classes
        targets = self.targets(weights).float().to(self.device)
        public = self._there({name: tensor for name, tensor in weights.items() if name != "sums"})
        each = config.train_batch // n_classes
        labels = torch.arange(n_classes, device=self.device).repeat(each)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(0, config.name, digest(weights.items())))
            model = ConvGenerator(self.shape, n_classes, config.channels).to(self.device)
            optimizer = torch.optim.Adam(model.parameters(), lr=config.train_learning_rate, fused=fused(self.device))
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(config.train_steps, 1))
            for _ in resume.steps(config.train_steps, report, None, model=model):
                codes = torch.randn(len(labels), CODE).to(self.device)
                loss = distance(self.means(model(codes, labels), each, public), targets, each, self.parts)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return model

    def _there(self, public: Weights) -> Weights:
        return {name: tensor.to(self.device) for name, tensor in public.items()}


def count_weight(features: int) -> float:
    """w = d^(-1/4); see the module."""
    return features**-0.25


def sensitivity(features: int) -> float:
    """Δ = √(1 + w²), by which one record changes the sums of all classes together, in L2 norm."""
    return math.sqrt(1 + count_weight(features) ** 2)


def mean_embeddings(sums: Tensor) -> Tensor:
    """μ of every class, K d float64 with |μ| <= 1, from released sums K (d+1)."""
    counts = (sums[:, -1:] / count_weight(sums.shape[1] - 1)).clamp(min=1)
    return shortened(sums[:, :-1] / counts)


def shortened(rows: Tensor) -> Tensor:
    """Rows B d, each of length 1 at most."""
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1)


def distance(means: Tensor, targets: Tensor, each: int, parts: int = 1) -> Tensor:
    """An unbiased estimate of Σ_k |E φ - μ_k|², up to a constant, over K. means: K d, of `each` >= 2 generated images
    of every class. targets: μ, K d. parts: |φ|²."""
    squares = (each * means.square().sum(1) - parts) / (each - 1)
    return (squares - 2 * (means * targets).sum(1)).mean()

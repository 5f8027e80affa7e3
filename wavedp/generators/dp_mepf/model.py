"""DP-MEPF's features: activations of a public network, and their squares.

    C h w  an image   L = 5  depths of the network   d  activations at all of them   K  classes   b  images of a class

The features. An image is enlarged to side × side (bilinearly), grey repeated to three channels, and seen by
EfficientNet-Lite0, frozen. a_l(x) are all activations, at every place, after its block l = 0, 2, 4, 10, 15: strides 2
to 32. Each is divided by its length, so that every depth has the same say,

    φ₁(x) = [a_l / |a_l|] / √L,   φ₂(x) = [a_l² / |a_l²|] / √L,

which have length 1: the published bound type `norm_layer`. (Where a depth is silent, a_l = 0 stays 0, and they are
shorter.) An image's features depend on that image only, since the network is in evaluation mode.

The release of the means is [Σφ₁, w n] for each class, with the sensitivity of mean_embedding.model, whose proof needs
|φ₁| <= 1. The release of the squares is Σφ₂ for each class, without a count: by adding or removing a record the K d
numbers together change by |φ₂| <= 1, its sensitivity. Both are Gaussian mechanisms on all records, composed
(DPMEPF.mechanisms); n̂ of the first serves both.

The training goes through the network, to the generated image: wavedp.generators.mean_embedding.model, with φ₁ and φ₂
one after the other, |φ|² = 2.

    case                                   result
    the network's packages are missing     UserError, before anything is read
    second_moment_share = 0                one release, of the means alone
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wavedp.generators import FitSettings, PrivateFit
from wavedp.generators.dp_mepf import PURPOSE, SQUARES
from wavedp.generators.mean_embedding.model import MeanEmbeddingModel, count_weight, mean_embeddings, shortened
from wavedp.losses import IMAGENET_MEAN, IMAGENET_STD, activations, imagenet_network
from wavedp.methods import Weights
from wavedp.privacy import one_release
from wavedp.privacy.checkpoint import digest
from wavedp.progress import Report

DEPTHS = (0, 2, 4, 10, 15)
"""Blocks of EfficientNet-Lite0 with 16, 24, 40, 112 and 320 channels, at 1/2 to 1/32 of the side."""

SQUARES_SENSITIVITY = 1.0
"""The largest |φ₂|; see the module."""

_PASS = 64  # records a forward pass


class DPMEPFModel(MeanEmbeddingModel):
    """It has no public tensors beside the network, which its package keeps."""

    purpose = PURPOSE

    @property
    def parts(self) -> int:  # type: ignore[override]
        """φ₁, or φ₁ and φ₂."""
        return 2 if self.config.second_moment_share else 1

    @cached_property
    def size(self) -> int:  # type: ignore[override]
        """d, of φ₁ as of φ₂."""
        return sum(part.numel() for part in self._activations(torch.zeros(1, *self.shape)))

    def public(self) -> Weights:
        """None."""
        return {}

    def about(self, public: Weights) -> dict[str, Any]:
        """The network and what it sees."""
        return {"network": network_digest(), "side": self.config.side, "depths": DEPTHS}

    def summed(self, pixels: Tensor, public: Weights) -> Tensor:
        """Σφ₁; features in float32, sums in float64."""
        return self._summed(pixels, 1)

    def means(self, images: Tensor, each: int, public: Weights) -> Tensor:
        """K d, or K 2d with φ₂."""
        found = self._activations(images)
        features = torch.cat([unit(found, power) for power in range(1, self.parts + 1)], dim=1)
        return features.view(each, self.n_classes, -1).mean(0)

    def targets(self, weights: Weights) -> Tensor:
        """μ₁, and μ₂ = noisy Σφ₂ / n̂, shortened to length 1."""
        sums = weights["sums"]
        means = mean_embeddings(sums)
        if "squares" not in weights:
            return means
        counts = sums[:, -1:] / count_weight(sums.shape[1] - 1)
        return torch.cat([means, shortened(weights["squares"] / counts.clamp(min=1))], dim=1)

    def fit_private(
        self, weights: Weights, images: Tensor, conditions: Tensor, fit: FitSettings, report: Report
    ) -> PrivateFit:
        """The releases: `sums` K (d+1) and, where they have a share, `squares` K d, float64. conditions: labels B."""
        done = super().fit_private(weights, images, conditions, fit, report)
        if SQUARES not in fit.mechanisms:
            return done
        planned = fit.mechanisms[SQUARES]
        pixels, labels = one_release.checked(images, conditions, self.n_classes)
        totals = one_release.class_totals(
            pixels, labels, self.n_classes, lambda part: self._summed(part.to(self.device), 2)
        )
        noisy, release = one_release.release(
            totals,
            (pixels, labels),
            {"statistic": SQUARES, "n_classes": self.n_classes, **self.about({})},
            sensitivity=SQUARES_SENSITIVITY,
            noise_multiplier=planned.noise_multiplier,
            seed=fit.seed,
            source=fit.privacy.noise_source,
        )
        return PrivateFit(
            {**done.weights, "squares": noisy},
            {**done.mechanisms, SQUARES: planned},
            {**done.releases, SQUARES: release},
        )

    @torch.no_grad()
    def _summed(self, pixels: Tensor, power: int) -> Tensor:
        total = torch.zeros(self.size, dtype=torch.float64, device=pixels.device)
        for part in pixels.split(_PASS):
            if len(part):
                total += unit(self._activations(part.view(-1, *self.shape)), power).double().sum(0)
        return total

    def _activations(self, images: Tensor) -> list[Tensor]:
        """a_l, B d_l each."""
        side = self.config.side
        x = F.interpolate(images.to(self.device), (side, side), mode="bilinear", align_corners=False)
        mean, std = (x.new_tensor(value).view(1, 3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
        found = activations(public_network(self.device), (x.expand(-1, 3, -1, -1) - mean) / std, DEPTHS)
        return [part.flatten(1) for part in found]


def unit(parts: list[Tensor], power: int) -> Tensor:
    """φ, B d of length 1 at most, of activations B d_l. power: 1 for φ₁, 2 for φ₂."""
    raised = [F.normalize(part**power, dim=1) for part in parts]
    return torch.cat(raised, dim=1) / len(parts) ** 0.5


@cache
def public_network(device: str) -> Any:
    """EfficientNet-Lite0, frozen. Raises UserError where its packages are missing."""
    return imagenet_network("generator=dp_mepf", "generator=dp_merf", device)


@cache
def network_digest() -> str:
    """SHA-256 of its weights."""
    return digest(public_network("cpu").state_dict().items())

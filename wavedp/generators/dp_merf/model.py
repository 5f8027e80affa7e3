"""DP-MERF's features: random Fourier features of a Gaussian kernel.

    D = C h w  numbers of an image   d  features   K  classes   b  images of a class

φ(x) = √(2/d) [cos(Ωx), sin(Ωx)] with d/2 public frequencies, the rows of Ω, from N(0, I/σ²); <φ(x), φ(y)> approximates
the kernel exp(-|x - y|² / 2σ²) (Rahimi & Recht, 2007). |φ(x)|² = (2/d) Σ (cos² + sin²) = 1 for every x, so nothing is
clipped. Release, sensitivity and training: wavedp.generators.mean_embedding.model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wavedp.generators.dp_merf import PURPOSE
from wavedp.generators.mean_embedding.model import MeanEmbeddingModel
from wavedp.methods import Weights
from wavedp.seeds import derive_seed

PUBLISHED_SIZE = 784
"""The numbers of an image for which kernel_variance is stated."""


class DPMERFModel(MeanEmbeddingModel):
    """Its public tensors are `frequencies`, Ω."""

    purpose = PURPOSE

    @property
    def size(self) -> int:
        """d."""
        return int(self.config.features)

    def public(self) -> Weights:
        """Ω, d/2 D."""
        return {"frequencies": frequencies(self.size, math.prod(self.shape), self.config.kernel_variance)}

    def summed(self, pixels: Tensor, public: Weights) -> Tensor:
        """Σφ; features in float32, sums in float64."""
        return embedded(pixels, public["frequencies"]).double().sum(0)

    def means(self, images: Tensor, each: int, public: Weights) -> Tensor:
        """K d."""
        return embedded(images.flatten(1), public["frequencies"]).view(each, self.n_classes, -1).mean(0)


def frequencies(features: int, size: int, kernel_variance: float) -> Tensor:
    """Ω, d/2 D float32, for images of D = size numbers: public, the same for every study."""
    generator = torch.Generator().manual_seed(derive_seed(0, "dp_merf", "frequencies"))
    return torch.randn(features // 2, size, generator=generator) / math.sqrt(kernel_variance * size / PUBLISHED_SIZE)


def embedded(pixels: Tensor, omega: Tensor) -> Tensor:
    """φ(x), B d of norm 1, of images B D."""
    angles = pixels @ omega.T
    return torch.cat([angles.cos(), angles.sin()], dim=1) / math.sqrt(len(omega))

"""The ends of the scale, as generators: `public` never sees a sensitive image (ε = 0), `real` is nothing but them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from wavedp.config import SamplingConfig
from wavedp.generators import FitSettings, PrivateFit, Weights
from wavedp.generators.spectral_ar import SpectralAR
from wavedp.generators.transformer import cut
from wavedp.progress import Report
from wavedp.seeds import derive_seed


class PublicOnly(SpectralAR):
    """The floor: the publicly pretrained model as it is, at ε = 0."""

    def fit_private(
        self, weights: Weights, images: Tensor, conditions: Tensor, fit: FitSettings, report: Report
    ) -> PrivateFit:
        """The public weights, unchanged but for the finer scales, which are left out."""
        return PrivateFit(cut(weights, self.public, self.tokenizer), {}, {})


class Real:
    """The ceiling of stage two: real coarse images, drawn without replacement within each class. Not private."""

    def fit_public(
        self, images: Tensor, conditions: Tensor, seed: int, report: Report, checkpoint: Path | None = None
    ) -> Weights:
        """Nothing to learn from public images."""
        return {}

    def fit_private(
        self, weights: Weights, images: Tensor, conditions: Tensor, fit: FitSettings, report: Report
    ) -> PrivateFit:
        """All coarse images and labels, in a seeded order."""
        generator = torch.Generator().manual_seed(derive_seed(fit.seed, "real"))
        order = torch.randperm(len(conditions), generator=generator)
        return PrivateFit({"images": images[order], "labels": conditions[order]}, {}, {})

    def sample(
        self, weights: Weights, conditions: Tensor, sampling: SamplingConfig, seed: int, report: Report
    ) -> Tensor:
        """The next unused image of each label, starting over when a class is used up."""
        images = torch.empty(len(conditions), *weights["images"].shape[1:])
        for label in conditions.unique():
            wanted = torch.nonzero(conditions == label).flatten()
            owned = torch.nonzero(weights["labels"] == label).flatten()
            images[wanted] = weights["images"][owned[torch.arange(len(wanted)) % len(owned)]]
        return images

"""Real coarse images as samples."""

from __future__ import annotations

import torch
from torch import Tensor

from wavedp.config import SamplingConfig
from wavedp.generators import FitSettings, PrivateFit
from wavedp.methods import Weights
from wavedp.progress import Report
from wavedp.seeds import derive_seed


class RealModel:
    """Draws without replacement within each class."""

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

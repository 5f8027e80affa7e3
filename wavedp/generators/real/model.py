"""Real coarse images as samples."""

from __future__ import annotations

import torch
from torch import Tensor

from wavedp.config import SamplingConfig
from wavedp.finite import require_finite
from wavedp.generators import FitSettings, PrivateFit
from wavedp.methods import Weights
from wavedp.progress import Report
from wavedp.seeds import derive_seed
from wavedp.tokenizers import Tokenizer


class RealModel:
    """Draws without replacement within each class. tokenizer: what the drawn images go through, if anything."""

    def __init__(self, tokenizer: Tokenizer | None = None) -> None:
        self.tokenizer = tokenizer

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
        """The next unused image of each label, starting over when a class is used up. With a tokenizer each is encoded
        and decoded, the nearest that a generator over its tokens can come."""
        images = torch.empty(len(conditions), *weights["images"].shape[1:])
        for label in conditions.unique():
            wanted = torch.nonzero(conditions == label).flatten()
            owned = torch.nonzero(weights["labels"] == label).flatten()
            images[wanted] = weights["images"][owned[torch.arange(len(wanted)) % len(owned)]]
        if self.tokenizer is None:
            return images
        require_finite({"images": images}, "images of generator=real", "look for damaged weights")  # codes hide it
        parts = images.split(sampling.batch_size)
        return torch.cat([self.tokenizer.decode(self.tokenizer.encode(part)).cpu() for part in parts])

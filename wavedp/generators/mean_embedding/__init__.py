"""Common to generators that are trained on one noisy mean embedding of each class: their settings and refusals.

A method gives the features; `model` has the release of their sums and the training, `network` the generator.
"""

from __future__ import annotations

from dataclasses import dataclass

from wavedp import data
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.generators.one_release import OneRelease


@dataclass(frozen=True)
class MatchedConfig:
    """The generator that is trained on the release, at no ε."""

    channels: int = result(32, within="[8, inf)", stage="coarse_samples")  # of the finest layer, a multiple of 8
    train_steps: int = result(3000, within="[0, inf)", stage="coarse_samples")
    train_batch: int = result(100, within="[2, inf)", stage="coarse_samples")  # images a step, all classes alike
    train_learning_rate: float = result(1e-2, within="(0, inf)", stage="coarse_samples")  # falls to 0 along a cosine


class MeanEmbedding(OneRelease):
    """A method with such settings."""

    def check(self, trial: TrialConfig) -> list[str]:
        """A budget; layers in groups; two images of each class in a batch, from which the loss is unbiased."""
        check_network(trial)
        return super().check(trial)


def check_network(trial: TrialConfig, prefix: str = "") -> None:
    """Raise UserError for `channels` or `train_batch` that the network and its loss cannot have. prefix: of both
    fields' names."""
    n_classes = data.n_classes(trial.data)
    channels, batch = (getattr(trial.generator, prefix + name) for name in ("channels", "train_batch"))
    if channels % 8:
        raise UserError(f"generator.{prefix}channels={channels} has no groups of equal size: use a multiple of 8.")
    if batch < 2 * n_classes:
        raise UserError(
            f"generator.{prefix}train_batch={batch} has less than two images for each of {n_classes} classes, and one "
            f"has no unbiased distance to an embedding: use {2 * n_classes} or more."
        )

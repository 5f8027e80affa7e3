"""The share of generated images that lie closer to a training image than fresh real images do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wavedp.config import MetricsConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.metrics import FeatureMetric, Given, Meaning, features_clause
from wavedp.metrics.views import Estimate, Real, Sets, View, how

if TYPE_CHECKING:
    from torch import Tensor

    from wavedp.metrics.memorisation import Memorisation

TRAIN = "train"


@dataclass(frozen=True)
class MemorisedConfig:
    """train_samples: compare with so many training images only, drawn at random (None: all). Copies of others are not
    found then."""

    name: str = result("memorised")
    train_samples: int | None = result(None, within="[1, inf)")


class Memorised(FeatureMetric):
    """By features (wavedp.metrics.memorisation). The reference images must be held out of training. This looks at the
    training images without noise, which no ε covers; it does not test privacy."""

    name, Config, better = "memorised", MemorisedConfig, "lower"
    sentence = "share of generated images nearer to a training image than 99% of real images are, "

    def meanings(self, own: Any, config: MetricsConfig) -> dict[str, Meaning]:
        """The name counts the training images too."""
        return {f"memorised_{how(config)}": Meaning(self.better, self.sentence + features_clause(config))}

    def look(self, own: Any) -> str:
        """Distances of features."""
        return "nearest training images"

    def names(self, own: MemorisedConfig, sets: Sets) -> dict[str, str]:
        """memorised_<how>_<generated>_<held out>_<training>."""
        n = sets.counts(TRAIN)
        training = View(n if own.train_samples is None else min(n, own.train_samples), TRAIN if sets.real.split else "")
        return {self.name: f"{super().names(own, sets)[self.name]}_{training.name}"}

    def require(self, own: MemorisedConfig, given: Given) -> None:
        """Held-out images, and enough of them."""
        super().require(own, given)
        if given.config.reference_split == TRAIN:
            raise UserError(
                "metric memorised compares training images with images held out of training, and "
                "metrics.reference_split=train: use test, or leave memorised out."
            )
        if given.sets.real.count < 100:
            raise UserError(
                f"metric memorised needs 100 held-out images, and {given.sets.real.count} are compared with: raise "
                "metrics.reference_samples, or leave memorised out."
            )

    def reference_splits(self, own: Any, config: MetricsConfig) -> tuple[str, ...]:
        """The split that the generator was fitted to."""
        return (TRAIN,)

    def reference_work(self, own: MemorisedConfig, real: Real) -> dict[str, int]:
        """Features of the training images too."""
        return {**super().reference_work(own, real), "memorised": real.split(TRAIN, own.train_samples).count}

    def reference(self, own: MemorisedConfig, real: Real) -> dict[str, Tensor]:
        """features, and memorised.train<count>: float32 t 2048 of the training images."""
        training = real.split(TRAIN, own.train_samples).features()
        return {**super().reference(own, real), _tensor(own): training}

    def measure(self, own: MemorisedConfig, sets: Sets, reference: Mapping[str, Tensor]) -> dict[str, float]:
        """0.01 for a generator that copies nothing."""
        found = self.compare(own, sets, reference)
        return {self.names(own, sets)[self.name]: Estimate(found.share, found.standard_error)}

    def compare(self, own: MemorisedConfig, sets: Sets, reference: Mapping[str, Tensor]) -> Memorisation:
        """The share, and the pairs from the closest to the farthest."""
        from wavedp.metrics.memorisation import memorisation

        return memorisation(sets.samples.features(), reference[_tensor(own)], reference["features"])


def _tensor(own: MemorisedConfig) -> str:
    return "memorised.train" + ("" if own.train_samples is None else str(own.train_samples))

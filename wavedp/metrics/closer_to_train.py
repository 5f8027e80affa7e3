"""Nearest neighbours among training images beside those among a control set (wavedp.metrics.control)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wavedp.config import MetricsConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.metrics import FeatureMetric, Given, Meaning, features_clause
from wavedp.metrics.memorised import TRAIN
from wavedp.metrics.views import Estimate, Real, Sets, View, how

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 50
"""Images in each set, at least."""

MEANINGS = {
    "closer-to-train": ("lower", "share of generated images nearer to a training image than to a control image"),
    "closer-to-train-low": ("lower", "lower end of the 95% interval of the share nearer to training images"),
    "closer-to-train-high": ("lower", "upper end of the 95% interval of the share nearer to training images"),
    "closer-to-train-fresh": (
        "lower",
        "share of further held-out images nearer to a training image than to a control image, 0.5 for a fair control",
    ),
    "nearest-train": ("higher", "median distance of generated images to the nearest training image"),
    "nearest-control": ("lower", "median distance of generated images to the nearest control image"),
}


@dataclass(frozen=True)
class CloserToTrainConfig:
    """Nothing to set: half of the reference images are the control set, and as many training images are drawn. Copies
    of others are not found here: `memorised` compares with all of them."""

    name: str = result("closer_to_train")


class CloserToTrain(FeatureMetric):
    """The main attack, the control and the check of it. The reference images must be held out of training: half of them
    are the control set, the other half stands in the place of generated images once. This looks at the training images
    without noise, which no ε covers; it does not test privacy."""

    name, Config, better = "closer_to_train", CloserToTrainConfig, "lower"

    def meanings(self, own: Any, config: MetricsConfig) -> dict[str, Meaning]:
        """One for each number."""
        return {
            f"{begins}_{how(config)}": Meaning(better, f"{about}, {features_clause(config)}")  # type: ignore[arg-type]
            for begins, (better, about) in MEANINGS.items()
        }

    def look(self, own: Any) -> str:
        """Distances of features."""
        return "nearest training images beside a control set"

    def names(self, own: Any, sets: Sets) -> dict[str, str]:
        """<number>_<how>_<generated>_<training>_<control>; of fresh images, their number stands first."""
        each, held_out = _each(sets), bool(sets.real.split)
        sizes = [View(each, TRAIN if held_out else "").name, View(each, sets.real.split).name]
        found = {}
        for begins in MEANINGS:
            of = View(sets.real.count - each) if begins.endswith("fresh") else sets.samples
            found[begins] = "_".join([begins, how(sets.config), of.name, *sizes])
        return found

    def require(self, own: Any, given: Given) -> None:
        """Held-out images, and enough of both."""
        super().require(own, given)
        if given.config.reference_split == TRAIN:
            raise UserError(
                "metric closer_to_train needs a control set that was held out of training, and "
                "metrics.reference_split=train: use test, or leave closer_to_train out."
            )
        if _each(given.sets) < LEAST:
            raise UserError(
                f"metric closer_to_train needs {2 * LEAST} held-out and {LEAST} training images, got "
                f"{given.sets.real.count} and {given.counts(TRAIN)}: raise metrics.reference_samples, or leave it out."
            )

    def reference_splits(self, own: Any, config: MetricsConfig) -> tuple[str, ...]:
        """The split that the generator was fitted to."""
        return (TRAIN,)

    def reference_work(self, own: Any, real: Real) -> dict[str, int]:
        """Features of the training images too."""
        return {**super().reference_work(own, real), self.name: real.images.count // 2}

    def reference(self, own: Any, real: Real) -> dict[str, Tensor]:
        """features, and closer_to_train.train: float32 m 2048 of training images."""
        training = real.split(TRAIN, real.images.count // 2).features()
        return {**super().reference(own, real), f"{self.name}.train": training}

    def measure(self, own: Any, sets: Sets, reference: Mapping[str, Tensor]) -> dict[str, float]:
        """The share with its standard error, and what belongs to it."""
        from wavedp.metrics.control import closer

        names, training = self.names(own, sets), reference[f"{self.name}.train"]
        held_out, each = reference["features"], len(training)
        control, fresh = held_out[:each], held_out[each:]
        found, check = closer(sets.samples.features(), training, control), closer(fresh, training, control)
        values = {
            "closer-to-train": Estimate(found.share, found.standard_error),
            "closer-to-train-low": found.low,
            "closer-to-train-high": found.high,
            "closer-to-train-fresh": Estimate(check.share, check.standard_error),
            "nearest-train": found.to_train,
            "nearest-control": found.to_control,
        }
        return {names[begins]: value for begins, value in values.items()}


def _each(sets: Sets) -> int:
    """Images in each of the two sets."""
    return min(sets.real.count // 2, sets.counts(TRAIN))

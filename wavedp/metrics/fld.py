"""FLD: the divergence of real images from a density around the generated ones (wavedp.metrics.likelihood)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wavedp.config import MetricsConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.metrics import FeatureMetric, Given, Meaning, features_clause
from wavedp.metrics.views import Real, Sets, View, how

if TYPE_CHECKING:
    from torch import Tensor

TRAIN, TEST = "train", "test"
MOST = 10_000
"""Generated images that are used, as in the authors' program."""

JUDGED = {
    "fld": "feature likelihood divergence of test images",
    "fld-train": "feature likelihood divergence of training images, which does not see memorisation",
}


@dataclass(frozen=True)
class FLDConfig:
    """Nothing to set."""

    name: str = result("fld")


class FLD(FeatureMetric):
    """Two numbers of one fit: fld of the test split, the paper's, and fld-train of the training split, DPImageBench's.
    The authors recommend DINOv2's features; these are Inception's, as in DPImageBench. This looks at the training
    images without noise, which no ε covers."""

    name, Config, better = "fld", FLDConfig, "lower"

    def meanings(self, own: Any, config: MetricsConfig) -> dict[str, Meaning]:
        """One for each split that is judged. Names count the generated, the training and the test images."""
        return {
            f"{name}_{how(config)}": Meaning(self.better, f"{about}, {features_clause(config)}")
            for name, about in JUDGED.items()
        }

    def look(self, own: Any) -> str:
        """A density."""
        return "feature likelihood"

    def names(self, own: Any, sets: Sets) -> dict[str, str]:
        """<name>_<how>_<generated>_<training>_<test>."""
        used = View(min(sets.samples.count, MOST)).name
        sizes = [(sets.counts(split), split if sets.real.split else "") for split in (TRAIN, TEST)]
        splits = [View(count, split, whole=bool(split)).name for count, split in sizes]
        rest = "_".join([how(sets.config), used, *splits])
        return {name: f"{name}_{rest}" for name in JUDGED}

    def require(self, own: Any, given: Given) -> None:
        """Enough images of each kind."""
        super().require(own, given)
        found = {split: given.counts(split) for split in (TRAIN, TEST)}
        if found[TRAIN] < 4 or found[TEST] < 2:
            raise UserError(
                f"metric fld needs 4 training and 2 test images, got {found[TRAIN]} and {found[TEST]}: give more, or "
                "leave fld out."
            )

    def reference_splits(self, own: Any, config: MetricsConfig) -> tuple[str, ...]:
        """Both."""
        return (TRAIN, TEST)

    def reference_work(self, own: Any, real: Real) -> dict[str, int]:
        """Features of both."""
        return {f"fld.{split}": real.split(split).count for split in (TRAIN, TEST)}

    def reference(self, own: Any, real: Real) -> dict[str, Tensor]:
        """fld.train and fld.test: float32 n 2048."""
        return {f"fld.{split}": real.split(split).features() for split in (TRAIN, TEST)}

    def measure(self, own: Any, sets: Sets, reference: Mapping[str, Tensor]) -> dict[str, float]:
        """0 for what is as good as half of the training images; 100 is one nat a feature."""
        from wavedp.metrics.likelihood import divergences

        train, test = (reference[f"fld.{split}"] for split in (TRAIN, TEST))
        found = divergences(train, test, sets.samples.features()[:MOST], sets.device)
        names = self.names(own, sets)
        return {names["fld"]: found[TEST], names["fld-train"]: found[TRAIN]}

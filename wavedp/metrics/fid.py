"""FID: the Fréchet distance between features of generated and of real images, and its limit for infinitely many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wavedp.config import MetricsConfig
from wavedp.fields import result
from wavedp.metrics import FeatureMetric
from wavedp.metrics.views import Estimate, Sets

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FIDConfig:
    """Nothing to set: `metrics` says mode, precision and counts."""

    name: str = result("fid")


@dataclass(frozen=True)
class FIDInfinityConfig:
    """Nothing to set."""

    name: str = result("fid_infinity")


class FID(FeatureMetric):
    """Measured in every trial (wavedp.metrics.frechet)."""

    name, Config, better, sentence, standing = "fid", FIDConfig, "lower", "", True

    def asked(self, config: MetricsConfig) -> bool:
        """Always."""
        return True

    def reference_content(self, own: Any, config: MetricsConfig) -> list[Any]:
        """Nothing beside what every reference reads."""
        return []

    def measure(self, own: Any, sets: Sets, reference: Mapping[str, Tensor]) -> dict[str, float]:
        """One distance, at least 0 up to rounding."""
        from wavedp.metrics.frechet import frechet_distance_of

        return {self.names(own, sets)["fid"]: frechet_distance_of(sets.samples.features(), reference["features"])}


class FIDInfinity(FeatureMetric):
    """FID extrapolated to infinitely many generated images (`frechet.frechet_distance_at_infinity`)."""

    name, Config, better = "fid_infinity", FIDInfinityConfig, "lower"
    sentence = "FID extrapolated to infinitely many generated images, "

    def look(self, own: Any) -> str:
        """It compares with the reference's features."""
        return "FID at infinity"

    def measure(self, own: Any, sets: Sets, reference: Mapping[str, Tensor]) -> dict[str, float]:
        """The line's value at infinity, with its standard error."""
        from wavedp.metrics.frechet import frechet_distance_at_infinity

        found = frechet_distance_at_infinity(sets.samples.features(), reference["features"])
        return {self.names(own, sets)[self.name]: Estimate(*found)}

"""KID: the kernel distance between features of generated and of real images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from wavedp.config import MetricsConfig
from wavedp.fields import result
from wavedp.metrics import FeatureMetric, Meaning
from wavedp.metrics.views import Estimate, Sets, how

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class KIDConfig:
    """subsets: also the mean over so many random subsets of 1,000 images (or all, of fewer), as papers print it."""

    name: str = result("kid")
    subsets: int = result(0, within="[0, inf)")


class KID(FeatureMetric):
    """Unbiased, of all images at once (wavedp.metrics.kernel)."""

    name, Config, better, sentence, standing = "kid", KIDConfig, "lower", "", True

    def asked(self, config: MetricsConfig) -> bool:
        """By metrics.kid."""
        return config.kid

    def reference_content(self, own: Any, config: MetricsConfig) -> list[Any]:
        """Nothing beside what every reference reads."""
        return []

    def meanings(self, own: KIDConfig, config: MetricsConfig) -> dict[str, Meaning]:
        """One meaning for all images, and one for subsets."""
        (whole,) = super().meanings(own, config).values()
        subsets = replace(whole, sentence=f"mean over {own.subsets} subsets, {whole.sentence}")
        return {
            f"kid_{how(config)}": whole,
            **({f"kid_subsets_{how(config)}": subsets} if own.subsets else {}),
        }

    def names(self, own: KIDConfig, sets: Sets) -> dict[str, str]:
        """kid, and kid_subsets where it is asked for."""
        rest = super().names(own, sets)["kid"].removeprefix("kid_")
        return {"kid": f"kid_{rest}", **({"kid_subsets": f"kid_subsets_{rest}"} if own.subsets else {})}

    def measure(self, own: KIDConfig, sets: Sets, reference: Mapping[str, Tensor]) -> dict[str, float]:
        """Squared distances; equal laws give 0 on average, so they may be slightly negative."""
        from wavedp.metrics.kernel import kernel_distance_in_subsets, kernel_distance_of

        both, names = (sets.samples.features(), reference["features"]), self.names(own, sets)
        found: dict[str, float] = {names["kid"]: kernel_distance_of(*both)}
        if own.subsets:
            found[names["kid_subsets"]] = Estimate(*kernel_distance_in_subsets(*both, subsets=own.subsets))
        return found

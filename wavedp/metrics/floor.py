"""The floor of FID: the distance between two parts of the real images, what a perfect generator would get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wavedp.config import MetricsConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.metrics import FeatureMetric, Given, Meaning
from wavedp.metrics.views import Real, Sets, View, how

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FloorConfig:
    """Nothing to set."""

    name: str = result("floor")


class Floor(FeatureMetric):
    """Compares as many real images as there are samples (or half of all, of fewer) with the rest."""

    name, Config, better, standing = "floor", FloorConfig, "lower", True

    def asked(self, config: MetricsConfig) -> bool:
        """By metrics.floor."""
        return config.floor

    def meanings(self, own: Any, config: MetricsConfig) -> dict[str, Meaning]:
        """One meaning."""
        about = "what real images of the split get in the place of generated ones"
        return {f"floor_fid_{how(config)}": Meaning(self.better, about)}

    def names(self, own: Any, sets: Sets) -> dict[str, str]:
        """The name says the two parts: floor_fid_<how>_<part>_<rest>."""
        n = sets.counts(sets.real.split)
        n = min(n, sets.real.count + sets.config.fid_samples) if sets.real.split else n
        part = _part(sets, n)
        rest = View(n - part, sets.real.split)
        return {"floor": f"floor_fid_{how(sets.config)}_{View(part).name}_{rest.name}"}

    def require(self, own: Any, given: Given) -> None:
        """Two parts of two images."""
        super().require(own, given)
        n = given.counts(given.config.reference_split)
        if min(n, given.sets.real.count + given.config.fid_samples) < 4:
            raise UserError(
                f"metrics.floor=true needs two parts of two images, and the {given.config.reference_split} split has "
                f"{n}: use more, or metrics.floor=false."
            )

    def reference_content(self, own: Any, config: MetricsConfig) -> list[Any]:
        """The number of further images that it looks at."""
        return [{"floor": config.fid_samples}]

    def reference_work(self, own: Any, real: Real) -> dict[str, int]:
        """Features of the further images too."""
        kept, others = real.apart(real.config.fid_samples)
        return {"features": kept.count, "others": others.count}

    def work(self, own: Any, sets: Sets) -> dict[str, int]:
        """It reads no sample."""
        return {}

    def reference(self, own: Any, real: Real) -> dict[str, Tensor]:
        """features, and others: float32 m 2048 of images beyond those."""
        kept, others = real.apart(real.config.fid_samples)
        return {"features": kept.features(), "others": others.features()}

    def measure(self, own: Any, sets: Sets, reference: Mapping[str, Tensor]) -> dict[str, float]:
        """The distance of the last real images to the others."""
        import torch

        from wavedp.metrics.frechet import frechet_distance_of

        real = torch.cat([reference["features"], reference["others"]])
        part = _part(sets, len(real))
        return {self.names(own, sets)["floor"]: frechet_distance_of(real[-part:], real[:-part])}


def _part(sets: Sets, n: int) -> int:
    """The number of n real images that play the generated ones."""
    return min(sets.samples.count, n // 2)

"""Diversity: differences between generated images, to an ImageNet network (wavedp.metrics.pairs)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wavedp.config import MetricsConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.metrics import Given, Meaning, MetricMethod
from wavedp.metrics.views import Estimate, Real, Sets, View

if TYPE_CHECKING:
    from torch import Tensor

KINDS = {"": "", "_within": " of one class"}


@dataclass(frozen=True)
class DiversityConfig:
    """real: also that of the reference images, to compare with; a look at them."""

    name: str = result("diversity")
    real: bool = result(False)


class Diversity(MetricMethod):
    """LPIPS-style and uncalibrated. Noise is diverse too: read it beside FID or precision."""

    name, Config, better = "diversity", DiversityConfig, "higher"

    def look(self, own: DiversityConfig) -> str:
        """Generated images only, unless it is asked for that of real ones."""
        return "diversity" if own.real else ""

    def meanings(self, own: DiversityConfig, config: MetricsConfig) -> dict[str, Meaning]:
        """Over all and within classes, of generated images and, where asked for, of real ones."""
        whose = {"": "generated", **({"real_": "real"} if own.real else {})}
        return {
            f"{start}diversity{kind}": Meaning(
                self.better, f"mean LPIPS-style distance of pairs of {images} images{of}, uncalibrated"
            )
            for start, images in whose.items()
            for kind, of in KINDS.items()
        }

    def names(self, own: DiversityConfig, sets: Sets) -> dict[str, str]:
        """diversity; and diversity_within where the samples' classes are known, if they are several."""
        return {f"diversity{kind}": _name("", kind, len(which), sets.samples) for kind, which in _pairs(sets.samples)}

    def require(self, own: DiversityConfig, given: Given) -> None:
        """The network, and two pairs."""
        from wavedp.metrics.pairs import perceptual

        perceptual("cpu")
        for view in (given.sets.samples, *([given.sets.real] if own.real else [])):
            if view.count < 4:
                raise UserError(f"{view.count} images have no two pairs to average: give more, or leave diversity out.")

    def reference(self, own: DiversityConfig, real: Real) -> dict[str, Tensor]:
        """diversity.real<kind>: float64 3, of real images: mean distance, standard error, and number of pairs."""
        import torch

        return {
            f"diversity.real{kind}": torch.tensor([value, value.standard_error or 0.0, pairs], dtype=torch.float64)
            for kind, (value, pairs) in (_measured(real.images, real.device) if own.real else {}).items()
        }

    def measure(self, own: DiversityConfig, sets: Sets, reference: Mapping[str, Tensor]) -> dict[str, float]:
        """Mean distances in [0, 4]."""
        found: dict[str, float] = {}
        for kind, (value, pairs) in _measured(sets.samples, sets.device).items():
            found[_name("", kind, pairs, sets.samples)] = value
        for kind in KINDS if own.real else ():
            if f"diversity.real{kind}" in reference:
                mean, error, pairs = reference[f"diversity.real{kind}"].tolist()
                found[_name("real_", kind, int(pairs), sets.real)] = Estimate(mean, error)
        return found


def _name(start: str, kind: str, pairs: int, view: View) -> str:
    return f"{start}diversity{kind}_effnetlite0_{pairs}pairs_{view.name}"


def _measured(view: View, device: str) -> dict[str, tuple[Estimate, int]]:
    """By kind: the mean distance, and over how many pairs."""
    from wavedp.metrics.pairs import mean_distance

    return {kind: (Estimate(*mean_distance(view.images, which, device)), len(which)) for kind, which in _pairs(view)}


def _pairs(view: View) -> list[tuple[str, Tensor]]:
    """By kind: the pairs, int64 P 2. Within classes only where there are several, with two pairs in all."""
    import torch

    from wavedp.metrics.pairs import has_pairs, pairs

    found = [("", pairs(torch.zeros(view.count)))]
    labels = view.labels
    if labels is not None and len(labels.unique()) > 1 and has_pairs(labels):
        found.append(("_within", pairs(labels)))
    return found

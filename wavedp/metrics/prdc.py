"""Precision, recall, density and coverage: four shares that FID mixes into one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wavedp.config import MetricsConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.metrics import FeatureMetric, Given, Meaning, features_clause
from wavedp.metrics.views import Sets, how

if TYPE_CHECKING:
    from torch import Tensor

USUAL = 5
SHARES = {
    "precision": "share of generated images in the ball of some real one",
    "recall": "share of real images in the ball of some generated one",
    "density": "real balls that a generated image lies in, over k",
    "coverage": "share of real balls that hold a generated image",
}


@dataclass(frozen=True)
class PRDCConfig:
    """k: a ball reaches to the k-th nearest neighbour; 5 as in Naeem et al., 3 in Kynkäänniemi et al. Names say another
    k than 5: precision-k3_clean_…"""

    name: str = result("prdc")
    k: int = result(USUAL, within="[1, inf)")


class PRDC(FeatureMetric):
    """By nearest neighbours of features (wavedp.metrics.neighbours)."""

    name, Config, better = "prdc", PRDCConfig, "higher"

    def look(self, own: Any) -> str:
        """It compares with the reference's features."""
        return "precision and recall"

    def meanings(self, own: PRDCConfig, config: MetricsConfig) -> dict[str, Meaning]:
        """One meaning for each of the four."""
        rest = f"k = {own.k}, {features_clause(config)}, {{generated}} generated against {{real}}"
        return {
            f"{share}{_rank(own)}_{how(config)}": Meaning(self.better, f"{about}, {rest}")
            for share, about in SHARES.items()
        }

    def names(self, own: PRDCConfig, sets: Sets) -> dict[str, str]:
        """One name for each of the four."""
        rest = f"{how(sets.config)}_{sets.samples.name}_{sets.real.name}"
        return {share: f"{share}{_rank(own)}_{rest}" for share in SHARES}

    def require(self, own: PRDCConfig, given: Given) -> None:
        """More images than neighbours on both sides."""
        super().require(own, given)
        fewest = min(given.sets.samples.count, given.sets.real.count)
        if not 1 <= own.k < fewest:
            raise UserError(
                f"metric prdc with k={own.k} and {fewest} images has no neighbours: use k from 1 to {fewest - 1}."
            )

    def measure(self, own: PRDCConfig, sets: Sets, reference: Mapping[str, Tensor]) -> dict[str, float]:
        """Shares in [0, 1]; a density may exceed 1."""
        from wavedp.metrics.neighbours import precision_recall_density_coverage

        found = precision_recall_density_coverage(reference["features"], sets.samples.features(), own.k)
        names = self.names(own, sets)
        return {names[share]: value for share, value in found.items()}


def _rank(own: PRDCConfig) -> str:
    return "" if own.k == USUAL else f"-k{own.k}"

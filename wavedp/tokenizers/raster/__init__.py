"""`raster`, the baseline without wavelets: vector-quantised patches in raster order, as DP-LlamaGen has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from wavedp.fields import result
from wavedp.tokenizers import Shape
from wavedp.tokenizers.learned import Learned, LearnedConfig

if TYPE_CHECKING:
    from wavedp.tokenizers.spectral.network import SpectralNetwork


@dataclass(frozen=True)
class RasterConfig(LearnedConfig):
    """The fields of every learned tokenizer. Its one scale has no details, and nothing to be causal in."""

    name: str = result("raster")


class Raster(Learned):
    """It learns coarse images of the trial's level, each level by itself."""

    name = "raster"
    Config = RasterConfig
    published: ClassVar[dict[str, dict[str, Any]]] = {
        "own": {**Learned.published["own"], "detail_codes": 256, "scale_causal": "both"}
    }

    def training_level(self, level: int) -> int:
        """The trial's own."""
        return level

    def built_level(self, level: int) -> int:
        """The network is made for coarse images, which are its full size."""
        return 0

    def network(self, config: Any, shape: Shape, level: int) -> SpectralNetwork:
        """One scale, of as many patches at every level."""
        from wavedp.tokenizers.raster.network import raster_network

        return raster_network(config, shape, level)

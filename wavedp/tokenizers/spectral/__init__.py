"""`spectral`: vector-quantised wavelet scales, learned on public images (arXiv 2412.09607)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from wavedp.fields import result
from wavedp.tokenizers import Shape
from wavedp.tokenizers.learned import Learned, LearnedConfig

if TYPE_CHECKING:
    from wavedp.tokenizers.spectral.network import SpectralNetwork


@dataclass(frozen=True)
class SpectralConfig(LearnedConfig):
    """Also the codebook of the details, and which of the two transformers are blind to finer scales."""

    name: str = result("spectral")
    detail_codes: int = result(256, within="[2, inf)")
    scale_causal: Literal["both", "decoder", "encoder", "none"] = result("both")


class Spectral(Learned):
    """It learns every scale from full images, so all levels share it."""

    name = "spectral"
    Config = SpectralConfig

    def training_level(self, level: int) -> int:
        """Full images."""
        return 0

    def levels(self, config: Any, shape: Shape) -> range:
        """Only the whole image, if the decoder's coarse scales see finer ones: a prefix of the codes then decodes to
        something else than the coarse image."""
        whole_only = config.scale_causal in ("encoder", "none")
        return range(1) if whole_only else super().levels(config, shape)

    def nested(self, config: Any) -> bool:
        """If the encoder's coarse scales do not see finer ones."""
        return config.scale_causal in ("both", "encoder")

    def network(self, config: Any, shape: Shape, level: int) -> SpectralNetwork:
        """For full images of `shape`, whatever the level."""
        from wavedp.tokenizers.spectral.network import spectral_network

        return spectral_network(config, shape)

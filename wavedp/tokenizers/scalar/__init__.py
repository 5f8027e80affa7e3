"""`scalar`: quantisation of Haar coefficients at levels given by public constants, no training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.methods import Weights
from wavedp.tokenizers import Shape, Tokenizer, TokenizerMethod, halvings


@dataclass(frozen=True)
class ScalarConfig:
    """Ranges and bins; wavedp.tokenizers.scalar.model says what error they make."""

    name: str = result("scalar")
    wavelet: str = result("haar")
    bins: int = result(32, within="[2, inf)")  # of the approximation, on [0, 1]
    detail_bins: int = result(7, within="[3, inf)")  # of a detail; odd, so that 0 is a level
    detail_range: float = result(0.3, within="(0, inf)")  # details from -range to range
    coarsest: int = result(8, within="[1, inf)")  # halve the image until its side is at most this, or odd
    # Levels of a detail are closer together near 0, by the law of this mu; 0: evenly spaced.
    companding: float = result(0.0, later=True, within="[0, inf)")
    # A code of scale 0 is one digit, or two of √bins values each, which need fewer weights to model.
    digits: int = result(1, later=True, within="[1, 2]")
    # A detail token's H, V and D: one of detail_bins³ codes (joint), or three digits that are drawn one after another.
    detail_digits: Literal["joint", "apart"] = result("joint", later=True)


class Scalar(TokenizerMethod):
    """See the module's docstring."""

    name = "scalar"
    Config = ScalarConfig
    published: ClassVar[dict[str, dict[str, Any]]] = {
        "own": {
            "patch": 1, "codes": 64, "detail_codes": 256, "code_width": 8, "width": 64, "heads": 4, "encoder_depth": 2,
            "decoder_depth": 3, "scale_causal": "both", "train_steps": 600, "train_batch": 32,
            "train_learning_rate": 0.001, "commitment": 0.25, "perceptual": 0.0, "adversarial": 0.0, "public_seed": 0,
        }
    }  # fmt: skip

    def levels(self, config: Any, shape: Shape) -> range:
        """Down to its coarsest scale. Coarser images can be encoded too, in fewer tokens than that scale has."""
        return range(halvings(config.coarsest, shape) + 1)

    def check(self, trial: TrialConfig) -> list[str]:
        """Bins that tell values apart."""
        check(trial.tokenizer)
        return []

    def build(self, config: Any, shape: Shape, level: int, weights: Weights) -> Tokenizer:
        """It needs no weights."""
        from wavedp.tokenizers.scalar.model import ScalarTokenizer

        channels, height, width = shape
        return ScalarTokenizer(config, (channels, height >> level, width >> level))


def check(config: ScalarConfig) -> None:
    """Raises UserError for settings that suit no image."""
    if config.detail_bins % 2 == 0:
        raise UserError(f"tokenizer.detail_bins={config.detail_bins} has no level at 0: use an odd number ≥ 3.")
    if config.digits == 2 and math.isqrt(config.bins) ** 2 != config.bins:
        raise UserError(
            f"tokenizer.bins={config.bins} is no square, which tokenizer.digits=2 takes: use one such as "
            f"{(math.isqrt(config.bins) + 1) ** 2}, or digits=1."
        )
    if config.wavelet != "haar":
        raise UserError(f"tokenizer.wavelet={config.wavelet!r} leaves ragged scales: the scalar tokenizer uses haar.")

"""`real`: real coarse images instead of generated ones: the ceiling that stage two allows, or with `tokens` that tokens
and stage two allow together. Not private."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from wavedp import data, tokenizers
from wavedp.config import TrialConfig
from wavedp.fields import result
from wavedp.generators import FitKind, GeneratorMethod
from wavedp.methods import Inputs, Needs

if TYPE_CHECKING:
    from wavedp.generators.real.model import RealModel


@dataclass(frozen=True)
class RealConfig:
    """Which ceiling."""

    name: str = result("real")
    # Samples are what the trial's tokenizer makes of the images: their codes, decoded.
    tokens: bool = result(False, later=True, stage="coarse_samples")


class Real(GeneratorMethod):
    """See the module's docstring."""

    name = "real"
    Config = RealConfig
    published: ClassVar[dict[str, dict[str, Any]]] = {
        "own": {
            "width": 64, "depth": 2, "heads": 4, "conditioning": "class", "condition_dropout": 0.0,
            "pretrain_level": None, "pretrain_steps": 300, "pretrain_batch": 128, "pretrain_learning_rate": 0.004,
            "public_seed": 0,
        },
        "sampling": {"temperature": 0.85, "top_k": None, "top_p": None, "guidance": 1.0},
    }  # fmt: skip

    def needs(self, trial: TrialConfig) -> Needs:
        """The trial's tokens, if it has any; no public image."""
        public = ((trial.public, "train"),) if trial.public is not None else ()
        if not trial.generator.tokens:
            return Needs(named=public)
        return Needs(fields=frozenset({"tokenizer"}), inputs=("tokenizer",), named=public)

    def fit_kind(self, trial: TrialConfig) -> FitKind:
        """It keeps sensitive images as they are, whatever ε says."""
        return "real"

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> RealModel:
        """A drawer of images, through the trial's tokens or not."""
        from wavedp.generators.real.model import RealModel

        if not trial.generator.tokens:
            return RealModel()
        weights = inputs["tokenizer"]
        return RealModel(tokenizers.build(trial.tokenizer, data.shape(trial.data), trial.level, weights))

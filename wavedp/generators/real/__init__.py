"""`real`: real coarse images instead of generated ones, the ceiling that stage two allows. Not private."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from wavedp.config import TrialConfig
from wavedp.fields import result
from wavedp.generators import FitKind, GeneratorMethod
from wavedp.methods import Inputs, Needs

if TYPE_CHECKING:
    from wavedp.generators.real.model import RealModel


@dataclass(frozen=True)
class RealConfig:
    """Nothing to set."""

    name: str = result("real")


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
        """Its published keys hold the public images' fingerprint, though it learns nothing from them."""
        return Needs(data=((trial.public, "train"),) if trial.public is not None else ())

    def fit_kind(self, trial: TrialConfig) -> FitKind:
        """It keeps sensitive images as they are, whatever ε says."""
        return "real"

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> RealModel:
        """A drawer of images."""
        from wavedp.generators.real.model import RealModel

        return RealModel()

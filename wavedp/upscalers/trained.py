"""The base of upscalers that a study trains on its public images, in the stage `upscaler`.

This costs no ε: the weights come from public training, never from the private fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import SEED, identity, result
from wavedp.methods import Needs, shared
from wavedp.upscalers import OURS, UpscalerMethod


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of the public training, which makes one model for all levels and ε."""

    train_steps: int = result(600, within="[1, inf)")
    train_batch: int = result(64, within="[1, inf)")
    train_learning_rate: float = result(2e-3, within="(0, inf)")
    public_seed: int = result(0, within=SEED)


class Trained(UpscalerMethod):
    """A subclass adds `train` (wavedp.methods.Trains) and `build`.

    used: fields that drawing reads. All others change only the training, and are in the key of the stage `upscaler`.
    """

    origin, factor = OURS, "any 2^level"
    used: tuple[str, ...] = ("name",)

    def needs(self, trial: TrialConfig) -> Needs:
        """Public images to train on, and the trained weights to draw with."""
        public = ((trial.public, "train"),) if trial.public is not None else ()
        return Needs(inputs=("upscaler",), data=public)

    def content(self, config: Any) -> dict[str, Any]:
        """The fields that drawing reads."""
        return {name: value for name, value in super().content(config).items() if name in self.used}

    def training_content(self, trial: TrialConfig) -> tuple[Any, list[Any]]:
        """Its whole configuration and the shared fields it reads. A subclass leaves out fields that only drawing reads,
        which should not make it train again."""
        return identity(trial.upscaler), shared(trial, self)

    def check(self, trial: TrialConfig) -> list[str]:
        """There are public images."""
        config = trial.upscaler
        if trial.public is None:
            raise UserError(f"upscaler={config.name} is trained on public images: set public, or use another upscaler.")
        return super().check(trial)

    def found(self) -> str:
        """The study makes its weights."""
        return "trained by the study"

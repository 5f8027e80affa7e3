"""What the upscalers share that a study trains on its public images, in the stage `upscaler`.

No ε: the weights are those of public training, never of the private fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.methods import Needs
from wavedp.upscalers import OURS, UpscalerMethod


@dataclass(frozen=True)
class TrainingConfig:
    """The public training: one model for all levels and ε."""

    train_steps: int = result(600)
    train_batch: int = result(64)
    train_learning_rate: float = result(2e-3)
    public_seed: int = result(0)


class Trained(UpscalerMethod):
    """A subclass has the ability `wavedp.methods.Trains`."""

    origin, factor = OURS, "any 2^level"
    used: tuple[str, ...] = ("name",)
    """Fields that drawing reads; the training's are in the key of its stage."""

    def needs(self, trial: TrialConfig) -> Needs:
        """Public images, and the weights that were trained on them."""
        public = ((trial.public, "train"),) if trial.public is not None else ()
        return Needs(inputs=("upscaler",), data=public)

    def content(self, config: Any) -> dict[str, Any]:
        """What drawing reads."""
        return {name: value for name, value in super().content(config).items() if name in self.used}

    def check(self, trial: TrialConfig) -> list[str]:
        """There are public images, and something to do with them."""
        config = trial.upscaler
        if trial.public is None:
            raise UserError(f"upscaler={config.name} is trained on public images: set public, or use another upscaler.")
        if config.train_steps < 1 or config.train_batch < 1:
            raise UserError(
                f"upscaler.train_steps={config.train_steps} and train_batch={config.train_batch} must both be 1 or "
                "more: raise them."
            )
        return super().check(trial)

    def check_models(self, trial: TrialConfig) -> None:
        """It has no files to open."""

    def found(self) -> str:
        """Made when it is needed."""
        return "trained by the study"

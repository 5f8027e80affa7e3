"""`spectral`: the publicly pretrained generator draws the tokens of the finer scales, given the coarse ones.

It needs no second model. Source: arXiv 2412.09607, where it is text-guided.
"""

from __future__ import annotations

from dataclasses import dataclass

from wavedp import methods
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.generators import Completes
from wavedp.methods import Inputs, Needs
from wavedp.upscalers import OURS, Upscaler, UpscalerMethod


@dataclass(frozen=True)
class SpectralConfig:
    """The distribution that tokens are drawn from."""

    name: str = result("spectral")
    temperature: float = result(1.0, within="(0, inf)")


class Spectral(UpscalerMethod):
    """See the module's docstring."""

    name, Config, origin, factor = "spectral", SpectralConfig, OURS, "any 2^level"

    def needs(self, trial: TrialConfig) -> Needs:
        """The generator's public weights, never the private ones."""
        return Needs(inputs=("tokenizer", "pretrain"))

    def check(self, trial: TrialConfig) -> list[str]:
        """The generator was pretrained on every scale of public images."""
        generator = methods.generator(trial)
        completes = isinstance(generator, Completes) and generator.pretrain_level(trial) == 0  # type: ignore[attr-defined]
        if not completes or trial.public is None:
            raise UserError(
                "upscaler=spectral completes images with the public generator: use generator=spectral_ar, "
                "generator.pretrain_level=0 and a public dataset."
            )
        return super().check(trial)

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> Upscaler:
        """The public generator, which completes all scales."""
        from wavedp.upscalers.completion import Completion

        complete = methods.generator(trial).completer(trial, inputs, device)
        return Completion(self.name, lambda images, factor: complete(images, trial.upscaler.temperature))

    def found(self) -> str:
        """The study makes its weights."""
        return "trained by the study"

"""`spectral_ar`: an autoregressive transformer over coarse-to-fine tokens; `public`: the same without a private fit.

Source: arXiv 2602.23262 (the two-stage method), arXiv 2412.09607 (coarse-to-fine token order). Sizes are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from wavedp import data, tokenizers
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.generators import FitKind
from wavedp.generators.dp_sgd import FIT_FIELDS, OverTokens, TokensConfig
from wavedp.methods import Inputs

if TYPE_CHECKING:
    from torch import Tensor

    from wavedp.generators.spectral_ar.model import SpectralARModel


@dataclass(frozen=True)
class SpectralARConfig(TokensConfig):
    """The transformer, and its public pretraining."""

    name: str = result("spectral_ar")
    width: int = result(64, within="[1, inf)")
    depth: int = result(2, within="[0, inf)")
    heads: int = result(4, within="[1, inf)")
    # Of the public images; None: the trial's; 0: every scale, for all levels.
    pretrain_level: int | None = result(None, within="[0, 16]")


class SpectralAR(OverTokens):
    """See the module's docstring."""

    name = "spectral_ar"
    Config = SpectralARConfig
    fit_fields = (*FIT_FIELDS, "scale_decay", "mean_share")

    def pretrain_level(self, trial: TrialConfig) -> int:
        """The trial's own, or a finer one."""
        finest = trial.generator.pretrain_level
        return trial.level if finest is None else finest

    def check(self, trial: TrialConfig) -> list[str]:
        """Heads share the width; the trial's tokens are a prefix of those it is pretrained on."""
        config, level, finest = trial.generator, trial.level, self.pretrain_level(trial)
        if config.width % config.heads:
            raise UserError(f"generator.width={config.width} can't be shared by {config.heads} heads: use a multiple.")
        if not 0 <= finest <= level:
            raise UserError(
                f"generator.pretrain_level={finest} is coarser than level={level}: use 0 to {level}, or null for the "
                "level."
            )
        own_codes = tokenizers.training_level(trial.tokenizer, level) not in (None, 0)
        if own_codes and finest != level:
            raise UserError(
                f"generator.pretrain_level={finest} is not level={level}, and tokenizer={trial.tokenizer.name} has "
                "other codes at every level: use pretrain_level=null."
            )
        if finest != level or tokenizers.training_level(trial.tokenizer, level) is not None:
            _require_prefix(trial.tokenizer, data.shape(trial.data), level, finest)
        unlike = []
        if finest != level and not tokenizers.nested(trial.tokenizer):
            unlike.append(
                f"tokenizer={trial.tokenizer.name} gives a coarse image other codes than the first ones of the whole "
                f"image, so public pretraining at generator.pretrain_level={finest} learns others than the private fit "
                "sees: use tokenizer.scale_causal=both, or pretrain_level=null."
            )
        return [*unlike, *super().check(trial)]

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> SpectralARModel:
        """Around the trial's tokenizer at the private level and at the level of public pretraining."""
        from wavedp.generators.spectral_ar.model import SpectralARModel

        private, public = (
            tokenizers.build(trial.tokenizer, data.shape(trial.data), level, inputs["tokenizer"])
            for level in (trial.level, self.pretrain_level(trial))
        )
        return SpectralARModel(trial.generator, private, public, data.n_classes(trial.data), device)

    def completer(self, trial: TrialConfig, inputs: Inputs, device: str) -> Callable[[Tensor, float], Tensor]:
        """See wavedp.generators.Completes."""
        model, weights = self.build(trial, inputs, device), inputs["pretrain"]
        return lambda images, temperature: model.complete(weights, images, temperature)


class PublicOnly(SpectralAR):
    """The publicly pretrained model as it is, whatever ε says; privacy.epsilon=0 does the same for any generator."""

    name = "public"

    def fit_kind(self, trial: TrialConfig) -> FitKind:
        """It never looks at a sensitive image."""
        return "public"


@cache
def _require_prefix(config: Any, shape: tuple[int, int, int], level: int, finest: int) -> None:
    from wavedp.generators.spectral_ar.transformer import require_prefix

    private, public = (tokenizers.outline(config, shape, each) for each in (level, finest))
    require_prefix(public, private)

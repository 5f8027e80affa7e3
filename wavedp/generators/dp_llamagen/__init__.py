"""`dp_llamagen`: a Llama-shaped decoder over tokens in raster order, the baseline without wavelets.

Source: the second baseline of arXiv 2602.23262, whose settings are not public; the network is LlamaGen's (Sun et al.,
arXiv 2406.06525; FoundationVision/LlamaGen, autoregressive/models/gpt.py), its tokens those of `tokenizer=raster`. It
is pretrained on public images and fitted by DP-SGD; the ledger has that one mechanism.

Where it is not LlamaGen: by default a caption is one prefix token, of the frozen sentence encoder that all generators
here share; generator.conditioning=tokens with text_tokens=120 and text_encoder=FOLDER gives it T5's, as LlamaGen has
them. Adam without weight decay; no dropout, which a private fit has enough of; at widths below 256 the feed-forward
layers are not rounded up to 256 (`decoder.feedforward_width`), as every weight gets noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from wavedp import data, tokenizers
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.generators.dp_sgd import OverTokens, TokensConfig
from wavedp.methods import Inputs

if TYPE_CHECKING:
    from wavedp.generators.dp_llamagen.model import LlamaGenModel


@dataclass(frozen=True)
class DPLlamaGenConfig(TokensConfig):
    """The decoder, and its public pretraining: GPT-B, of 111 million weights with 16,384 codes."""

    name: str = result("dp_llamagen")
    width: int = result(768, within="[4, inf)")
    depth: int = result(12, within="[0, inf)")
    heads: int = result(12, within="[1, inf)")
    condition_dropout: float = result(0.1, within="[0, 1)")
    pretrain_steps: int = result(50_000, within="[0, inf)")
    pretrain_batch: int = result(256, within="[1, inf)")
    pretrain_learning_rate: float = result(1e-4, within="(0, inf)")


class DPLlamaGen(OverTokens):
    """See the module's docstring."""

    name = "dp_llamagen"
    Config = DPLlamaGenConfig
    published: ClassVar[dict[str, dict[str, Any]]] = {}

    def check(self, trial: TrialConfig) -> list[str]:
        """Heads that rotate by row and by column; one grid of tokens."""
        config = trial.generator
        if config.width % (4 * config.heads):
            raise UserError(
                f"generator.width={config.width} does not give each of {config.heads} heads pairs to turn by row and "
                f"pairs to turn by column: use a multiple of {4 * config.heads}."
            )
        require_raster(trial.tokenizer, data.shape(trial.data), trial.level, self.name)
        return super().check(trial)

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> LlamaGenModel:
        """Around the trial's tokenizer; public images are of the private level, since raster codes differ by level."""
        from wavedp.generators.dp_llamagen.model import LlamaGenModel

        tokenizer = tokenizers.build(trial.tokenizer, data.shape(trial.data), trial.level, inputs["tokenizer"])
        return LlamaGenModel(trial.generator, tokenizer, tokenizer, data.n_classes(trial.data), device)


@cache
def require_raster(config: Any, shape: tuple[int, int, int], level: int, generator: str) -> None:
    """Raises UserError for tokens of several scales, several at one place, or of several digits."""
    tokens = tokenizers.outline(config, shape, level)
    scales, places = int(tokens.positions[:, 0].max()) + 1, {tuple(place) for place in tokens.positions.tolist()}
    if scales > 1 or len(places) < tokens.length or len(tokens.spans[0].digits) > 1:
        what = (
            f"{scales} scales" if scales > 1
            else "several at one place" if len(places) < tokens.length
            else "codes of several digits"
        )  # fmt: skip
        raise UserError(
            f"generator={generator} draws one grid of codes in raster order, and tokenizer={config.name} has {what}: "
            "use tokenizer=raster."
        )

"""`dp_llamagen_checkpoint`: DP fine-tuning of LlamaGen's published decoder over the codes of its own tokenizer.

    generator=dp_llamagen_checkpoint generator.checkpoint=t2i_XL_stage1_256.pt generator.text_encoder=FLAN_T5_XL_FOLDER
    tokenizer=llamagen tokenizer.checkpoint=vq_ds16_t2i.pt

The second baseline of arXiv 2602.23262, whose settings are not public. Text: states of 120 tokens of a frozen T5, moved
to the end of the sequence; classes: an embedding whose rows begin at the mean of the checkpoint's. Sizes default to
GPT-XL's; c2i_B_256.pt is width=768 depth=12 heads=12 conditioning=class.

Where it is not LlamaGen: captions are not cleaned of addresses and markup, only made lower case; no dropout.
`wavedp.generators.dp_llamagen` is the same baseline, pretrained by the trial itself.

Source of names and sizes: FoundationVision/LlamaGen at 5a50452, autoregressive/models/gpt.py, language/t5.py,
autoregressive/sample/sample_t2i.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from wavedp import data, tokenizers, weight_files
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import performance, result
from wavedp.generators.dp_llamagen import require_raster
from wavedp.generators.dp_sgd import ConditionedConfig, OverTokens
from wavedp.methods import Inputs

if TYPE_CHECKING:
    from wavedp.generators.dp_llamagen_checkpoint.model import LlamaGenCheckpointModel


@dataclass(frozen=True)
class DPLlamaGenCheckpointConfig(ConditionedConfig):
    """The files, and the sizes of the decoder that they hold."""

    name: str = result("dp_llamagen_checkpoint")
    conditioning: Literal["class", "text"] = result("text")
    condition_dropout: float = result(0.1, within="[0, 1)", stage="private_fit")
    width: int = result(1280, within="[4, inf)")
    depth: int = result(36, within="[0, inf)")
    heads: int = result(20, within="[1, inf)")
    caption_tokens: int = result(120, within="[1, inf)")
    caption_width: int = result(2048, within="[1, inf)")  # of the text encoder's states
    checkpoint: str | None = performance(None, path=True)  # .pt or .safetensors; its content is in the key
    text_encoder: str | None = performance(None, path=True)  # folder of a T5; its content is in the key


class DPLlamaGenCheckpoint(OverTokens):
    """See the module's docstring."""

    name = "dp_llamagen_checkpoint"
    Config = DPLlamaGenCheckpointConfig
    published: ClassVar[dict[str, dict[str, Any]]] = {}
    encodes_captions = True

    def content(self, config: Any) -> dict[str, Any]:
        """Also the sha256 of the files. Raises UserError if one is missing."""
        found = {"sha256": weight_files.sha256(file_of(config))}
        if config.conditioning == "text":
            found["text_encoder"] = weight_files.sha256(encoder_of(config))
        return {**super().content(config), "model": found}

    def check(self, trial: TrialConfig) -> list[str]:
        """The files; heads that rotate by row and by column; one grid of tokens."""
        config = trial.generator
        self.content(config)
        if config.width % (4 * config.heads):
            raise UserError(
                f"generator.width={config.width} does not give each of {config.heads} heads pairs to turn by row and "
                f"pairs to turn by column: use a multiple of {4 * config.heads}."
            )
        require_raster(trial.tokenizer, data.shape(trial.data), trial.level, self.name)
        return super().check(trial)

    def seen(self, trial: TrialConfig) -> dict[str, tuple[str, ...] | None]:
        """What the checkpoint was trained on, the user knows: the file does not say."""
        return {"generator.checkpoint": None}

    def check_models(self, trial: TrialConfig) -> None:
        """Load every file once. Raises UserError for keys or shapes that are not those of the configuration."""
        config, shape = trial.generator, data.shape(trial.data)
        tokens = tokenizers.untrained(trial.tokenizer, shape, trial.level)
        from wavedp.generators.dp_llamagen_checkpoint.model import LlamaGenCheckpointModel

        LlamaGenCheckpointModel(config, tokens, tokens, data.n_classes(trial.data), "cpu").from_file()

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> LlamaGenCheckpointModel:
        """Around the trial's tokenizer."""
        from wavedp.generators.dp_llamagen_checkpoint.model import LlamaGenCheckpointModel

        tokenizer = tokenizers.build(trial.tokenizer, data.shape(trial.data), trial.level, inputs["tokenizer"])
        return LlamaGenCheckpointModel(trial.generator, tokenizer, tokenizer, data.n_classes(trial.data), device)


def file_of(config: DPLlamaGenCheckpointConfig) -> Path:
    """The decoder's file. Raises UserError when there is none."""
    path = Path(config.checkpoint or "").expanduser()
    if config.checkpoint is None or not path.is_file():
        raise UserError(
            f"generator.checkpoint={config.checkpoint} is not a file: give LlamaGen's t2i_XL_stage1_256.pt, or "
            "c2i_B_256.pt or c2i_L_256.pt with generator.conditioning=class."
        )
    return path


def encoder_of(config: DPLlamaGenCheckpointConfig) -> Path:
    """The text encoder's folder. Raises UserError when there is none."""
    path = Path(config.text_encoder or "").expanduser()
    if config.text_encoder is None or not (path / "config.json").is_file():
        raise UserError(
            f"generator.text_encoder={config.text_encoder} is no folder of a text encoder: give a copy of "
            "google/flan-t5-xl, or use generator.conditioning=class."
        )
    return path

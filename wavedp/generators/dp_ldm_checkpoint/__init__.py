"""`dp_ldm_checkpoint` and `dp_lora_checkpoint`: DP fine-tuning of a published latent diffusion model.

    dp_ldm_checkpoint    all weights of the U-Net's attention blocks (Liu et al., arXiv 2305.15759; ParkLabML/DP-LDM,
                         ldm/models/diffusion/ddpm.py, attention_flag "spatial")
    dp_lora_checkpoint   low-rank updates of their queries, keys, values and outputs (Tsai et al., arXiv 2406.01355)

The checkpoint is a folder that diffusers wrote, of LDMTextToImagePipeline (CompVis/ldm-text2im-large-256) or of
StableDiffusionPipeline. Captions go through its own text encoder, which stays frozen; with conditioning=class a new
embedding of one token takes the text's place, and the private fit trains it too. Nothing is trained on public images.

Where it is not DP-LDM: their text encoder is trained too; ours is not, as its position embedding has one row for all
records, which escapes per-record clipping. Latents are the mean of the autoencoder's posterior and not a draw. A
record may show several captions and noises, averaged before clipping. No dropout.

`wavedp.generators.dp_ldm` is the same baseline with a small autoencoder and U-Net that a trial trains itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from wavedp import data, weight_files
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import performance, result
from wavedp.generators import coarse_shape
from wavedp.generators.dp_ldm_checkpoint.facts import Facts, facts_of, folder_of
from wavedp.generators.dp_sgd import DPSGD, FIT_FIELDS, ConditionedConfig
from wavedp.methods import Inputs

if TYPE_CHECKING:
    from wavedp.generators.dp_ldm_checkpoint.model import CheckpointModel


@dataclass(frozen=True)
class DPLDMCheckpointConfig(ConditionedConfig):
    """The folder, and what a record's loss averages over."""

    name: str = result("dp_ldm_checkpoint")
    conditioning: Literal["class", "text"] = result("text")
    condition_dropout: float = result(0.1, within="[0, 1)", stage="private_fit")
    multiplicity: int = result(1, within="[1, inf)", stage="private_fit")  # times and noises a view, averaged
    checkpoint: str | None = performance(None, path=True)  # folder; its content is in the key


@dataclass(frozen=True)
class DPLoRACheckpointConfig(DPLDMCheckpointConfig):
    """Also the rank of the private updates."""

    name: str = result("dp_lora_checkpoint")
    rank: int = result(16, within="[1, inf)", stage="private_fit")


class DPLDMCheckpoint(DPSGD):
    """See the module's docstring."""

    name = "dp_ldm_checkpoint"
    Config: type = DPLDMCheckpointConfig
    fit_fields = tuple(name for name in FIT_FIELDS if name not in ("trained", "lora_rank"))
    sampling_fields = ("guidance", "diffusion_steps")
    published: ClassVar[dict[str, dict[str, Any]]] = {}
    encodes_captions = True

    def content(self, config: Any) -> dict[str, Any]:
        """Also the sha256 of the folder's files. Raises UserError if there is no such folder."""
        return {**super().content(config), "model": {"sha256": weight_files.sha256(folder_of(config.checkpoint))}}

    def check(self, trial: TrialConfig) -> list[str]:
        """The folder's kind, and whether it makes images of the trial's coarse size."""
        config, found = trial.generator, facts_of(trial.generator.checkpoint)
        _, height, width = coarse_shape(trial)
        if (height, width) != (found.side, found.side):
            raise UserError(
                f"generator.checkpoint={config.checkpoint} makes images of {found.side}×{found.side}, and level="
                f"{trial.level} of this data is {height}×{width}: set data.size and level to match, such as data.size="
                f"{found.side} level=0."
            )
        steps = trial.sampling.diffusion_steps
        if steps > found.timesteps:
            raise UserError(
                f"sampling.diffusion_steps={steps} does not fit the checkpoint's {found.timesteps} timesteps: use 1 to "
                f"{found.timesteps}."
            )
        ghost = trial.privacy.grad_sample_mode == "ghost" and math.isfinite(trial.privacy.epsilon)
        if ghost and config.multiplicity > 1:
            raise UserError(
                "privacy.grad_sample_mode=ghost sees one forward pass a record, and generator.multiplicity="
                f"{config.multiplicity} makes several: use hooks or bookkeeping."
            )
        self.check_size(config, found)
        return super().check(trial)

    def check_size(self, config: Any, found: Facts) -> None:
        """What else depends on the checkpoint's size."""

    def seen(self, trial: TrialConfig) -> dict[str, tuple[str, ...] | None]:
        """What the checkpoint was trained on, the user knows: the file does not say."""
        return {"generator.checkpoint": None}

    def check_models(self, trial: TrialConfig) -> None:
        """Load every part once. Raises UserError for keys or shapes that are not the configuration's."""
        from wavedp.generators.dp_ldm_checkpoint import parts

        found = facts_of(trial.generator.checkpoint)
        parts.load(found, "vae")
        parts.load(found, "unet")
        if trial.generator.conditioning == "text":
            parts.load_text(found)

    def adapted_width(self, trial: TrialConfig) -> int:
        """Not asked for: privacy.trained and lora_rank are not read."""
        return 2

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> CheckpointModel:
        """Around the folder's parts; the weights that a fit moves come from the stages."""
        from wavedp.generators.dp_ldm_checkpoint.model import CheckpointModel

        found = facts_of(trial.generator.checkpoint)
        return CheckpointModel(trial.generator, found, coarse_shape(trial), data.n_classes(trial.data), device)


class DPLoRACheckpoint(DPLDMCheckpoint):
    """See the module's docstring."""

    name = "dp_lora_checkpoint"
    Config = DPLoRACheckpointConfig

    def check_size(self, config: Any, found: Facts) -> None:
        """A rank that is lower than that of the narrowest attention."""
        if config.rank >= found.attention_width:
            raise UserError(
                f"generator.rank={config.rank} is not a low rank of layers {found.attention_width} wide: use 1 to "
                f"{found.attention_width - 1}, or dp_ldm_checkpoint."
            )

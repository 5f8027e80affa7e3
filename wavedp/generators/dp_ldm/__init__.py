"""`dp_ldm` and `dp_lora`: latent diffusion behind a public autoencoder, of which a private fit moves little.

    dp_ldm    attention and the condition's embedding (Liu et al., arXiv 2305.15759; ParkLabML/DP-LDM)
    dp_lora   low-rank updates of attention, and that embedding (Tsai et al., arXiv 2406.01355; EzzzLi/DP-LORA)

The stage `pretrain` trains an autoencoder (diffusers' `AutoencoderKL`) on the public images and then the U-Net on its
latents; neither costs ε. The private fit is DP-SGD on the U-Net; encoding is a public map of each record by itself.

What is published for Fashion-MNIST (DPImageBench, configs/DP-LDM and DP-LORA): 28×28 images become 14×14×3 latents in 4
epochs, the U-Net has 64 and 128 channels with attention at both sizes, rank 8. Ours: blur_diffusion's process without
blur, its cosine noise and v-prediction; the condition enters with the time and not by cross-attention; the autoencoder
has no adversary and no perceptual loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from wavedp import data, methods
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.generators import coarse_shape
from wavedp.generators.blur_diffusion import BlurDiffusion
from wavedp.generators.dp_sgd import FIT_FIELDS, PretrainedConfig
from wavedp.methods import Inputs, Needs

if TYPE_CHECKING:
    from wavedp.generators.dp_ldm.model import LatentDiffusionModel


@dataclass(frozen=True)
class DPLDMConfig(PretrainedConfig):
    """The autoencoder, and both public trainings. The U-Net is in the section `diffusion`."""

    name: str = result("dp_ldm")
    condition_dropout: float = result(0.1, within="[0, 1)")
    pretrain_steps: int = result(200_000, within="[0, inf)")
    pretrain_batch: int = result(1024, within="[1, inf)")
    pretrain_learning_rate: float = result(3e-4, within="(0, inf)")
    latent_channels: int = result(3, within="[1, inf)")
    autoencoder_channels: int = result(64, within="[16, inf)")  # of its first level, a multiple of 16
    autoencoder_steps: int = result(80_000, within="[1, inf)")
    autoencoder_batch: int = result(64, within="[1, inf)")
    autoencoder_learning_rate: float = result(1e-3, within="(0, inf)")
    kl_weight: float = result(1e-6, within="[0, inf)")  # of the latents' divergence from normal numbers


@dataclass(frozen=True)
class DPLoRAConfig(DPLDMConfig):
    """Also the rank of the private updates."""

    name: str = result("dp_lora")
    rank: int = result(8, within="[1, inf)", stage="private_fit")


class DPLDM(BlurDiffusion):
    """See the module's docstring."""

    name = "dp_ldm"
    Config: type = DPLDMConfig
    fit_fields = tuple(name for name in FIT_FIELDS if name not in ("trained", "lora_rank"))
    published: ClassVar[dict[str, dict[str, Any]]] = {}

    def needs(self, trial: TrialConfig) -> Needs:
        """All that blur_diffusion reads but the blur; public images, also where the U-Net is not pretrained."""
        needs = super().needs(trial)
        public = ((trial.public, "train"),) if trial.public is not None else ()
        return Needs(fields=needs.fields - {"blur"}, data=public)

    def pretraining_content(self, trial: TrialConfig) -> list[Any]:
        """The section `diffusion`."""
        return methods.shared(trial, self, leave=("blur", "privacy", "sampling"))

    def check(self, trial: TrialConfig) -> list[str]:
        """Public images, and an autoencoder whose channels have groups."""
        config = trial.generator
        if trial.public is None:
            raise UserError(
                f"generator={self.name} trains its autoencoder on public images, and public=null: set public, such as "
                "data@public=openclipart."
            )
        if config.autoencoder_channels % 16:
            raise UserError(
                f"generator.autoencoder_channels={config.autoencoder_channels} has no groups of equal size: use a "
                "multiple of 16."
            )
        return super().check(trial)

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> LatentDiffusionModel:
        """For coarse images of the trial."""
        from wavedp.generators.dp_ldm.model import LatentDiffusionModel

        shape, n_classes = coarse_shape(trial), data.n_classes(trial.data)
        return LatentDiffusionModel(trial.generator, trial.diffusion, shape, n_classes, device)


class DPLoRA(DPLDM):
    """See the module's docstring."""

    name = "dp_lora"
    Config = DPLoRAConfig

    def check(self, trial: TrialConfig) -> list[str]:
        """A rank that is lower than that of the narrowest attention."""
        rank, width = trial.generator.rank, trial.diffusion.channels
        if rank >= width:
            raise UserError(
                f"generator.rank={rank} is not a low rank of layers {width} wide: use 1 to {width - 1}, or dp_ldm."
            )
        return super().check(trial)

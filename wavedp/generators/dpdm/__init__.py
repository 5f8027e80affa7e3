"""`dpdm`: a denoiser preconditioned as in EDM, trained by DP-SGD alone; `pdp_diffusion`: after public pretraining.

Source: DPDM, Dockhorn, Cao, Vahdat and Kreis (TMLR 2023, arXiv 2210.09929); PDP-Diffusion, Ghalebikesabi et al. (arXiv
2302.13861), both as DPImageBench configures them (2019ChenGong/DPImageBench, configs/*/fmnist_28_eps*.yaml); EDM,
Karras et al. (arXiv 2206.00364). The defaults are those configurations. The network is made of diffusers' parts.

What is not as in the benchmark: noise by PLD for the sampling rate that is run; guidance (sampling.guidance) reads the
condition that training dropped; a coarse image is diffused like any other (level > 0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from wavedp import data
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.generators import coarse_shape
from wavedp.generators.dp_sgd import DPSGD, ConditionedConfig, PretrainedConfig
from wavedp.methods import Inputs
from wavedp.methods import Needs as Needs

if TYPE_CHECKING:
    from wavedp.generators.dpdm.model import DPDMModel, PDPDiffusionModel


@dataclass(frozen=True)
class EDMConfig(ConditionedConfig):
    """The network, the noise that it learns to take off, and the sampler."""

    condition_dropout: float = result(0.1, within="[0, 1)")  # share of training images without one, for guidance
    channels: int = result(64, within="[16, inf)")  # of every layer, a multiple of 16
    layers: int = result(2, within="[1, inf)")  # residual blocks a side
    halvings: int = result(1, within="[0, 8]")  # of the side, at most; fewer where the sides are odd before
    attention_side: int = result(14, within="[0, inf)")  # sides up to this have attention, as the middle always has
    sigma_data: float = result(3**-0.5, within="(0, inf)")  # of images uniform in [-1, 1]
    p_mean: float = result(-1.2, within="(-inf, inf)")  # of ln σ in training
    p_std: float = result(1.2, within="(0, inf)")
    multiplicity: int = result(32, within="[1, inf)", stage="private_fit")  # K, noises a view, averaged before clipping
    # Of the sampler (wavedp.diffusion.edm), whose steps are sampling.diffusion_steps: free in ε to change.
    sigma_min: float = result(0.002, within="(0, inf)", stage="coarse_samples")
    sigma_max: float = result(80.0, within="(0, inf)", stage="coarse_samples")
    rho: float = result(7.0, within="[1, inf)", stage="coarse_samples")
    churn: float = result(10.0, within="[0, inf)", stage="coarse_samples")  # of all steps; 0: no noise after the first
    churn_min: float = result(0.025, within="[0, inf)", stage="coarse_samples")  # the σ between which there is some
    churn_max: float = result(50.0, within="[0, inf)", stage="coarse_samples")
    churn_noise: float = result(1.0, within="(0, inf)", stage="coarse_samples")


@dataclass(frozen=True)
class DPDMConfig(EDMConfig):
    """No public images, and so nothing for the stage `pretrain` to read."""

    first_stage: ClassVar[str] = "private_fit"
    name: str = result("dpdm")


@dataclass(frozen=True)
class PDPDiffusionConfig(EDMConfig, PretrainedConfig):
    """Public pretraining too."""

    name: str = result("pdp_diffusion")
    pretrain_steps: int = result(200_000, within="[1, inf)")
    pretrain_batch: int = result(1024, within="[1, inf)")
    pretrain_learning_rate: float = result(3e-4, within="(0, inf)")
    public_classes: Literal["forget", "keep", "number"] = result("number")


class DPDM(DPSGD):
    """See the module's docstring."""

    name = "dpdm"
    Config: type = DPDMConfig
    sampling_fields = ("guidance", "diffusion_steps")
    published: ClassVar[dict[str, dict[str, Any]]] = {}

    def adapted_width(self, trial: TrialConfig) -> int:
        """The width of the attention."""
        return trial.generator.channels

    def check(self, trial: TrialConfig) -> list[str]:
        """A budget; the network's width, and the sampler's order of deviations."""
        config = trial.generator
        if config.channels % 16:
            raise UserError(f"generator.channels={config.channels} has no groups of equal size: use a multiple of 16.")
        for low, high in (("sigma_min", "sigma_max"), ("churn_min", "churn_max")):
            if getattr(config, low) >= getattr(config, high):
                raise UserError(
                    f"generator.{low}={getattr(config, low):g} is not below {high}={getattr(config, high):g}, and the "
                    f"sampler's noise falls from one to the other: use {low} < {high}."
                )
        if trial.privacy.grad_sample_mode == "ghost" and math.isfinite(trial.privacy.epsilon):
            raise UserError(
                "privacy.grad_sample_mode=ghost sees one forward pass a record, and generator.multiplicity makes "
                "several: use hooks or bookkeeping."
            )
        self.check_start(trial)
        return super().check(trial)

    def check_start(self, trial: TrialConfig) -> None:
        """What the private fit begins with must be something to fit, to freeze, or to sample from."""
        if self.fit_kind(trial) == "public":
            raise UserError(
                f"generator={self.name} learns nothing from public images, and privacy.epsilon=0 allows no others: use "
                "epsilon > 0, or generator=pdp_diffusion."
            )
        if trial.privacy.trained != "all":
            raise UserError(
                f"privacy.trained={trial.privacy.trained} leaves most of generator={self.name} at its random first "
                "weights: use privacy.trained=all, or generator=pdp_diffusion."
            )

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> DPDMModel | PDPDiffusionModel:
        """For coarse images of the trial."""
        from wavedp.generators.dpdm.model import DPDMModel  # and with it diffusers

        return DPDMModel(trial.generator, coarse_shape(trial), data.n_classes(trial.data), device)


class PDPDiffusion(DPDM):
    """See the module's docstring."""

    name = "pdp_diffusion"
    Config = PDPDiffusionConfig

    def check_start(self, trial: TrialConfig) -> None:
        """There are public images."""
        if trial.public is None:
            raise UserError(
                "generator=pdp_diffusion is pretrained on public images and public=null has none: set public, such as "
                "public=openclipart, or use generator=dpdm."
            )

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> PDPDiffusionModel:
        """For coarse images of the trial."""
        from wavedp.generators.dpdm.model import PDPDiffusionModel

        return PDPDiffusionModel(trial.generator, coarse_shape(trial), data.n_classes(trial.data), device)

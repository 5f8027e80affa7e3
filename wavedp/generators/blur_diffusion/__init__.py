"""`blur_diffusion`: a U-Net that undoes blur and noise on coarse images, each frequency at its own speed.

Source: arXiv 2207.11192. With `blur=none`, `level=0` and no public images it is DPDM (arXiv 2210.09929), whose noise
multiplicity is `diffusion.multiplicity` here; with public images it follows PDP-Diffusion (arXiv 2302.13861).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from wavedp import data
from wavedp.config import DiffusionConfig, TrialConfig
from wavedp.errors import UserError
from wavedp.fields import identity, result
from wavedp.generators import coarse_shape
from wavedp.generators.dp_sgd import DPSGD, PretrainedConfig
from wavedp.methods import Inputs, Needs

if TYPE_CHECKING:
    from wavedp.generators.blur_diffusion.model import BlurDiffusionModel


@dataclass(frozen=True)
class BlurDiffusionConfig(PretrainedConfig):
    """Public pretraining; the network and the process are in the section `diffusion`, f(i) is `blur`."""

    name: str = result("blur_diffusion")
    pretrain_learning_rate: float = result(2e-3, within="(0, inf)")


class BlurDiffusion(DPSGD):
    """See the module's docstring."""

    name = "blur_diffusion"
    Config: type = BlurDiffusionConfig
    sampling_fields = ("guidance", "diffusion_steps", "algorithm", "timestep_spacing")
    published: ClassVar[dict[str, dict[str, Any]]] = {
        **DPSGD.published,
        "own": {"width": 64, "depth": 2, "heads": 4, "pretrain_level": None},
    }

    def needs(self, trial: TrialConfig) -> Needs:
        """The blur schedule and the section `diffusion` beside what every DP-SGD fit reads."""
        needs = super().needs(trial)
        return replace(needs, fields=needs.fields | {"blur", "diffusion.*"})

    def pretraining_content(self, trial: TrialConfig) -> list[Any]:
        """All of the section `diffusion`, as when it was published, multiplicity (of the private fit) included."""
        return [identity(trial.diffusion)]

    def adapted_width(self, trial: TrialConfig) -> int:
        """The width of the attention in the middle of the U-Net."""
        return 2 * trial.diffusion.channels

    def check(self, trial: TrialConfig) -> list[str]:
        """The U-Net's size, the steps it draws in, and a schedule that can be built."""
        check_network("sampling", trial.diffusion, trial.sampling.diffusion_steps)
        if trial.privacy.grad_sample_mode == "ghost" and math.isfinite(trial.privacy.epsilon):
            raise UserError(
                "privacy.grad_sample_mode=ghost sees one forward pass a record, and diffusion.multiplicity makes "
                "several: use hooks or bookkeeping."
            )
        require_process(trial.diffusion, trial.blur, coarse_shape(trial))
        return super().check(trial)

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> BlurDiffusionModel:
        """For coarse images of the trial."""
        from wavedp.generators.blur_diffusion.model import BlurDiffusionModel  # and with it diffusers

        shape, n_classes = coarse_shape(trial), data.n_classes(trial.data)
        return BlurDiffusionModel(trial.generator, trial.diffusion, trial.blur, shape, n_classes, device)


def check_network(section: str, config: DiffusionConfig, steps: int) -> None:
    """The U-Net, and how many steps it draws in, which `section` sets. Raises UserError."""
    if config.channels % 16:
        raise UserError(f"diffusion.channels={config.channels} has no groups of equal size: use a multiple of 16.")
    if steps > config.timesteps:
        raise UserError(
            f"{section}.diffusion_steps={steps} does not fit {config.timesteps} timesteps: use 1 to {config.timesteps}."
        )


@cache
def require_process(config: DiffusionConfig, blur: str, shape: tuple[int, int, int]) -> None:
    """Raises UserError for a blur schedule that cannot be built for images of `shape`."""
    from wavedp.diffusion.blur import BlurOperator
    from wavedp.generators.blur_diffusion.model import forward_process

    BlurOperator(forward_process(config, blur), *shape[1:])

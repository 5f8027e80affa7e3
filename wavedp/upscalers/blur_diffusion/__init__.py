"""`blur_diffusion`: a U-Net, trained on public images at full size, deblurs the coarse image.

It begins at the time of the diffusion whose blur is that of the coarse image. Source: arXiv 2207.11192.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from wavedp import data
from wavedp.config import DiffusionConfig, TrialConfig, configure
from wavedp.fields import result
from wavedp.generators.blur_diffusion import check_network, require_process
from wavedp.methods import Inputs, Needs, Weights, section
from wavedp.progress import Report
from wavedp.upscalers import Upscaler
from wavedp.upscalers.trained import Trained, TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor

    from wavedp.generators.blur_diffusion.model import BlurDiffusionModel


@dataclass(frozen=True)
class DeblurringConfig(TrainingConfig):
    """The blur schedule and the steps of drawing; the U-Net's size and its process are in the section `diffusion`."""

    name: str = result("blur_diffusion")
    blur: str = result("quartic")  # f(i)
    diffusion_steps: int = result(20, within="[1, inf)")  # of the whole way from noise; drawing takes its last part


class BlurDiffusion(Trained):
    """See the module's docstring."""

    name, Config, used = "blur_diffusion", DeblurringConfig, ("name", "diffusion_steps")
    published: ClassVar[dict[str, dict[str, Any]]] = {"diffusion": {"multiplicity": 2}}

    def needs(self, trial: TrialConfig) -> Needs:
        """The section `diffusion` too, except for its fields that only a private fit reads."""
        names = ("timesteps", "noise_schedule", "blur_f_max", "blur_sigma", "basis", "heat_sigma_max", "blur_order",
                 "channels", "layers", "snr_gamma")  # fmt: skip
        return replace(super().needs(trial), fields=frozenset(f"diffusion.{name}" for name in names))

    def training_content(self, trial: TrialConfig) -> tuple[Any, list[Any]]:
        """Everything except the steps of drawing; published keys do not hold its name."""
        config = trial.upscaler
        names = ("train_steps", "train_batch", "train_learning_rate", "public_seed", "blur")
        return {name: getattr(config, name) for name in names}, [section(trial, "diffusion", self)]

    def train(
        self, trial: TrialConfig, images: Tensor, device: str, report: Report, checkpoint: Path | None
    ) -> tuple[Weights, dict[str, Any]]:
        """Like the pretraining of the generator of this name, without classes."""
        import torch

        nothing = torch.zeros(len(images), dtype=torch.long)
        model = deblurring(trial, device)
        return model.fit_public(images, nothing, trial.upscaler.public_seed, report, checkpoint), {}

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> Upscaler:
        """The trained U-Net."""
        from wavedp.upscalers.completion import Completion

        weights, model, steps = inputs["upscaler"], deblurring(trial, device), trial.upscaler.diffusion_steps
        return Completion(self.name, lambda images, factor: model.complete(weights, images, steps=steps))

    def check(self, trial: TrialConfig) -> list[str]:
        """The U-Net can be built, and the schedule blurs at least as much as the level does."""
        warned, config = super().check(trial), trial.upscaler
        check_network("upscaler", trial.diffusion, config.diffusion_steps)
        require_process(trial.diffusion, config.blur, data.shape(trial.data))
        _require_blur(trial.diffusion, config.blur, 2**trial.level)
        return warned


def deblurring(trial: TrialConfig, device: str) -> BlurDiffusionModel:
    """The full-size model without classes."""
    from wavedp.generators.blur_diffusion.model import BlurDiffusionModel  # and with it diffusers

    config = trial.upscaler
    training = configure(
        "generator",
        "blur_diffusion",
        pretrain_steps=config.train_steps,
        pretrain_batch=config.train_batch,
        pretrain_learning_rate=config.train_learning_rate,
    )
    return BlurDiffusionModel(training, trial.diffusion, config.blur, data.shape(trial.data), 1, device)


@cache
def _require_blur(config: DiffusionConfig, blur: str, factor: int) -> None:
    from wavedp.generators.blur_diffusion.model import forward_process, matching_time

    matching_time(forward_process(config, blur), factor)

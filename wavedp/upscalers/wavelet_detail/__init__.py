"""`wavelet_detail`: a small network, trained on public images, that draws the wavelet bands a coarse image lacks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wavedp import data
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.methods import Inputs, Weights
from wavedp.progress import Report
from wavedp.upscalers import Upscaler
from wavedp.upscalers.trained import Trained, TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class WaveletDetailConfig(TrainingConfig):
    """The training, its losses, and the size of the network."""

    name: str = result("wavelet_detail")
    train_steps: int = result(8000, within="[1, inf)")
    train_batch: int = result(16, within="[1, inf)")
    train_learning_rate: float = result(1.5e-3, within="(0, inf)")
    # See losses.py.
    detail: Literal["adversarial", "regression", "sampled", "diffusion"] = result("adversarial", later=True)
    # Weights of two losses.
    detail_perceptual: float = result(0.0, later=True, read_if={"detail": "adversarial"}, within="[0, inf)")
    detail_adversarial: float = result(0.03, later=True, read_if={"detail": "adversarial"}, within="[0, inf)")
    detail_width: int = result(64, later=True, within="[1, inf)")
    detail_depth: int = result(6, later=True, within="[0, inf)")
    detail_halvings: int = result(0, later=True, within="[0, 4]")  # see bodies.py; 0: nothing sees the whole image
    detail_noise: int = result(0, later=True, read_if={"detail": "adversarial"}, within="[0, inf)")  # planes
    detail_pixels: Literal["absolute", "energy"] = result("absolute", later=True, read_if={"detail": "adversarial"})
    detail_critic: Literal["hinge", "relativistic"] = result("hinge", later=True, read_if={"detail": "adversarial"})
    detail_critic_width: int = result(32, later=True, read_if={"detail": "adversarial"}, within="[1, inf)")
    detail_decay: float = result(0.998, later=True, within="[0, 1)")  # of the moving average of the weights, kept
    detail_steps: int = result(6, later=True, read_if={"detail": "diffusion"}, within="[1, inf)")  # of drawing


class WaveletDetail(Trained):
    """See the module's docstring."""

    name, Config, used = "wavelet_detail", WaveletDetailConfig, ("name", "detail_steps")

    def training_content(self, trial: TrialConfig) -> tuple[Any, list[Any]]:
        """Everything except the steps of drawing."""
        content, rest = super().training_content(trial)
        return {name: value for name, value in content.items() if name != "detail_steps"}, rest

    def train(
        self, trial: TrialConfig, images: Tensor, device: str, report: Report, checkpoint: Path | None
    ) -> tuple[Weights, dict[str, Any]]:
        """See wavedp.upscalers.wavelet_detail.network."""
        from wavedp.upscalers.wavelet_detail.network import fit_public

        return fit_public(images, trial.upscaler, device, report, checkpoint), {}

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> Upscaler:
        """The trained network."""
        from wavedp.upscalers.completion import Completion
        from wavedp.upscalers.wavelet_detail.network import complete

        return Completion(self.name, partial(complete, trial.upscaler, inputs["upscaler"], device))

    def check(self, trial: TrialConfig) -> list[str]:
        """Images can be halved and doubled again."""
        warned, (_, height, width) = super().check(trial), data.shape(trial.data)
        if height % 2 or width % 2:
            raise UserError(
                f"upscaler=wavelet_detail learns to double images, and {height}×{width} has an odd side: use "
                "another upscaler."
            )
        if trial.upscaler.detail_pixels == "energy" and not trial.upscaler.detail_noise:
            raise UserError(
                "upscaler.detail_pixels=energy scores two samples of an image, and detail_noise=0 makes them equal: "
                "set upscaler.detail_noise=4, or detail_pixels=absolute."
            )
        return warned

    def check_models(self, trial: TrialConfig) -> None:
        """The network behind a perceptual loss is installed."""
        from wavedp.upscalers.wavelet_detail import losses

        losses.perceptual(trial.upscaler, "cpu")

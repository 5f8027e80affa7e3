"""`wavelet_detail`: a small network, trained on public images, that draws the wavelet bands a coarse image lacks."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wavedp import data, methods
from wavedp.config import PrivacyConfig, TrialConfig
from wavedp.errors import UserError
from wavedp.fields import Above, identity, is_read, privacy, result
from wavedp.generators import FitSettings, PrivateFit
from wavedp.methods import Inputs, Needs, Weights
from wavedp.privacy import accounting
from wavedp.progress import Report
from wavedp.upscalers import Upscaler
from wavedp.upscalers.trained import Trained, TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor


SHARED = {"epsilon_share": Above(0.1)}
OF_FIT = ("epsilon_share", "fit_batch", "fit_steps", "fit_max_grad_norm", "fit_learning_rate")
OF_PRIVACY = (
    "delta", "accountant", "relation", "clipping", "noise_source", "optimizer", "adam_floor", "ema_decay", "views",
    "precision",
)  # fmt: skip
"""Fields of the section privacy that the private fit reads as the generator's does."""
HOW = ("microbatch_size", "grad_sample_mode", "checkpoint_every")


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
    # Of ε, for fine-tuning on full-size sensitive images (private.py); 0: the network is public.
    epsilon_share: float = privacy(0.0, later=True, within="[0, 1)")
    fit_batch: int = privacy(256, later=True, read_if=SHARED, within="[1, inf)")  # of that fit, as privacy.batch_size
    fit_steps: int = privacy(60, later=True, read_if=SHARED, within="[1, inf)")
    fit_max_grad_norm: float = privacy(0.1, later=True, read_if=SHARED, within="(0, inf)")
    fit_learning_rate: float = result(3e-4, later=True, read_if=SHARED, within="(0, inf)")


class WaveletDetail(Trained):
    """See the module's docstring."""

    name, Config, used = "wavelet_detail", WaveletDetailConfig, ("name", "detail_steps")

    def needs(self, trial: TrialConfig) -> Needs:
        """Public images and their weights; the settings of the private fit, and its weights, if it has a share of ε."""
        needs, fits = super().needs(trial), methods.upscaler_privacy(trial) is not None
        read = frozenset(f"privacy.{name}" for name in OF_PRIVACY) if fits else frozenset()
        return replace(needs, fields=needs.fields | read, inputs=(*needs.inputs, "upscaler_fit"))

    def training_content(self, trial: TrialConfig) -> tuple[Any, list[Any]]:
        """Everything except the steps of drawing and the private fit, which begins with the public network."""
        later = ("detail_steps", *OF_FIT)
        own = {name: value for name, value in identity(trial.upscaler).items() if name not in later}
        return own, methods.shared(trial, self, leave=("privacy",))

    def fit_privacy(self, trial: TrialConfig) -> PrivacyConfig | None:
        """Its own batches, steps and clipping norm; the rest as the section privacy says."""
        config = trial.upscaler
        if not config.epsilon_share:
            return None
        taken = [
            item for item in fields(PrivacyConfig) if item.name in (*OF_PRIVACY, *HOW) and is_read(trial.privacy, item)
        ]
        return PrivacyConfig(
            epsilon=config.epsilon_share * trial.privacy.epsilon,
            batch_size=config.fit_batch,
            steps=config.fit_steps,
            max_grad_norm=config.fit_max_grad_norm,
            learning_rate=config.fit_learning_rate,
            **{item.name: getattr(trial.privacy, item.name) for item in taken},
        )

    def fit_content(self, trial: TrialConfig) -> dict[str, Any]:
        """The share and the fit's own settings: `upscaler`, whose weights it begins with, says the rest."""
        return {name: value for name, value in identity(trial.upscaler).items() if name in OF_FIT}

    def fit_private(
        self, trial: TrialConfig, weights: Weights, images: Tensor, fit: FitSettings, device: str, report: Report
    ) -> PrivateFit:
        """See wavedp.upscalers.wavelet_detail.private."""
        from wavedp.upscalers.wavelet_detail.private import fine_tune

        return fine_tune(trial.upscaler, weights, images, fit, device, report)

    def train(
        self, trial: TrialConfig, images: Tensor, device: str, report: Report, checkpoint: Path | None
    ) -> tuple[Weights, dict[str, Any]]:
        """See wavedp.upscalers.wavelet_detail.network."""
        from wavedp.upscalers.wavelet_detail.network import fit_public

        return fit_public(images, trial.upscaler, device, report, checkpoint), {}

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> Upscaler:
        """The trained network: the private fit's, if there was one."""
        from wavedp.upscalers.completion import Completion
        from wavedp.upscalers.wavelet_detail.network import complete

        weights = inputs.get("upscaler_fit", inputs["upscaler"])
        return Completion(self.name, partial(complete, trial.upscaler, weights, device))

    def check(self, trial: TrialConfig) -> list[str]:
        """Images can be halved and doubled again, and the private fit can be accounted for."""
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
        fit = methods.upscaler_privacy(trial)
        if fit is None:
            return warned
        count = data.n_records(trial.data, "train")
        if trial.upscaler.fit_batch > count:
            raise UserError(
                f"upscaler.fit_batch={trial.upscaler.fit_batch} cannot be drawn from {count} records: use at most "
                f"{count}."
            )
        if fit.grad_sample_mode == "ghost":
            raise UserError(
                "privacy.grad_sample_mode=ghost sees one forward pass a record, and upscaler.epsilon_share="
                f"{trial.upscaler.epsilon_share:g} makes several: use bookkeeping, hooks or auto."
            )
        return warned + accounting.check(fit, count)

    def check_models(self, trial: TrialConfig) -> None:
        """The network behind a perceptual loss is installed."""
        from wavedp.upscalers.wavelet_detail import losses

        losses.perceptual(trial.upscaler, "cpu")

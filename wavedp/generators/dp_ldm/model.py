"""`dp_ldm` and `dp_lora`: blur_diffusion's model without blur, on latents of a public autoencoder.

Shapes: B records, C channels, h w pixels of the coarse image, c h' w' of its latents, V views.

Weights are the U-Net's under its own names, and the autoencoder's under `autoencoder.`, as public training left them:
the private fit reads the latter and does not move them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from wavedp.config import DiffusionConfig, PrivacyConfig, SamplingConfig
from wavedp.devices import taker
from wavedp.generators import FitSettings, PrivateFit
from wavedp.generators.adaptation import train_only
from wavedp.generators.blur_diffusion.denoiser import Denoiser
from wavedp.generators.blur_diffusion.model import BlurDiffusionModel
from wavedp.generators.dp_ldm import DPLDMConfig, DPLoRAConfig
from wavedp.generators.dp_ldm.autoencoder import PART, Autoencoder, latent_shape, train
from wavedp.mapped import empty
from wavedp.methods import Weights
from wavedp.progress import Report
from wavedp.seeds import derive_seed
from wavedp.views import view

PREFIX = "autoencoder."


class LatentDiffusionModel(BlurDiffusionModel):
    """See wavedp.generators for the protocol. shape: C, h, w of the coarse images."""

    clips, attends_everywhere = False, True
    config: DPLDMConfig

    def __init__(
        self, config: DPLDMConfig, diffusion: DiffusionConfig, shape: tuple[int, int, int], n_classes: int, device: str
    ) -> None:
        super().__init__(config, diffusion, "none", latent_shape(config, shape), n_classes, device)
        self.image_shape = shape

    def fit_public(
        self, images: Tensor, conditions: Tensor, seed: int, report: Report, checkpoint: Path | None = None
    ) -> Weights:
        """The autoencoder, and then the U-Net on its latents of the public images and of their mirror images."""
        first, second = self.config.autoencoder_steps, self.config.pretrain_steps
        torch.manual_seed(derive_seed(seed, "autoencoder"))
        beside = None if checkpoint is None else checkpoint.with_name(f"{PREFIX}{checkpoint.name}")
        autoencoder = train(
            self.config,
            self.image_shape,
            images,
            self.device,
            lambda done, total: report(done, first + second),
            beside,
        )
        latents = _latents(autoencoder, images, 2, checkpoint and checkpoint.parent)
        weights = super().fit_public(
            latents, conditions, seed, lambda done, total: report(first + done, first + second), checkpoint
        )
        own = {f"{PREFIX}{name}": value.detach().cpu().clone() for name, value in autoencoder.state_dict().items()}
        return {**weights, **own}

    def fit_private(
        self, weights: Weights, images: Tensor, conditions: Tensor, fit: FitSettings, report: Report
    ) -> PrivateFit:
        """DP fine-tuning on latents of the views of coarse images."""
        latents = _latents(self._autoencoder(weights), images, fit.privacy.views, fit.checkpoint.parent)
        done = super().fit_private(weights, latents, conditions, fit, report)
        kept = {name: value for name, value in weights.items() if name.startswith(PREFIX)}
        return PrivateFit({**done.weights, **kept}, done.mechanisms, done.releases)

    def sample(
        self, weights: Weights, conditions: Tensor, sampling: SamplingConfig, seed: int, report: Report
    ) -> Tensor:
        """One coarse image per condition, decoded from latents that are drawn as blur_diffusion draws images."""
        latents = super().sample(weights, conditions, sampling, seed, report)
        return self._autoencoder(weights).decode(latents)

    def log_likelihoods(self, weights: Weights, images: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Minus the training loss of the latents of images B C h w, with their labels and without a condition."""
        return super().log_likelihoods(weights, _latents(self._autoencoder(weights), images, views=1), labels)

    def network(self, n_classes: int, weights: Weights | None = None) -> Denoiser:
        """The U-Net, on the device."""
        own = weights and {name: value for name, value in weights.items() if not name.startswith(PREFIX)}
        return super().network(n_classes, own)

    def public_data(self, latents: Tensor) -> Callable[[Tensor, int], Tensor]:
        """Of latents B 2 c h' w', of images and their mirror images."""
        take = taker(latents, self.device)
        return lambda index, step: take(index)[:, step % 2 :][:, :1]

    def data_of(self, latents: Tensor, number: int) -> Tensor:
        """View `number` of latents B V c h' w'."""
        return latents[:, number]

    def images_of(self, data: Tensor) -> Tensor:
        """Latents as they are: `sample` decodes them."""
        return data

    def adapt(self, model: nn.Module, privacy: PrivacyConfig, seed: int) -> None:
        """Attention and the condition, or low-rank updates of attention and the condition."""
        rank = self.config.rank if isinstance(self.config, DPLoRAConfig) else 0
        train_only(model, "lora" if rank else "attention", rank, seed)

    def _autoencoder(self, weights: Weights) -> Autoencoder:
        made = Autoencoder(self.config, self.image_shape)
        made.load_state_dict(
            {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}
        )
        return made.to(self.device).eval().requires_grad_(False)


def _latents(autoencoder: Autoencoder, images: Tensor, views: int, folder: Path | None = None) -> Tensor:
    """B V c h' w' of the views of images B C h w. Many lie on the disk of `folder`."""
    shape = autoencoder.encode(images[:1]).shape[1:]
    found = empty((len(images), views, *shape), folder, what="latents", remedy="lower privacy.views")
    for latents, part in zip(found.split(PART), images.split(PART), strict=True):
        for number in range(views):
            latents[:, number] = autoencoder.encode(view(part, number))
    return found

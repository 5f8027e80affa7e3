"""`dp_ldm_checkpoint` and `dp_lora_checkpoint`: a published U-Net on the latents of its own autoencoder.

Shapes: B records, C channels, h w pixels of the coarse image, c h' w' of its latents, V views, L tokens, D width of a
token's state, T timesteps.

    loss of a record = mean over views and noises of |prediction(z_t, t, text) - target|² / (c h' w')

z_t = √ᾱ_t z + √(1 - ᾱ_t) noise, t uniform in 0..T-1, target noise or velocity, as the folder's scheduler says (Ho et
al., arXiv 2006.11239; Salimans & Ho, arXiv 2202.00512). Samples are DDIM's without noise (arXiv 2010.02502).

Weights hold only what a private fit may move, under the U-Net's own names after `unet.`, and the class condition:
everything else is the folder's, whose content is in the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wavedp.config import PrivacyConfig, SamplingConfig
from wavedp.finite import require_finite
from wavedp.generators import FitSettings, PrivateFit
from wavedp.generators.adaptation import LowRank
from wavedp.generators.conditions import ClassCondition
from wavedp.generators.denoising import DenoisingModel, Errors, standard_normal
from wavedp.generators.dp_ldm_checkpoint import DPLDMCheckpointConfig, DPLoRACheckpointConfig
from wavedp.generators.dp_ldm_checkpoint.facts import Facts
from wavedp.generators.dp_ldm_checkpoint.parts import FrozenText, load, load_text
from wavedp.mapped import empty
from wavedp.methods import Weights
from wavedp.progress import Report
from wavedp.seeds import derive_seed
from wavedp.views import view

PART = 16  # images that are encoded or decoded at once
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


class CheckpointDenoiser(nn.Module):
    """forward(noisy B c h' w', timesteps B int64, conditions) -> B c h' w'. Dropout is off, in training too: a private
    fit has noise enough."""

    def __init__(self, unet: Any, condition: ClassCondition | FrozenText) -> None:
        super().__init__()
        self.unet, self.condition = unet, condition
        for layer in unet.modules():  # not by evaluation mode, in which Opacus' hooks see nothing
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0

    def forward(self, noisy: Tensor, timesteps: Tensor, conditions: Tensor) -> Tensor:
        found: Tensor = self.unet(noisy, timesteps, encoder_hidden_states=self.condition(conditions)).sample
        return found


class CheckpointModel(DenoisingModel):
    """See wavedp.generators for the protocol. shape: C, h, w of the coarse images."""

    config: DPLDMCheckpointConfig

    def __init__(
        self,
        config: DPLDMCheckpointConfig,
        facts: Facts,
        shape: tuple[int, int, int],
        n_classes: int,
        device: str,
    ) -> None:
        channels, side = facts.latents
        super().__init__(config, (channels, side, side), n_classes, device)
        self.facts, self.image_shape = facts, shape

    @property
    def multiplicity(self) -> int:
        """K, of the private fit."""
        return self.config.multiplicity

    @cached_property
    def text(self) -> FrozenText:
        """The frozen text encoder."""
        return load_text(self.facts)

    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        """Token ids B L int64, which the private fit turns into states."""
        return self.text.encode(captions)

    def fit_public(
        self, images: Tensor, conditions: Tensor, seed: int, report: Report, checkpoint: Path | None = None
    ) -> Weights:
        """The checkpoint's weights that a private fit may move; a new class condition comes from the seed."""
        torch.manual_seed(derive_seed(seed, "pretrain"))
        return self._moved(self.network(self.n_classes).state_dict())

    def start(self, weights: Weights) -> Weights:
        """The public weights as they are."""
        return weights

    def fit_private(
        self, weights: Weights, images: Tensor, conditions: Tensor, fit: FitSettings, report: Report
    ) -> PrivateFit:
        """DP fine-tuning on latents of the views of coarse images; conditions: labels B, or token ids B V L."""
        latents = self._latents(images, fit.privacy.views, fit.checkpoint.parent)
        done = super().fit_private(weights, latents, conditions, fit, report)
        return PrivateFit(self._moved(done.weights), done.mechanisms, done.releases)

    def sample(
        self, weights: Weights, conditions: Tensor, sampling: SamplingConfig, seed: int, report: Report
    ) -> Tensor:
        """One coarse image per condition: labels B, or token ids B L. Image i starts from noise of its own row."""
        from diffusers import DDIMScheduler

        model, first = self.network(self.n_classes, weights).eval(), self.noise(len(conditions), seed)[0]
        # Latents are not within [-1, 1], to which some schedulers clip.
        steps = DDIMScheduler.from_config({**self.facts.process, "clip_sample": False, "thresholding": False})
        images = []
        for start in range(0, len(conditions), sampling.batch_size):
            part = slice(start, start + sampling.batch_size)
            latents = self._denoise(model, first[part], conditions[part], sampling, steps)
            require_finite({"latents": latents}, f"samples of {self.config.name}", "lower privacy.learning_rate")
            images.append(self._decoded(latents))
            report(min(start + sampling.batch_size, len(conditions)), len(conditions))
        return torch.cat(images)

    def log_likelihoods(self, weights: Weights, images: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Minus the training loss of the latents of images B C h w, with their labels and without a condition."""
        return super().log_likelihoods(weights, self._latents(images, views=1), labels)

    def network(self, n_classes: int, weights: Weights | None = None) -> CheckpointDenoiser:
        """The folder's U-Net and a condition, on the device. weights: what stands in place of the folder's."""
        by_class = self.config.conditioning == "class"
        condition = ClassCondition(n_classes, self.facts.width) if by_class else self.text
        model = CheckpointDenoiser(load(self.facts, "unet"), condition)
        if weights is not None:
            model.load_state_dict({**model.state_dict(), **weights})
        return model.to(self.device)

    def errors(self) -> Errors:
        """Squared, averaged over a latent's numbers; all times weigh alike."""
        from diffusers import DDPMScheduler

        process = DDPMScheduler.from_config(self.facts.process)

        def errors(model: CheckpointDenoiser, data: Tensor, shown: Tensor, numbers: Tensor) -> Tensor:
            times = (numbers[:, 0] * self.facts.timesteps).long()
            noise = standard_normal(numbers[:, 1:]).view_as(data)
            velocity = process.config.prediction_type == "v_prediction"
            target = process.get_velocity(data, noise, times) if velocity else noise
            found = model(process.add_noise(data, noise, times), times, shown)
            return (found.float() - target).square().mean((1, 2, 3))

        return errors

    def adapt(self, model: nn.Module, privacy: PrivacyConfig, seed: int) -> None:
        """Let the private fit move attention, or low-rank updates of it, and a class condition."""
        model.requires_grad_(False)
        model.condition.requires_grad_(True)
        torch.manual_seed(seed)
        for path, layer in list(model.named_modules()):
            if ".attentions." not in path:
                continue
            if not isinstance(self.config, DPLoRACheckpointConfig):
                layer.requires_grad_(True)
            elif isinstance(layer, nn.Linear) and path.endswith(PROJECTIONS):
                parent, _, name = path.rpartition(".")
                updated = LowRank(layer, self.config.rank).to(layer.weight.device)
                model.get_submodule(parent).register_module(name, updated)

    def data_of(self, latents: Tensor, number: int) -> Tensor:
        """View `number` of latents B V c h' w'."""
        return latents[:, number]

    def _moved(self, weights: Weights) -> Weights:
        """Those that a private fit may move: with low rank, of the layers that it updates."""
        low = isinstance(self.config, DPLoRACheckpointConfig)
        ends = tuple(f"{name}.weight" for name in PROJECTIONS) if low else ("",)
        return {
            name: value.detach().cpu().clone()
            for name, value in weights.items()
            if name.startswith("condition.") or (".attentions." in name and name.endswith(ends))
        }

    @torch.inference_mode()
    def _denoise(
        self, model: CheckpointDenoiser, first: Tensor, conditions: Tensor, sampling: SamplingConfig, steps: Any
    ) -> Tensor:
        steps.set_timesteps(sampling.diffusion_steps)
        latents, shown = first.to(self.device) * steps.init_noise_sigma, conditions.to(self.device)
        guided = sampling.guidance != 1
        if guided:
            shown = torch.cat([shown, model.condition.absent(shown)])
        for t in steps.timesteps:
            seen = latents.repeat(2, 1, 1, 1) if guided else latents
            with self.autocast():
                output = model(seen, t.to(self.device).expand(len(seen)), shown).float()
            if guided:
                conditional, unconditional = output.chunk(2)
                output = unconditional + sampling.guidance * (conditional - unconditional)
            latents = steps.step(output, t, latents, eta=0.0).prev_sample
        return latents

    @cached_property
    def _vae(self) -> Any:
        return load(self.facts, "vae").to(self.device)

    @torch.no_grad()
    def _latents(self, images: Tensor, views: int, folder: Path | None = None) -> Tensor:
        """B V c h' w' of the views of images B C h w in [0, 1], on the CPU. Grey images are shown in three channels.
        Many lie on the disk of `folder`."""
        found = empty((len(images), views, *self.shape), folder, what="latents", remedy="lower privacy.views")
        for latents, part in zip(found.split(PART), images.split(PART), strict=True):
            shown = torch.stack([view(part, number) for number in range(views)], 1).flatten(0, 1)
            shown = shown.expand(-1, self._vae.config.in_channels, -1, -1).to(self.device) * 2 - 1
            means = self._vae.encode(shown).latent_dist.mode() * self.facts.scale
            latents[:] = means.cpu().unflatten(0, (len(part), views))
        return found

    @torch.no_grad()
    def _decoded(self, latents: Tensor) -> Tensor:
        """B C h w in [0, 1], on the CPU."""
        parts = [self._vae.decode(part / self.facts.scale).sample for part in latents.split(PART)]
        images = ((torch.cat(parts) + 1) / 2).clamp(0, 1).cpu()
        return images.mean(1, keepdim=True) if self.image_shape[0] == 1 else images

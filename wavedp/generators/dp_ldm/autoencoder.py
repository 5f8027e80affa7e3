"""The public autoencoder: diffusers' `AutoencoderKL`, its training, and latents of unit variance.

Shapes: B images, C channels, h w pixels, c h' w' latents; h' = h / 2 where both sides are even, else h.

    loss of an image = mean |x - decoded sample of its latents| + kl_weight Σ KL(latents | N(0, 1)) / (C h w)

the reconstruction and divergence of LDM's (Rombach et al., arXiv 2112.10752, appendix G: L1, weight 1e-6) without its
adversary. Latents are the posterior's mean, shifted and scaled by each channel's mean and deviation over public images.
GroupNorm is the only norm and there is no dropout: an image's latents depend on it alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavedp.devices import taker
from wavedp.generators.dp_ldm import DPLDMConfig
from wavedp.generators.dp_sgd import PretrainedConfig
from wavedp.generators.pretraining import pretrain
from wavedp.progress import Report

PART = 256  # images that are encoded or decoded at once


class Autoencoder(nn.Module):
    """`encode` and `decode` are between images in [0, 1] and latents of about unit variance, whatever the batch."""

    def __init__(self, config: DPLDMConfig, shape: tuple[int, int, int]) -> None:
        super().__init__()
        from diffusers import AutoencoderKL  # slow to import, and needed only here

        self.mean: Tensor
        self.std: Tensor
        levels, width = 1 + halves(shape), config.autoencoder_channels
        self.network: Any = AutoencoderKL(
            in_channels=shape[0],
            out_channels=shape[0],
            latent_channels=config.latent_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(width * 2**level for level in range(levels)),
            layers_per_block=1,
            norm_num_groups=8,
        )
        self.register_buffer("mean", torch.zeros(config.latent_channels, 1, 1))
        self.register_buffer("std", torch.ones(config.latent_channels, 1, 1))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """B C h w -> B c h' w', on the CPU."""
        parts = [self._means(part) for part in images.split(PART)]
        return (torch.cat(parts) - self.mean.cpu()) / self.std.cpu()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """B c h' w' -> B C h w, on the CPU."""
        parts = []
        for part in latents.split(PART):
            decoded = self.network.decode(part.to(self.mean.device) * self.std + self.mean).sample
            parts.append(((decoded + 1) / 2).clamp(0, 1).cpu())
        return torch.cat(parts)

    def fit_scale(self, images: Tensor) -> None:
        """Let latents of these images have mean 0 and variance 1 in each channel."""
        means = torch.cat([self._means(part) for part in images.split(PART)]).double()
        self.mean.copy_(means.mean((0, 2, 3)).view_as(self.mean))
        self.std.copy_(means.std((0, 2, 3)).clamp(min=1e-3).view_as(self.std))

    @torch.no_grad()
    def _means(self, images: Tensor) -> Tensor:
        means: Tensor = self.network.encode(images.to(self.mean.device) * 2 - 1).latent_dist.mode()
        return means.cpu()


def halves(shape: tuple[int, int, int]) -> int:
    """How often the autoencoder halves images of `shape`."""
    return int(shape[1] % 2 == 0 and shape[2] % 2 == 0)


def latent_shape(config: DPLDMConfig, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """c, h', w' for images of `shape`."""
    return config.latent_channels, shape[1] >> halves(shape), shape[2] >> halves(shape)


def train(
    config: DPLDMConfig,
    shape: tuple[int, int, int],
    images: Tensor,
    device: str,
    report: Report,
    checkpoint: Path | None,
) -> Autoencoder:
    """From public images B C h w in [0, 1] and their mirror images; torch's global generator makes weights and batches.
    On the device, in evaluation mode and frozen."""
    made = Autoencoder(config, shape).to(device)
    take = taker(images, device)
    settings = PretrainedConfig(
        pretrain_steps=config.autoencoder_steps,
        pretrain_batch=config.autoencoder_batch,
        pretrain_learning_rate=config.autoencoder_learning_rate,
    )

    def loss_of(index: Tensor, step: int) -> Tensor:
        shown = take(index) * 2 - 1
        shown = shown.flip(-1) if step % 2 else shown
        posterior = made.network.encode(shown).latent_dist
        divergence = posterior.kl().mean() / shown[0].numel()
        rebuilt = made.network.decode(posterior.sample()).sample
        return F.l1_loss(rebuilt, shown) + config.kl_weight * divergence

    pretrain(made, loss_of, len(images), settings, report, checkpoint, max_grad_norm=1.0)
    made.eval().requires_grad_(False)
    made.fit_scale(images)
    return made

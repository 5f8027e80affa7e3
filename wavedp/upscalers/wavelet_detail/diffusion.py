"""detail=diffusion: the missing bands are drawn from noise in a few steps, given the coarse image.

For each doubling the bands H, V, D, divided by their root mean square in the public images, are data y of a diffusion
of noise levels σ (Karras et al., arXiv 2206.00364, with σ_data = 1):

    D(x, σ) = x / (σ² + 1) + σ / √(σ² + 1) F(x / √(σ² + 1), ln(σ) / 4)        section 5, table 1
    loss    = mean |F - (y - x / (σ² + 1)) √(σ² + 1) / σ|²,  x = y + σ n      their λ(σ), by which F has unit targets

F is the U-Net, which sees the coarse image beside x. Sampling starts from noise of the largest σ and takes one
evaluation of F a step: the second-order multistep solver of the probability flow (DPM-Solver++(2M), arXiv 2211.01095,
algorithm 2, in σ). It is deterministic, so an image's noise decides everything.

Shapes: B images, C channels, h w of a coarse image.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from wavedp.upscalers.low_pass import keep_low_pass
from wavedp.upscalers.wavelet_detail.bodies import LEVELS, DetailUNet, joined
from wavedp.wavelets import coarse, decompose

# Noise levels of training are log-normal. The paper has (-1.2, 1.2) for σ_data = 0.5, which is -0.5 for 1; the wider
# spread is for bands whose values differ by two orders of magnitude between edges and flat parts.
MEAN, SPREAD = -0.6, 1.4
LARGEST, SMALLEST, CURVE = 10.0, 0.02, 7.0  # of sampling; CURVE is the paper's ρ


class DetailDiffusion(DetailUNet):
    """The U-Net with the root mean squares of the bands of the images that it was trained on, by doubling."""

    size: Tensor

    def __init__(self, channels: int, width: int, depth: int, halvings: int) -> None:
        super().__init__(channels, width, depth, halvings, noise=3 * channels, levels=True)
        self.register_buffer("size", torch.ones(LEVELS))

    def denoised(self, images: Tensor, noisy: Tensor, sigma: Tensor, doubling: int) -> Tensor:
        """D: B C h w, noisy bands B 3C h w, σ B -> bands B 3C h w."""
        at = sigma[:, None, None, None]
        return noisy / (at**2 + 1) + at / (at**2 + 1).sqrt() * self.raw(images, noisy, sigma, doubling)

    def raw(self, images: Tensor, noisy: Tensor, sigma: Tensor, doubling: int) -> Tensor:
        """F."""
        inside = noisy / (sigma**2 + 1).sqrt()[:, None, None, None]
        return self(images, inside, doubling, sigma.log() / 4).flatten(1, 2)

    def draw(self, images: Tensor, noise: list[Tensor], steps: int) -> Tensor:
        """B C h w -> B C h*2^n w*2^n in [0, 1], by `steps` evaluations for each of n doublings. noise: `noise_like`."""
        for place, planes in enumerate(noise):
            doubling = len(noise) - 1 - place
            bands = self._bands(images, planes, doubling, steps) * self.size[min(doubling, LEVELS - 1)]
            images = keep_low_pass(joined(images, bands.unflatten(1, (self.channels, 3))), images)
        return images

    def _bands(self, images: Tensor, noise: Tensor, doubling: int, steps: int) -> Tensor:
        sigmas, x = levels(steps), noise * LARGEST
        before = None
        for place, sigma in enumerate(sigmas):
            found = self.denoised(images, x, torch.full((len(x),), sigma, device=x.device), doubling)
            if place + 1 == steps:
                return found  # the last step goes to σ = 0
            after = sigmas[place + 1]
            ahead = found
            if before is not None:  # the line through the last two, half a step ahead, in ln σ
                ratio = log(sigma / after) / log(sigmas[place - 1] / sigma)
                ahead = found + (found - before) * ratio / 2
            x, before = x * (after / sigma) + ahead * (1 - after / sigma), found
        return x


def levels(steps: int) -> list[float]:
    """The noise levels σ of sampling, falling from LARGEST; equation 5 of the paper."""
    ends = (LARGEST ** (1 / CURVE), SMALLEST ** (1 / CURVE))
    return [(ends[0] + place / max(steps - 1, 1) * (ends[1] - ends[0])) ** CURVE for place in range(steps)]


def sizes(images: Tensor, trained: int) -> Tensor:
    """The root mean squares of the bands of the last doublings to images B C H W, LEVELS numbers; a doubling farther
    than `trained` has that of the farthest."""
    found = [bands_of(images, place).square().mean().sqrt().clamp(min=1e-4) for place in range(trained)]
    return torch.stack(found + found[-1:] * (LEVELS - trained))


def bands_of(images: Tensor, doubling: int) -> Tensor:
    """The bands B 3C h w that a coarse image of level doubling + 1 lacks for level `doubling`."""
    return decompose(coarse(images, doubling), 1).details[0].flatten(1, 2)


def loss(network: DetailDiffusion, full: Tensor, trained: int) -> Tensor:
    """The mean over doublings to images B C H W, each with noise levels of its own."""
    losses = []
    for doubling in range(trained):
        level = torch.randn(len(full), device=full.device)
        size = (full.shape[-2] >> doubling + 1, full.shape[-1] >> doubling + 1)
        noise = torch.randn(len(full), network.noise, *size, device=full.device)
        losses.append(errors(network, full, doubling, level, noise).mean())
    return torch.stack(losses).mean()


def errors(network: DetailDiffusion, full: Tensor, doubling: int, level: Tensor, noise: Tensor) -> Tensor:
    """Squared errors of a doubling to images B C H W: B 3C h w. level: B standard normal numbers, of which σ is made.
    noise: n, B 3C h w."""
    bands = bands_of(full, doubling) / network.size[doubling]
    sigma = (MEAN + SPREAD * level).exp()
    at = sigma[:, None, None, None]
    noisy = bands + at * noise
    target = (bands - noisy / (at**2 + 1)) * (at**2 + 1).sqrt() / at
    return (network.raw(coarse(full, doubling + 1), noisy, sigma, doubling) - target).square()

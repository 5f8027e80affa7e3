"""EDM: images with noise of deviation σ, a preconditioned denoiser, and the sampler that takes the noise off again.

Source: Karras, Aittala, Aila and Laine, *Elucidating the Design Space of Diffusion-Based Generative Models* (arXiv
2206.00364). Equation and algorithm numbers are theirs. Checked against diffusers' EDMEulerScheduler (preconditioning,
σ, churn) and HeunDiscreteScheduler (the second order).

Shapes: B images, C channels, H W pixels, S steps. Data are in about [-1, 1], with deviation σ_data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Preconditioning(NamedTuple):
    """Coefficients of D(x; σ) = skip x + out F(in x; noise), each of σ's shape (equation 7)."""

    skip: Tensor
    out: Tensor
    into: Tensor
    noise: Tensor


def preconditioning(sigma: Tensor, sigma_data: float) -> Preconditioning:
    """Those of Table 1, with which F has inputs and targets of variance 1 at every σ. sigma: > 0, any shape."""
    total = sigma.square() + sigma_data**2
    return Preconditioning(sigma_data**2 / total, sigma * sigma_data / total.sqrt(), 1 / total.sqrt(), sigma.log() / 4)


def target(data: Tensor, noise: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """What F should give: (data - skip (data + σ noise)) / out, in the form that loses no digits at small σ. noise: of
    deviation 1."""
    return (sigma / sigma_data * data - sigma_data * noise) / (sigma.square() + sigma_data**2).sqrt()


@dataclass(frozen=True)
class Churn:
    """Noise that a step adds before it takes noise off (Algorithm 2). amount: S_churn, of all steps together; low,
    high: S_tmin and S_tmax, of the σ that get any; noise: S_noise, the deviation of what is added."""

    amount: float = 0.0
    low: float = 0.0
    high: float = math.inf
    noise: float = 1.0

    def gamma(self, sigma: float, steps: int) -> float:
        """By how much of itself a step's σ grows, at most √2 - 1."""
        return min(self.amount / steps, math.sqrt(2) - 1) if self.low <= sigma <= self.high else 0.0


def sigmas(steps: int, low: float, high: float, rho: float) -> Tensor:
    """S + 1 deviations float64, from `high` down to `low`, and 0 (equation 5). One step: `high` and 0."""
    at = torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)
    ends = high ** (1 / rho), low ** (1 / rho)
    return torch.cat([(ends[0] + at * (ends[1] - ends[0])) ** rho, torch.zeros(1, dtype=torch.float64)])


def heun(
    denoise: Callable[[Tensor, float], Tensor],
    x: Tensor,
    levels: Tensor,
    churn: Churn,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Images B C H W float64 from x of deviation levels[0], by Algorithm 2: 2 S - 1 calls of the denoiser.

    denoise: (x B C H W float64, σ) -> its estimate of the data. levels: as `sigmas` gives them. generators: of each
    image's churn, on the CPU, so that batches and devices do not matter; it draws only where there is some.
    """
    x, steps = x.double(), len(levels) - 1
    for sigma, after in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
        gamma = churn.gamma(sigma, steps)
        raised = sigma * (1 + gamma)
        if gamma > 0:
            fresh = torch.stack([torch.randn(x.shape[1:], generator=generator) for generator in generators])
            x = x + math.sqrt(raised**2 - sigma**2) * churn.noise * fresh.to(x)
        slope = (x - denoise(x, raised)) / raised
        ahead = x + (after - raised) * slope
        if after > 0:
            slope = (slope + (ahead - denoise(ahead, after)) / after) / 2
            ahead = x + (after - raised) * slope
        x = ahead
    return x

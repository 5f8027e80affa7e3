"""DP-AdamBC: Adam with the variance of the privacy noise subtracted from its second moment.

    g  noisy mean gradient   s  standard deviation of its noise, σC/B   m̂ v̂  Adam's unbiased moments of g

DP noise adds s² to every coordinate of v̂. Where the gradient is small compared with the noise, √v̂ is about s in every
coordinate, and Adam becomes SGD with momentum and learning rate lr / s. s is public, so v̂ - s² is an unbiased estimate
of the second moment without noise:

    weight -= lr m̂ / √max(v̂ - s², γ)

Source: Tang, Shpilevskiy & Lécuyer, AAAI 2024, arXiv 2312.14334 (their γ' is γ). The choice γ = (floor s)² is ours:
the uncertainty of v̂ - s² is itself proportional to s², by √(2/t) at step t and 0.03 in the long run (β₂ = 0.999). An
absolute γ, as in the paper, would make a different optimiser for each epsilon, batch size and clipping norm; and with a
γ far below s², every coordinate without signal whose v̂ falls below s² (half of them) would take a very large step. With
ours, no coordinate moves more than √(1 + 1 / floor²) times as far as without the correction: 3.5 times at the default
of 0.3, whose γ = 0.09 s² is three standard deviations of v̂ - s² in the long run. The default follows from these
figures; no bench has tried it yet.

Privacy: post-processing of the noisy gradients and of public numbers.

    case                                 result
    s = 0 (epsilon = inf)                Adam, with √max(v̂, 1e-16) in place of √v̂ + 1e-8
    v̂ <= s² (1 + floor²)                 the floor: lr m̂ / (floor s)
    a parameter without gradient         unchanged, as in Adam
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

LEAST = 1e-8
"""The smallest divisor when there is no noise: Adam's own epsilon."""


class AdamBC(torch.optim.Optimizer):
    """See the module. noise_std: s >= 0. floor: smallest divisor in units of s, finite and > 0. betas: as in Adam.

    Its state (step, exp_avg, exp_avg_sq) holds tensors only, as checkpoints need.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        noise_std: float,
        floor: float = 0.3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__(parameters, {"lr": lr, "noise_std": noise_std, "floor": floor, "betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            least = max(group["floor"] * group["noise_std"], LEAST)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                beta1, beta2 = group["betas"]
                state["step"] += 1
                state["exp_avg"].lerp_(parameter.grad, 1 - beta1)
                state["exp_avg_sq"].mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
                done = int(state["step"])
                variance = corrected_second_moment(state["exp_avg_sq"], done, group["noise_std"], beta2)
                divisor = variance.clamp_(min=least**2).sqrt_()
                parameter.addcdiv_(state["exp_avg"], divisor, value=-group["lr"] / (1 - beta1**done))


def corrected_second_moment(exp_avg_sq: Tensor, step: int, noise_std: float, beta2: float) -> Tensor:
    """v̂ - s², an unbiased estimate of the second moment without noise, which can be negative. step: >= 1."""
    return exp_avg_sq / (1 - beta2**step) - noise_std**2

"""The audit of one step: the product's own clipping, sampling and noise around a canary with a Dirac gradient.

    N draws of the step with the canary, N without   D coordinates   C  max_grad_norm   q, σ  of the claim

The model is D weights w and the loss of a record x is w · x, so that its gradient is x. The canary's is long and lies
along coordinate 0, where `RecordGradients` must shorten it to C. Its one companion pulls the other way, less hard: a
clipping of the batch as a whole would let the canary turn it over, by 2 C or more. The clipped sum is a fixed vector,
so the draws are rows of one tensor: `noisy_mean` gives each row noise of its own, and `poisson_sample` chooses the rows
in which the canary takes part. (The companion is always in, and the attacker knows it.)

At q = 1 the score of a draw is N(1/σ, 1) with the canary and N(0, 1) without it, exactly what the Gaussian mechanism
allows, so that the bounds come near the claim. They must not exceed it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from wavedp.audit.bounds import Scores
from wavedp.privacy import training
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.clipping import GradSampleMode, RecordGradients
from wavedp.seeds import derive_seed

D, C = 8, 0.5
CANARY, COMPANION = 5e3, -50.0  # gradients along coordinate 0, before they are clipped


@dataclass(frozen=True)
class StepDraws:
    """scores: in units of the claimed noise. noise: the same of coordinates 1 to D - 1. drawn: in how many of the draws
    with the canary it took part. vote: |what it adds to the clipped sum| / C."""

    scores: Scores
    noise: np.ndarray
    drawn: int
    vote: float


def draw_steps(claim: Mechanism, draws: int, seed: int, mode: GradSampleMode = "hooks") -> StepDraws:
    """`draws` steps with the canary and as many without it. claim: of one step."""
    records = torch.tensor([[COMPANION], [CANARY]]) * torch.eye(D)[0]  # 2 D
    without, with_it = (_clipped_sum(part, mode) for part in (records[:1], records))
    noise = torch.Generator().manual_seed(derive_seed(seed, "audit", "step noise"))
    sampling = torch.Generator().manual_seed(derive_seed(seed, "audit", "step sampling"))
    rows = training.poisson_sample(draws, claim.sample_rate, sampling)
    part = torch.zeros(draws, 1)
    part[rows] = 1.0
    sums = torch.cat([without + part * (with_it - without), without.expand(draws, D)])  # 2N D
    (means,) = training.noisy_mean([sums], claim.noise_multiplier, C, 2, noise)
    units = (2 * means - without).double().numpy() / (claim.noise_multiplier * C)
    return StepDraws(
        Scores(units[:draws, 0], units[draws:, 0]),
        units[draws:, 1:].ravel(),  # of the draws without the canary
        len(rows),
        float((with_it - without).norm()) / C,
    )


def _clipped_sum(records: Tensor, mode: GradSampleMode) -> Tensor:
    """D: of the gradients of these records."""
    model = nn.Linear(D, 1, bias=False)
    gradients = RecordGradients(model, C, mode)
    try:
        (total,) = gradients.clipped_sum(lambda model, x: model(x).squeeze(1), [records])
    finally:
        gradients.close()
    return total.detach().flatten()

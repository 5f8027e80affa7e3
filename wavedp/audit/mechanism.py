"""The audit of one step: wavedp's own clipping, sampling and noise, on a canary whose gradient has one coordinate.

    N draws of the step with the canary, N without   D coordinates   C  max_grad_norm   q, σ  of the claim

The model has D weights w, and the loss of a record x is w · x, so its gradient is x. The canary's gradient is long and
lies along coordinate 0, where `RecordGradients` must shorten it to C. The canary has one companion with a shorter
gradient of opposite sign: if the batch were clipped as a whole, the canary would reverse the sum, a change of 2 C or
more. The clipped sum is a fixed vector, so the draws are rows of one tensor: `noisy_mean` gives each row its own noise,
and `poisson_sample` chooses the rows in which the canary takes part. (The companion takes part in all of them, and the
attacker knows it.)

At q = 1 the score of a draw is N(1/σ, 1) with the canary and N(0, 1) without it, exactly as the Gaussian mechanism
allows, so the bounds come near the claim. They must not exceed it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from wavedp.audit.bounds import Scores
from wavedp.full_precision import Precision
from wavedp.privacy import training
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.clipping import GradSampleMode, RecordGradients
from wavedp.seeds import derive_seed

D, C = 8, 0.5
CANARY, COMPANION = 5e3, -50.0  # gradients along coordinate 0, before clipping


@dataclass(frozen=True)
class StepDraws:
    """scores: in units of the claimed noise. noise: coordinates 1 to D - 1 in the same units. drawn: number of draws in
    which the canary took part, of those that may include it. vote: norm of the canary's addition to the clipped sum, in
    units of C."""

    scores: Scores
    noise: np.ndarray
    drawn: int
    vote: float


def draw_steps(
    claim: Mechanism,
    draws: int,
    seed: int,
    mode: GradSampleMode = "hooks",
    precision: Precision = "float32",
    device: str = "cpu",
) -> StepDraws:
    """Draw `draws` steps with the canary and as many without it. claim: the mechanism of one step. device: where the
    gradients are computed and clipped."""
    records = torch.tensor([[COMPANION], [CANARY]]) * torch.eye(D)[0]  # 2 D
    without, with_it = (_clipped_sum(part.to(device), mode, precision) for part in (records[:1], records))
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


def _clipped_sum(records: Tensor, mode: GradSampleMode, precision: Precision) -> Tensor:
    """The clipped sum of these records' gradients, D."""
    model = nn.Linear(D, 1, bias=False).to(records.device)
    gradients = RecordGradients(model, C, mode, precision=precision)
    try:
        (total,) = gradients.clipped_sum(lambda model, x: model(x).squeeze(1), [records], 2)
    finally:
        gradients.close()
    return total.detach().flatten().cpu()

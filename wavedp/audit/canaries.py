"""The audit in one run: a thousand canaries, each included by a fair coin, in a private fit of wavedp's own generator.

    m canaries, of which n are in   T steps   q, σ, C  of the fit   L tokens   D width

The model is `spectral_ar`'s transformer over scalar tokens, the loss its `record_loss`, the fit `fit_private`. A canary
is an image of random pixels with a class of its own, so that no other record's gradient reaches its row of the class
table. The attacker may choose the public weights, since the guarantee holds for any: all inputs of the transformer
except the class table are scaled down, so that nearly all of a canary's gradient lies in its row and hardly any in
weights that other canaries share. With plain SGD and a learning rate so small that gradients stay as they were at the
start, (w₀ - w_T) B / lr is the sum of all noisy gradient sums, so the audit needs no hook into the fit.

The score of a canary is the dot product of that sum's row with the direction of its gradient, divided by σ C √T. It is
N(0, 1) for an excluded canary, and larger by 0.99 √T / σ, nearly the most that the claim allows, for one included at
every step. The rows of excluded canaries hold noise only: D numbers each, from which the noise is measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from wavedp.audit.bounds import Scores
from wavedp.config import PrivacyConfig, configure
from wavedp.errors import UserError
from wavedp.full_precision import Precision
from wavedp.generators.conditions import ClassCondition
from wavedp.generators.spectral_ar.transformer import SpectralTransformer
from wavedp.generators.token_model import record_loss
from wavedp.privacy import accounting, training
from wavedp.privacy.accounting import Mechanism
from wavedp.progress import Report, silent
from wavedp.seeds import derive_seed
from wavedp.tokenizers.scalar.model import ScalarTokenizer

WIDTH, DEPTH, HEADS = 64, 1, 2
DIM = 0.01  # scale of the transformer's inputs, which puts 0.99 of a canary's gradient into its row
LEARNING_RATE = 1e-3  # moves no weight by more than about 1e-5
C = 1.0  # the gradients of canaries are some hundred times as long


@dataclass(frozen=True)
class CanaryFit:
    """scores: see the module. noise: m D, rows of the sum divided by σ C √T, NaN for included canaries. mechanism: the
    one that was run. epsilon: its cost at delta."""

    scores: Scores
    noise: np.ndarray
    mechanism: Mechanism
    epsilon: float
    n_records: int


def audited_fit(
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    delta: float,
    canaries: int,
    rate: float,
    steps: int,
    seed: int,
    coins: int,
    precision: Precision = "float32",
    device: str = "cpu",
    report: Report = silent,
) -> CanaryFit:
    """Fit images B C h w and the included canaries, and score all canaries.

    epsilon, delta, rate, steps: the claim, for which σ is calibrated. seed: of the fit. coins: seed that decides which
    canaries are included. Raises UserError for fewer than 20 canaries, and as `fit_private` does.
    """
    if canaries < 20:  # fewer might all be in
        raise UserError(f"canaries={canaries} give no bound: use 20 or more, 1000 for one that says something.")
    rng = np.random.default_rng(derive_seed(coins, "audit", "canaries"))
    included = rng.random(canaries) < 0.5
    pixels = torch.from_numpy(rng.random((canaries, *images.shape[1:]))).float()
    n_classes = int(labels.max()) + 1
    own = n_classes + torch.arange(canaries)
    inside = torch.from_numpy(included)
    records = torch.cat([images, pixels[inside]]), torch.cat([labels, own[inside]])

    tokenizer = ScalarTokenizer(configure("tokenizer", "scalar"), tuple(images.shape[1:]))  # type: ignore[arg-type]
    torch.manual_seed(derive_seed(0, "audit", "model"))
    condition = ClassCondition(n_classes + canaries, WIDTH)
    model, table = SpectralTransformer(tokenizer, condition, WIDTH, DEPTH, HEADS), condition.table.weight
    with torch.no_grad():
        for parameter in (table, model.position.weight, model.code.weight, *model.context.parameters()):
            parameter *= DIM
    n_records = len(records[0])
    config = PrivacyConfig(
        epsilon=epsilon,
        delta=delta,
        batch_size=max(1, round(rate * n_records)),
        steps=steps,
        max_grad_norm=C,
        optimizer="sgd",
        learning_rate=LEARNING_RATE,
        microbatch_size=256,
        grad_sample_mode="bookkeeping",
        precision=precision,
    )
    loss = record_loss(tokenizer, config, dropout=0.0)
    # No other canary's loss reaches a canary's row, so one backward pass finds all their gradients.
    (gradient,) = torch.autograd.grad(loss(model, pixels, own).sum(), [table])
    directions = nn.functional.normalize(gradient[n_classes:-1].double())  # m D
    before = table.detach().clone()
    planned = accounting.mechanisms(config, n_records)[-1]
    fit = training.fit_private(
        model,
        loss,
        records,
        config,
        noise_multiplier=planned.noise_multiplier,
        seed=seed,
        device=device,
        report=report,
    )
    total = (before - table.detach().cpu())[n_classes:-1].double() * (config.batch_size / LEARNING_RATE)  # m D
    unit = planned.noise_multiplier * C * math.sqrt(steps)
    units = (total / unit).numpy()
    scores = (units * directions.numpy()).sum(1)
    units[included] = np.nan
    spent = accounting.compose(fit.history, delta)
    return CanaryFit(Scores(scores[included], scores[~included]), units, fit.history[0], spent, n_records)

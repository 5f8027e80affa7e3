"""The private fit: DP-SGD, DP-Adam and DP-AdamBC with exact Poisson batches, resumable to the bit.

    N  records   B  expected batch (config.batch_size)   q  sample rate B / N   C  max_grad_norm   σ  noise multiplier

One step: every record joins the batch with probability q, independently; the clipped gradients of those that did are
summed, N(0, (σC)²) is added once, the sum is divided by B, and the optimiser moves.

Formal guarantee. The sequence of all weights, and with it the returned average and whatever is computed from it, is
(epsilon, delta)-differentially private under `add_or_remove_one`, for any delta in (0, 1) and what
`accounting.compose(fit.history, delta)` gives as epsilon. One record is one row of `records`. It assumes

* a secret seed: the noise is a function of it, so a study published with its seeds is a research artefact, not a
  deployment (torch's CPU generator keeps 32 bits of a seed and is not cryptographic). config.noise_source=secure draws
  sampling and noise from the system's own secrets instead (wavedp.privacy.randomness). A checkpoint holds the state of
  either, so keep it as secret as the records;
* real numbers: floating-point attacks on the low bits of the noise are not defended against;
* public hyperparameters, a public model to start from, a public N, and a loss of one record that no other record
  enters;
* that only the returned value leaves: wall-clock time, an error message and the training loss are outside. The loss
  on private records is a release that nobody accounted for, so it is neither returned, reported nor saved; `report`
  hears the step number.

Seeded noise belongs to a release. Sampling and noise are drawn from generators seeded with (seed, purpose, release),
where the release is the fingerprint of what is run: PRIVACY and RESULT fields, σ, N, the records, the first weights.
The same fit run again (after a crash, or from step 0 when its checkpoint is lost) draws the same noise for the same
gradients: the same release, not a second. Any other fit, such as the next epsilon of a sweep with the same seed, draws
noise of its own: shared noise would cancel between two releases and leave the gradient bare. `loss_fn` cannot be
fingerprinted, so derive the seed from whatever configures it. Nor are microbatch_size, mode and device, which change
gradients by rounding only: publish one of such twins.

    case                                 result
    nobody was drawn                     a step like any other: noise alone
    more drawn than B                    summed in microbatches, still divided by B
    epsilon = inf                        σ = 0, no clipping, same batches and optimiser; history says σ = 0
    σ too small for config.epsilon       UserError before the first step
    config.mean_share > 0                σ must leave room for the class means, which the fit itself does not release
    gradient not finite                  UserError before the weights move
    first step moves no weight           UserError (a model whose trained copy is not the one that runs)
    killed at any moment                 resumes from its checkpoint, on the CPU bit-equal to a whole run
    checkpoint of another fit            UserError naming the first field that differs
    checkpoint torn or corrupt           a warning, and step 0 again: the same release, as above (secure: another
                                         one, of which nothing was shown before)
    secure, and mean_share > 0           UserError: the class means would be drawn anew at every restart
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wavedp.config import PrivacyConfig, identity
from wavedp.errors import UserError
from wavedp.privacy import accounting
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.checkpoint import State, digest
from wavedp.privacy.clipping import LossFn, RecordGradients, noisy_mean, plain_sum, trainable
from wavedp.privacy.optimizers import AdamBC
from wavedp.privacy.randomness import Generator, SecureGenerator, uniform
from wavedp.seeds import derive_seed


@dataclass(frozen=True)
class PrivateFit:
    """What a fit may show. ema: averaged weights, a complete state dict on its device. history: what was spent.
    release: names the noise it was spent on, for the ledger: another id, another release."""

    ema: dict[str, Tensor]
    history: list[Mechanism]
    release: str


def fit_private(
    model: nn.Module,
    loss_fn: LossFn,
    records: tuple[Tensor, ...],
    config: PrivacyConfig,
    *,
    noise_multiplier: float,
    seed: int,
    draws: int = 0,
    checkpoint: Path | None = None,
    device: torch.device | str = "cpu",
    report: Callable[[int, int], None] | None = None,
) -> PrivateFit:
    """Train `model` on `records` for config.steps steps under differential privacy; see the module for the guarantee.

    model: moved to `device` and trained in place; it ends with the last weights, not the average.
    loss_fn: (model, *batch) -> Tensor[b], one loss per record. What it draws at random by itself (dropout) comes from
    torch's global generator, seeded per microbatch and put back: such a loss depends on microbatch_size and device.
    draws: how many uniform numbers in [0, 1) each record's loss gets anew at each step, as a last argument [b, draws]
    float32 (for diffusion's times and noises): they depend on neither.
    records: tensors with first dimension N, such as codes [N, L] int64 and labels [N]; on any device.
    noise_multiplier: that of accounting.mechanisms(config, N)[-1], 0 exactly when epsilon is inf.
    checkpoint: a file, replaced atomically every config.checkpoint_every steps and at the end; resumed from if present.
    report: called as report(step, steps) after each step.
    Raises UserError as the table above says, and for configs that accounting.check refuses.
    """
    device = torch.device(device)
    n_records = len(records[0])
    private = noise_multiplier > 0
    _require_budget(config, noise_multiplier, n_records)
    rate = accounting.sample_rate(config, n_records)
    model.to(device).train()
    parameters = list(trainable(model).values())
    optimizer = _optimizer(parameters, config, noise_multiplier)
    ema = {name: parameter.detach().clone() for name, parameter in _averaged(model)}
    identity_of_fit = fingerprint(model, records, config, noise_multiplier, seed)
    release = release_id(identity_of_fit)
    # Both on the CPU: a fit has the same batches and the same noise on every device.
    sampling, noise = _generators(config, seed, release)
    state = State(model, optimizer, ema, sampling, noise, identity_of_fit)
    first = state.load(checkpoint) if checkpoint is not None and checkpoint.exists() else 0

    gradients: RecordGradients | None = None
    if private:
        gradients = RecordGradients(model, config.max_grad_norm, config.grad_sample_mode, config.clipping)
    try:
        for step in range(first, config.steps):
            drawn = poisson_sample(n_records, rate, sampling)
            sums = [torch.zeros_like(parameter) for parameter in parameters]
            chance = torch.Generator().manual_seed(derive_seed(seed, "draws", release, step))
            for rows in drawn.split(config.microbatch_size) if len(drawn) else ():
                batch = [tensor[rows.to(tensor.device)].to(device) for tensor in records]
                if draws:
                    batch.append(torch.rand(len(rows), draws, generator=chance).to(device))
                with torch.random.fork_rng([device] if device.type == "cuda" else []):
                    torch.manual_seed(derive_seed(seed, "loss", release, step, int(rows[0])))
                    part = gradients.clipped_sum(loss_fn, batch) if gradients else plain_sum(model, loss_fn, batch)
                for total, term in zip(sums, part, strict=True):
                    total += term
            means = noisy_mean(sums, noise_multiplier, config.max_grad_norm, config.batch_size, noise)
            before = [parameter.detach().clone() for parameter in parameters] if step == 0 else []
            for parameter, mean in zip(parameters, means, strict=True):
                parameter.grad = mean
            optimizer.step()
            optimizer.zero_grad()
            if step == 0 and (private or len(drawn)):
                _require_movement(model, before)
            # The warm-up keeps the first weights from outliving the fit when there are few steps.
            decay = min(config.ema_decay, (1 + step) / (10 + step))
            for name, parameter in _averaged(model):
                ema[name].lerp_(parameter.detach(), 1 - decay)
            done = step + 1
            history = [Mechanism(rate, noise_multiplier, done)]
            saved = done % config.checkpoint_every == 0 or done == config.steps
            if checkpoint is not None and saved:
                state.save(checkpoint, done, history)
            try:
                if report is not None:
                    report(done, config.steps)
            except BaseException:  # Ctrl-C too
                if checkpoint is not None and not saved:
                    state.save(checkpoint, done, history)
                raise
    finally:
        if gradients:
            gradients.close()
    rest = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    if isinstance(noise, SecureGenerator):  # as the checkpoint left it
        release = release_id({"release": release, "noise": noise.name()})
    return PrivateFit({**rest, **ema}, [Mechanism(rate, noise_multiplier, config.steps)], release)


def poisson_sample(n_records: int, rate: float, generator: Generator) -> Tensor:
    """Rows of one Poisson batch, ascending int64 in 0..N-1: each record joins with probability `rate`, alone.

    Compared in double precision: a float32 uniform has a step of 2^-24, which a small rate would feel.
    """
    return (uniform(n_records, generator) < rate).nonzero().squeeze(1)


def fingerprint(
    model: nn.Module, records: tuple[Tensor, ...], config: PrivacyConfig, noise_multiplier: float, seed: int
) -> dict[str, Any]:
    """What makes two fits the same release, as JSON values: all that is run, but for loss_fn and PERFORMANCE fields."""
    parameters = trainable(model)
    return {
        **identity(config),
        "noise_multiplier": noise_multiplier,
        "seed": derive_seed(seed, "fingerprint"),
        "n_records": len(records[0]),
        "shapes": {name: list(parameter.shape) for name, parameter in parameters.items()},
        "records": digest((str(index), tensor) for index, tensor in enumerate(records)),
        "first weights": digest(model.state_dict().items()),
    }


def release_id(fingerprint: dict[str, Any]) -> str:
    """SHA-256 of a fingerprint: names the release in the seeds of its sampling and noise."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()


def _generators(config: PrivacyConfig, seed: int, release: str) -> tuple[Generator, Generator]:
    """Those of sampling and of noise."""
    if config.noise_source == "secure":
        return SecureGenerator(), SecureGenerator()
    return (
        torch.Generator().manual_seed(derive_seed(seed, "sampling", release)),
        torch.Generator().manual_seed(derive_seed(seed, "noise", release)),
    )


def _require_budget(config: PrivacyConfig, noise_multiplier: float, n_records: int) -> None:
    accounting.check(config, n_records)
    if (noise_multiplier == 0) != math.isinf(config.epsilon):
        raise UserError(
            f"noise_multiplier={noise_multiplier} does not go with epsilon={config.epsilon}: "
            f"0 and inf mean no privacy, and come together or not at all."
        )
    *before, planned = accounting.mechanisms(config, n_records)
    run = [*before, Mechanism(planned.sample_rate, noise_multiplier, planned.steps)]
    cost = accounting.compose(run, accounting.delta(config, n_records))
    if cost > config.epsilon:
        raise UserError(
            f"noise_multiplier={noise_multiplier} would spend epsilon={cost:.4g}, "
            f"more than privacy.epsilon={config.epsilon}: take the noise multiplier from accounting.mechanisms."
        )


def _optimizer(parameters: list[nn.Parameter], config: PrivacyConfig, noise_multiplier: float) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=config.learning_rate)
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=config.learning_rate)
    noise_std = noise_multiplier * config.max_grad_norm / config.batch_size
    return AdamBC(parameters, lr=config.learning_rate, noise_std=noise_std, floor=config.adam_floor)


def _require_movement(model: nn.Module, before: list[Tensor]) -> None:
    if all(torch.equal(old, new) for old, new in zip(before, trainable(model).values(), strict=True)):
        raise UserError(
            "The first step moved no trainable weight: raise learning_rate, "
            "and pass the model whose parameters its layers use."
        )


def _averaged(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Trainable parameters under every name they have in the state dict: a tied weight has two."""
    return [(name, item) for name, item in model.named_parameters(remove_duplicate=False) if item.requires_grad]

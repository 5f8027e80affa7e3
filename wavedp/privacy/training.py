"""The private fit: DP-SGD, DP-Adam and DP-AdamBC with exact Poisson batches, resumable to the bit.

    N  records   B  expected batch (config.batch_size)   q  sample rate B / N   C  max_grad_norm   σ  noise multiplier

One step: each record joins the batch independently with probability q; the clipped gradients of the batch are summed,
N(0, (σC)²) is added once, the sum is divided by B, and the optimiser takes a step.

Formal guarantee. The sequence of all weights, and so the returned average and anything computed from it, is
(epsilon, delta)-differentially private under `add_or_remove_one`, for any delta in (0, 1) and the epsilon that
`accounting.compose(fit.history, delta)` gives. One record is one row of `records`. This assumes

* a secret seed: the noise is a function of the seed, so a study published with its seeds is a research artefact, not a
  deployment (torch's CPU generator keeps 32 bits of a seed and is not cryptographic). config.noise_source=secure draws
  sampling and noise from the operating system's secrets instead (wavedp.privacy.randomness). A checkpoint holds the
  state of either generator, so keep it as secret as the records;
* real numbers: there is no defence against floating-point attacks on the low bits of the noise;
* public hyperparameters, public initial weights, a public N, and losses that each depend on one record only;
* that nothing but the returned value leaves: wall-clock time, error messages and the training loss are not covered. The
  loss on private records would be an unaccounted release, so it is never returned, reported or saved; `report` is told
  the step number only.

Seeded noise belongs to a release. Sampling and noise come from generators seeded with (seed, purpose, release), where
the release is the fingerprint of the run: PRIVACY and RESULT fields, σ, N, the records and the initial weights. Running
the same fit again (after a crash, or from step 0 if its checkpoint is lost) draws the same noise for the same
gradients, so it is the same release and not a second one. Any other fit, such as the next epsilon of a sweep with the
same seed, draws different noise: two releases with the same noise could be subtracted to recover the gradient.
`loss_fn` cannot be fingerprinted, so derive the seed from its configuration. microbatch_size, grad_sample_mode and
device are not in the fingerprint either, since they change gradients by rounding only: publish one such run, not two.

    case                                 result
    no record drawn                      an ordinary step, of noise only
    more than B records drawn            summed in microbatches, still divided by B
    out of memory                        smaller microbatches from there on (wavedp.privacy.microbatches)
    epsilon = inf                        σ = 0, no clipping, same batches and optimiser; the history states σ = 0
    σ too small for config.epsilon       UserError before the first step
    config.mean_share > 0                σ must leave budget for the class means, which this fit does not release itself
    alongside                            the same, for every mechanism in it
    gradient not finite                  UserError before the weights change
    a buffer that the images change      UserError (a running mean is released, and no noise covers it)
    first step moves no weight           UserError (the trained parameters are not the ones that the model uses)
    killed at any moment                 resumes from its last checkpoint; on the CPU, bit-equal to an unbroken run
    stopped by an exception of `report`  the same, from a checkpoint that is written before the exception goes on
    checkpoint of another fit            UserError naming the first field that differs
    records with captions                each step shows as many as config.views of a record's, in one loss and one
                                         clipped gradient; which ones its own uniform numbers say, as with draws
    checkpoint torn or corrupt           a warning, and a restart from step 0: the same release, as above (secure:
                                         another release; nothing of the first one was shown)
    secure, and mean_share > 0           UserError: the class means would be drawn again at every restart
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wavedp.captions import Captions
from wavedp.config import PrivacyConfig, identity
from wavedp.errors import UserError
from wavedp.privacy import accounting
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.checkpoint import State, digest
from wavedp.privacy.clipping import LossFn, RecordGradients, noisy_mean, plain_sum, trainable
from wavedp.privacy.microbatches import Microbatches, first_size
from wavedp.privacy.optimizers import AdamBC
from wavedp.privacy.randomness import Generator, SecureGenerator, uniform
from wavedp.privacy.rank_sums import Ranks
from wavedp.privacy.step_draws import Draws
from wavedp.privacy.telling import Telling
from wavedp.seeds import derive_seed


@dataclass(frozen=True)
class PrivateFit:
    """The output of a private fit. ema: averaged weights, a complete state dict on the fit's device. history: the
    mechanisms that were run. release: id of their noise, for the ledger; another id is another release."""

    ema: dict[str, Tensor]
    history: list[Mechanism]
    release: str


def fit_private(
    model: nn.Module,
    loss_fn: LossFn,
    records: tuple[Tensor | Captions, ...],
    config: PrivacyConfig,
    *,
    noise_multiplier: float,
    seed: int,
    alongside: tuple[Mechanism, ...] = (),
    draws: int = 0,
    checkpoint: Path | None = None,
    device: torch.device | str = "cpu",
    report: Callable[[int, int], None] | None = None,
    named_by: tuple[Tensor | Captions, ...] | None = None,
) -> PrivateFit:
    """Train `model` on `records` for config.steps steps under differential privacy; see the module for the guarantee.

    model: moved to `device` and trained in place; it ends with the last weights, not the average.
    loss_fn: (model, *batch) -> Tensor[b], one loss per record. Random numbers that it draws itself (dropout) come from
    torch's global generator, which is seeded for each microbatch and restored after it: such a loss depends on
    microbatch_size, memory and device.
    draws: number of uniform numbers in [0, 1) that each record's loss receives at each step, as a last argument
    [b, draws] float32 (for the times and noises of diffusion); they depend on neither.
    records: tensors with first dimension N, such as codes [N, L] int64 and labels [N]; on any device. At most one may
    be captions instead, of which loss_fn gets those that the step shows, [b, V, ...].
    noise_multiplier: that of accounting.mechanisms(config, N, alongside)[-1], 0 exactly when epsilon is inf.
    alongside: mechanisms beside this fit and the class means that config.epsilon pays for too.
    checkpoint: a file, replaced atomically every config.checkpoint_every steps and at the end; if present, the fit
    resumes from it.
    report: called as report(steps done, steps) after each step. It may raise any exception in order to stop the fit:
    the checkpoint of the steps done is written first.
    named_by: what the records were made of, record by record, and names the release in their place: with the same
    images, noise and release stay the same whatever codes their fit is given. None: the records.
    Raises UserError as the table above says, and for configs that accounting.check refuses.
    """
    device = torch.device(device)
    ranks = Ranks.here(device)
    n_records = len(records[0])
    private = noise_multiplier > 0
    _require_budget(config, noise_multiplier, n_records, alongside)
    rate = accounting.sample_rate(config, n_records)
    model.to(device).train()
    if ranks:
        ranks.begin_alike(model.state_dict().values())
    parameters = list(trainable(model).values())
    optimizer = _optimizer(parameters, config, noise_multiplier)
    ema = {name: parameter.detach().clone() for name, parameter in _averaged(model)}
    fixed = {name: tensor.clone() for name, tensor in model.state_dict().items() if name not in ema}
    identity_of_fit = fingerprint(model, named_by or records, config, noise_multiplier, seed)
    release = release_id(identity_of_fit)
    if ranks:
        ranks.require_same(release)
    # Both on the CPU, so that batches and noise are the same on every device.
    sampling, noise = generators(config, seed, release)
    state = State(model, optimizer, ema, sampling, noise, identity_of_fit)
    if ranks and not ranks.leads:
        checkpoint = None
    first = state.load(checkpoint) if checkpoint is not None and checkpoint.exists() else 0

    gradients: RecordGradients | None = None
    if private:
        gradients = RecordGradients(
            model, config.max_grad_norm, config.grad_sample_mode, config.clipping, config.precision
        )

    telling = Telling(records, draws, device)

    def clipped_sum(batch: list[Tensor]) -> list[Tensor]:
        batch = telling.batch(batch)
        if gradients is None:
            return plain_sum(model, loss_fn, batch, config.precision)
        return gradients.clipped_sum(loss_fn, batch, None if config.precision == "float32" else microbatches.size)

    def chance(step: int, drawn: int) -> Tensor | None:
        return _chance(drawn, telling.draws, derive_seed(seed, "draws", release, step)) if telling.draws else None

    size = first_size(config.microbatch_size, math.ceil(config.batch_size / (ranks.of if ranks else 1)), device)
    microbatches = Microbatches(clipped_sum, parameters, telling.records, size, device)

    def sum_of(step: int, rows: Tensor, chance: Tensor | None) -> list[Tensor]:
        return microbatches.sum(rows, chance, partial(derive_seed, seed, "loss", release, step))

    sample, noisy = partial(poisson_sample, n_records, rate), parameters if private else []
    steps = range(first, config.steps)
    averages, averaged = list(ema.values()), [parameter.detach() for _, parameter in _averaged(model)]
    with ExitStack() as stack:
        if gradients:
            stack.callback(gradients.close)
        if ranks and not ranks.leads:
            ranks.help(parameters, sum_of)
            steps = range(0)
        step_draws = stack.enter_context(Draws(sampling, noise, sample, chance, noisy, steps, device))
        for step in steps:
            drawn = step_draws.of(step)
            batch = step, drawn.rows, drawn.chance
            sums = ranks.sum(*batch, parameters, sum_of) if ranks else sum_of(*batch)
            means = noisy_mean(sums, noise_multiplier, config.max_grad_norm, config.batch_size, drawn.noise)
            before = [parameter.detach().clone() for parameter in parameters] if step == 0 else []
            for parameter, mean in zip(parameters, means, strict=True):
                parameter.grad = mean
            optimizer.step()
            optimizer.zero_grad()
            if step == 0 and (private or len(drawn.rows)):
                _require_movement(model, before)
                _require_fixed(model, fixed)
            # The warm-up keeps the initial weights from dominating the average when there are few steps.
            decay = min(config.ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(averages, averaged, 1 - decay)
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
        if ranks and ranks.leads:
            ranks.end()
    _require_fixed(model, fixed)
    rest = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    if isinstance(noise, SecureGenerator):  # its key may have come from a checkpoint
        release = release_id({"release": release, "noise": noise.name()})
    return PrivateFit({**rest, **ema}, [Mechanism(rate, noise_multiplier, config.steps)], release)


def poisson_sample(n_records: int, rate: float, generator: Generator) -> Tensor:
    """Rows of one Poisson batch, ascending int64 in 0..N-1: each record joins independently with probability `rate`.

    Uniforms are float64: in float32 their step of 2^-24 would distort a small rate.
    """
    return (uniform(n_records, generator) < rate).nonzero().squeeze(1)


def fingerprint(
    model: nn.Module, records: tuple[Tensor | Captions, ...], config: PrivacyConfig, noise_multiplier: float, seed: int
) -> dict[str, Any]:
    """The JSON values that make two fits one release: everything that is run except loss_fn and PERFORMANCE fields."""
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
    """SHA-256 of a fingerprint. It names the release in the seeds of its sampling and noise."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()


def _chance(records: int, draws: int, seed: int) -> Tensor:
    """float32 [records, draws] in [0, 1): row by row, so that the cut into microbatches changes nothing."""
    return torch.rand(records, draws, generator=torch.Generator().manual_seed(seed))


def generators(config: PrivacyConfig, seed: int, release: str) -> tuple[Generator, Generator]:
    """The generators of sampling and of noise of a release."""
    if config.noise_source == "secure":
        return SecureGenerator(), SecureGenerator()
    return (
        torch.Generator().manual_seed(derive_seed(seed, "sampling", release)),
        torch.Generator().manual_seed(derive_seed(seed, "noise", release)),
    )


def _require_budget(
    config: PrivacyConfig, noise_multiplier: float, n_records: int, alongside: tuple[Mechanism, ...]
) -> None:
    accounting.check(config, n_records)
    if (noise_multiplier == 0) != math.isinf(config.epsilon):
        raise UserError(
            f"noise_multiplier={noise_multiplier} does not go with epsilon={config.epsilon}: "
            f"0 and inf mean no privacy, and come together or not at all."
        )
    *before, planned = accounting.mechanisms(config, n_records, alongside)
    run = [*before, *alongside, Mechanism(planned.sample_rate, noise_multiplier, planned.steps)]
    cost = accounting.compose(run, accounting.delta(config, n_records))
    if cost > config.epsilon:
        raise UserError(
            f"noise_multiplier={noise_multiplier} would spend epsilon={cost:.4g}, "
            f"more than privacy.epsilon={config.epsilon}: take the noise multiplier from accounting.mechanisms."
        )


def _optimizer(parameters: list[nn.Parameter], config: PrivacyConfig, noise_multiplier: float) -> torch.optim.Optimizer:
    fused = True if parameters[0].device.type == "cuda" else None  # one kernel; on the CPU numbers stay what they were
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=config.learning_rate, fused=fused)
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=config.learning_rate, fused=fused)
    noise_std = noise_multiplier * config.max_grad_norm / config.batch_size
    return AdamBC(parameters, lr=config.learning_rate, noise_std=noise_std, floor=config.adam_floor)


def _require_movement(model: nn.Module, before: list[Tensor]) -> None:
    if all(torch.equal(old, new) for old, new in zip(before, trainable(model).values(), strict=True)):
        raise UserError(
            "The first step moved no trainable weight: raise learning_rate, "
            "and pass the model whose parameters its layers use."
        )


def _require_fixed(model: nn.Module, fixed: dict[str, Tensor]) -> None:
    """Raise UserError if an untrained entry of the state dict has changed: it is released as it is."""
    for name, tensor in model.state_dict().items():
        if name in fixed and not torch.equal(tensor, fixed[name]):
            raise UserError(
                f"Buffer {name!r} follows the records, and no noise covers it: use a layer without running statistics, "
                "such as GroupNorm in place of BatchNorm, or keep that layer in eval mode."
            )


def _averaged(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Trainable parameters under all their names in the state dict: a tied weight has two."""
    return [(name, item) for name, item in model.named_parameters(remove_duplicate=False) if item.requires_grad]

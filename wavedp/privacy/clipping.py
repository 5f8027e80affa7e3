"""Sums of per-record gradients clipped to norm C, and the Gaussian noise that hides any single record.

    b  records in a microbatch   P  trainable parameters   C  max_grad_norm   σ  noise multiplier   B  expected batch

A splitter separates gradients by record: Opacus computes them in full (`hooks`) or only their norms (`ghost`), and
wavedp.privacy.bookkeeping computes norms and sums in one backward pass. Clipping, noise and all refusals are in this
module, the same for every splitter.

Formal guarantee. Adding or removing one record changes a sum over microbatches of `RecordGradients.clipped_sum` by at
most C in L2 norm over all trainable parameters together (up to float32 rounding), provided that a record's loss
depends on no other record. `noisy_mean` of such a sum is then a Gaussian mechanism with noise multiplier σ. Its divisor
B is fixed, so its output does not depend on the number of records drawn.

Precision. With TF32 or bfloat16 the gradient of a record is that of rounded products: another vector of the same
record, which its clip bounds all the same, since norms and sums are taken of the rounded parts themselves, in float32
(wavedp.privacy.products). What the clip cannot absorb is rounding of a record that depends on the others. So every
microbatch is filled to one size (with copies of a record that weigh 0), for which a device takes the same kernels, and
a row of their products depends on that row alone; on a CPU a test holds that a record's gradient is the same to the
bit beside whatever records and in whichever row. float32 leaves such differences too, of 1e-7 of a gradient.

    case                                             result
    flat: gradient g with |g| <= C                   g (slightly shorter if |g| is within the guard of 1e-6 of C)
    flat: |g| > C                                    g C / (|g| + 1e-6), as in Opacus' DPOptimizer
    normalize: any g, short or long                  g C / (|g| + 0.01): shorter than C, 0 for g = 0 (Bu et al., 2022,
                                                     arXiv 2206.07136, automatic clipping with their 0.01)
    g not finite                                     UserError from `noisy_mean`, before any weight changes
    empty batch                                      the sum is zero, and noise is drawn as usual
    several forward passes per record (views)        one gradient, that of the record's one loss (ghost refuses)
    one loss for the whole batch                     UserError
    a layer fed without the record dimension         UserError: a broadcast position embedding would escape clipping
    a record's gradient, in its microbatch, is       UserError. Compared (wavedp.privacy.alone) for every record of the
    not what it is by itself                         first microbatch, and of each that is larger than all before it
                                                     until 64 records were, within 1 %
    autocast or TF32 around the call                 replaced by what `precision` says; norms and sums are float32
    precision below float32, and ghost               UserError: its second pass would round what the norms did not see
    several rows of a record at once (SideBySide)    one gradient (ghost refuses)
    an embedding with max_norm                       UserError: it renormalises its rows by the ids that it sees
    auto: every trained layer has a rule             bookkeeping, decided from the model before any forward pass
    auto: any other model                            hooks
    auto: bookkeeping refuses the first microbatch   hooks for the whole fit: no sum was returned before, and both find
                                                     the same gradients up to rounding, so the guarantee is the same.
                                                     UserError if hooks refuse too
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from wavedp.errors import UserError
from wavedp.full_precision import Precision, arithmetic, full_precision
from wavedp.privacy.alone import GlobalRandom, norms_alone
from wavedp.privacy.bookkeeping import Bookkeeping, obstacle
from wavedp.privacy.opacus_hooks import OpacusHooks
from wavedp.privacy.randomness import Generator, normal

LossFn = Callable[..., Tensor]
"""loss_fn(model, *batch) -> Tensor[b]: one loss per record."""


@dataclass(frozen=True)
class SideBySide:
    """A loss_fn that sends `copies` rows for each record through the model at once (views, noises of diffusion), a
    record's rows next to each other: rows i copies to (i + 1) copies - 1 are record i's."""

    loss: Callable[..., Tensor]
    copies: int

    def __call__(self, *arguments: Any) -> Tensor:
        return self.loss(*arguments)


log = logging.getLogger("wavedp.privacy")

Clipping = Literal["flat", "normalize"]
GradSampleMode = Literal["auto", "hooks", "ghost", "bookkeeping"]

NORMALIZE_GUARD = 0.01
"""Keeps a vanishing gradient from being scaled up to length C in a random direction."""

ROUNDING = 1e-4
"""How much of a record's whole gradient low-precision arithmetic may add to its part by one parameter."""


MOST_COMPARED = 64
"""Records of a microbatch that are compared with what they are alone. A model that mixes records shows it in each; on a
GPU, two thousand passes of one record take as long as a fit."""


class Splitter(Protocol):
    """Splits a gradient by record: one forward pass under `watching`, then `norms`, `sums` and `forget`."""

    def watching(self) -> AbstractContextManager[None]:
        """Record the calls of layers inside this context."""

    def astray(self, records: int, copies: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names of layers whose input lacked the record dimension, and the shape of that input."""

    def norms(self, losses: Tensor, copies: int) -> dict[str, Tensor]:
        """Norms of the records' gradients, b for each parameter; a parameter without gradient may be missing."""

    def sums(self, factors: Tensor) -> list[Tensor]:
        """Σ_i factors_i gradient_i for each parameter."""

    def forget(self) -> None:
        """Drop everything that was kept of the microbatch."""

    def close(self) -> None:
        """Remove all hooks and attributes from the model."""


class RecordGradients:
    """Clipped sums of the per-record gradients of a model's trainable parameters. Call `close` when done.

    model: every layer sees the record dimension first. mode: `hooks` keeps b gradients in memory; `ghost` keeps one and
    takes a second backward pass; `bookkeeping` keeps the inputs of layers (wavedp.privacy.bookkeeping) and is the
    fastest; `auto` takes bookkeeping if it can and hooks otherwise, and logs the choice and its reason. clipping: see
    the table above. precision: of the model's products. Raises UserError for a model whose gradients the mode cannot
    split.
    """

    def __init__(
        self,
        model: nn.Module,
        max_grad_norm: float,
        mode: GradSampleMode,
        clipping: Clipping = "flat",
        precision: Precision = "float32",
    ) -> None:
        if mode == "ghost" and precision != "float32":
            raise UserError(f"ghost takes a second backward pass, which {precision} rounds apart from the norms.")
        self.model, self.precision = model, precision
        self.max_grad_norm = max_grad_norm
        self.clipping = clipping
        self.parameters = trainable(model)
        self.compared = 0  # records of one microbatch that were compared with what they are alone, at most
        require_still_weights(model)
        self.undecided = False
        if mode == "auto":
            mode, reason = splitting_of(model)
            log.info("grad_sample_mode=auto takes %s: %s.", mode, reason)
            self.undecided = mode == "bookkeeping"  # until it has found a first sum
        self.splitter: Splitter
        if mode == "bookkeeping":
            self.splitter = Bookkeeping(model, self.parameters)
        else:
            self.splitter = OpacusHooks(model, self.parameters, ghost=mode == "ghost")

    def clipped_sum(self, loss_fn: LossFn, batch: Sequence[Tensor], size: int | None = None) -> list[Tensor]:
        """The sum of the clipped gradients of one microbatch, a tensor per trainable parameter.

        batch: tensors of common first dimension b >= 1. size: fill a smaller microbatch to this many records, which
        changes nothing but rounding (see Precision above). Raises UserError when a layer hides the record dimension,
        when a parameter gets no gradient, and when a record's gradient is not what it is alone.
        """
        with warnings.catch_warnings():
            # torch warns under Opacus of every first layer whose input is data; the hook needs no gradient of it.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            try:
                split = self._first_clipped_sum if self.undecided else self._clipped_sum
                total = split(loss_fn, batch, size)
            finally:
                self.splitter.forget()
        self.undecided = False
        return total

    def close(self) -> None:
        """Leave the model as it was."""
        self.splitter.close()

    def _first_clipped_sum(self, loss_fn: LossFn, batch: Sequence[Tensor], size: int | None) -> list[Tensor]:
        """The clipped sum by bookkeeping or, if that refuses, by hooks from now on. No sum was returned before."""
        random = GlobalRandom(batch)
        try:
            return self._clipped_sum(loss_fn, batch, size)
        except UserError as refusal:
            self.splitter.close()
            try:
                self.splitter = OpacusHooks(self.model, self.parameters, ghost=False)
                random.restore()  # the loss draws the same numbers again
                total = self._clipped_sum(loss_fn, batch, size)
            except Exception as error:
                self.splitter.close()
                self.splitter = Bookkeeping(self.model, self.parameters)
                raise refusal from error
            # Not the refusal's text: it states how many records were drawn.
            log.info(
                "grad_sample_mode=auto goes on with hooks: bookkeeping cannot split the first microbatch's gradient."
            )
            return total

    def _clipped_sum(self, loss_fn: LossFn, batch: Sequence[Tensor], size: int | None) -> list[Tensor]:
        records, device, random = len(batch[0]), batch[0].device, GlobalRandom(batch)
        compare, exact = min(records, MOST_COMPARED) > self.compared, self.precision == "float32"
        if compare and not exact:  # whether records mix shows in float32, without rounding
            with full_precision(device):
                self._compare(self._norms(loss_fn, batch), loss_fn, batch, random)
            self.splitter.forget()
            random.restore()
        with arithmetic(self.precision, device):
            norms = self._norms(loss_fn, filled(batch, size))  # P b
        with full_precision(device):
            if compare and exact:
                self._compare(norms[:, :records], loss_fn, batch, random)
            factors = clipping_factors(norms.norm(dim=0), self.max_grad_norm, self.clipping)
            factors[records:] = 0
            return self.splitter.sums(factors)

    def _norms(self, loss_fn: LossFn, batch: Sequence[Tensor]) -> Tensor:
        """Norms of the records' gradients by each parameter: P b."""
        copies = loss_fn.copies if isinstance(loss_fn, SideBySide) else 1
        with self.splitter.watching():
            losses = record_losses(loss_fn, self.model, batch)
        for name, shape in self.splitter.astray(len(losses), copies):
            raise UserError(
                f"Layer {name!r} was given a tensor of shape {shape} for {len(losses)} records, so its gradient "
                f"cannot be split by record: give it one row per record "
                f"(position ids: ids.expand(len(codes), -1).contiguous())."
            )
        found = self.splitter.norms(losses, copies)
        for name in self.parameters:
            if name not in found or found[name].shape != losses.shape:
                raise UserError(
                    f"Parameter {name!r} has no gradient for each of {len(losses)} records: call its layer through its "
                    f"forward method with 2 or 3 dimensions, use its output in the loss, or freeze it "
                    f"(requires_grad=False)."
                )
        return torch.stack([found[name] for name in self.parameters])

    def _compare(self, norms: Tensor, loss_fn: LossFn, batch: Sequence[Tensor], random: GlobalRandom) -> None:
        """Raise UserError unless records of the microbatch, with these norms (P b), are what they are alone."""
        losses_of, rows = partial(record_losses, loss_fn, self.model), compared_rows(len(batch[0]))
        alone = norms_alone(losses_of, self.model, list(self.parameters.values()), batch, rows, random)
        self._require_equal(norms[:, rows], alone)
        self.compared = len(rows)

    def _require_equal(self, norms: Tensor, alone: Tensor) -> None:
        """Raise UserError where a record's gradient by a parameter is 1 % longer or shorter than it is alone. P b."""
        wrong = (norms - alone).abs() > 0.01 * alone + ROUNDING * alone.norm(dim=0)
        for name, bad in zip(self.parameters, wrong.any(1).tolist(), strict=True):
            if bad:
                raise UserError(
                    f"A record's gradient by {name!r} is not what autograd finds for the record alone, so clipping "
                    f"would not bound it: let no operation mix records, and give each layer one row per record "
                    f"(position ids: [b, L], not [L])."
                )


def splitting_of(model: nn.Module) -> tuple[GradSampleMode, str]:
    """The mode that `auto` takes for `model`, decided without running it, and the reason as a clause."""
    reason = obstacle(model)
    return ("hooks", reason) if reason else ("bookkeeping", "every trained layer has a rule")


def filled(batch: Sequence[Tensor], size: int | None) -> list[Tensor]:
    """The microbatch with copies of its first record after it, up to `size` records."""
    missing = 0 if size is None else size - len(batch[0])
    if missing <= 0:
        return list(batch)
    return [torch.cat([tensor, tensor[:1].expand(missing, *tensor.shape[1:])]) for tensor in batch]


def compared_rows(records: int) -> list[int]:
    """The records of a microbatch that are compared with what they are alone: all, or MOST_COMPARED spread evenly."""
    return torch.linspace(0, records - 1, min(records, MOST_COMPARED)).long().tolist()


def clipping_factors(norms: Tensor, max_grad_norm: float, clipping: Clipping) -> Tensor:
    """The factor for each record's gradient that leaves none longer than C. norms: b, >= 0."""
    if clipping == "normalize":
        return max_grad_norm / (norms + NORMALIZE_GUARD)
    return (max_grad_norm / (norms + 1e-6)).clamp(max=1.0)


def noisy_mean(
    sums: Sequence[Tensor], noise_multiplier: float, max_grad_norm: float, batch_size: int, generator: Generator
) -> list[Tensor]:
    """(sums + N(0, (σC)²)) / B: the private mean gradient. σ = 0 draws nothing.

    sums: of clipped gradients over the whole logical batch. batch_size: the *expected* B, never the number drawn.
    generator: used for noise only; if it is on the CPU, the noise is the same whatever device the sums are on.
    Raises UserError when a sum is not finite.
    """
    if not torch.stack([total.isfinite().all() for total in sums]).all():
        raise UserError(
            "A gradient is not finite, and one more step would poison the weights: lower learning_rate, or look for "
            "images or token codes out of range."
        )
    if noise_multiplier == 0:
        return [total / batch_size for total in sums]
    std = noise_multiplier * max_grad_norm
    means = []
    for total in sums:
        noise = normal(total.shape, total.dtype, generator)
        means.append((total + std * noise.to(total.device)) / batch_size)
    return means


def plain_sum(
    model: nn.Module, loss_fn: LossFn, batch: Sequence[Tensor], precision: Precision | None = None
) -> list[Tensor]:
    """The sum of one microbatch's gradients by plain autograd: no clipping, no privacy (epsilon = inf). precision:
    None leaves it to the caller."""
    with arithmetic(precision, batch[0].device) if precision else nullcontext():
        losses = record_losses(loss_fn, model, batch)
        return list(
            torch.autograd.grad(
                losses.sum(), list(trainable(model).values()), materialize_grads=True, allow_unused=True
            )
        )


def record_losses(loss_fn: LossFn, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """`loss_fn(model, *batch)`, b losses. Raises UserError when the shape is not [b]."""
    losses = loss_fn(model, *batch)
    if losses.shape != (len(batch[0]),):
        raise UserError(
            f"loss_fn returned shape {tuple(losses.shape)} for {len(batch[0])} records: return one loss per record, "
            f"summed or averaged over its own tokens and views only."
        )
    return losses


def at_once(mode: GradSampleMode, device: str) -> bool:
    """True where a record's views and noises go through the model together: a GPU waits for launches more than for
    arithmetic. On a CPU one after the other keeps what was published, to the bit; ghost knows one row of a record."""
    return device == "cuda" and mode != "ghost"


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name. Raises UserError if there are none."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not parameters:
        raise UserError("The model has no trainable parameter: set requires_grad=True on what the fit should change.")
    return parameters


def require_still_weights(model: nn.Module) -> None:
    """Raise UserError for a layer whose forward pass changes its weights by what it is shown, without noise."""
    for name, layer in model.named_modules():
        if getattr(layer, "max_norm", None) is not None:
            raise UserError(
                f"Layer {name!r}, {layer}, renormalises the rows that the records look up, and no noise covers it: use "
                "max_norm=None."
            )

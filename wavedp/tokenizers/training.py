"""Public training of a learned tokenizer.

Shapes: B images, C channels, h w pixels, V codes.

    loss = 1.0 L2 + 0.25 commitment (+ 0.1 perceptual) (+ 0.1 adversarial)

L2 is the mean squared error of pixels after the inverse DWT. The published weights of the last two are 0.1 each
(arXiv 2412.09607); they are 0 by default, since both cost more than the rest together on a CPU. See `losses`.
With train_microbatch, the gradient of a batch is the sum over passes of some images each, and the codes follow after
all of them. A code that no token chose for `RESTART_EVERY` steps is moved onto a random encoder output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wavedp import resume
from wavedp.devices import fused, taker
from wavedp.errors import UserError
from wavedp.losses import Adversary, Perceptual
from wavedp.methods import Weights
from wavedp.progress import Report
from wavedp.seeds import derive_seed
from wavedp.tokenizers.codebook import Codebook, Quantised, health
from wavedp.tokenizers.learned import LearnedConfig
from wavedp.tokenizers.spectral.network import SpectralNetwork

RESTART_EVERY = 50
WARM_UP = 0.2  # share of the steps in which the learning rate rises


def fit(
    network: Callable[[], SpectralNetwork],
    images: Tensor,
    config: LearnedConfig,
    device: str,
    report: Report,
    checkpoint: Path | None = None,
) -> tuple[Weights, dict[str, Any]]:
    """Train on public images B C h w in [0, 1] and their mirror images; returns weights and what to say of them.

    network: makes the untrained one, from torch's generator as `fit` seeds it.

    The report has `psnr` in dB of the last 10 batches, and for each codebook `usage`, `perplexity` (over the last
    `RESTART_EVERY` steps) and `restarts`. Seeded by config.public_seed; goes on from `checkpoint` (wavedp.resume).
    Raises UserError without images.
    """
    if not len(images):
        raise UserError("the tokenizer is trained on public images and there are none: set public, or use scalar.")
    torch.manual_seed(derive_seed(config.public_seed, "tokenizer"))
    model = network().to(device).train()
    optimizer = torch.optim.Adam(
        model.parameters(), lr=config.train_learning_rate, betas=(0.9, 0.99), fused=fused(device)
    )
    # Warm-up and clipping: without them the first steps throw the network far off, and most of a short run is return.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.train_learning_rate, max(config.train_steps, 2), pct_start=WARM_UP, cycle_momentum=False
    )
    perceptual = Perceptual(device) if config.perceptual else None
    adversary = Adversary(images.shape[1], config.train_learning_rate, device) if config.adversarial else None
    tally, take = _Tally(model.books), taker(images, device)
    parts: dict[str, resume.Part] = {"model": model, "optimizer": optimizer, "schedule": schedule, "tally": tally}
    if adversary:
        parts["adversary"] = adversary
    for step in resume.steps(config.train_steps, report, checkpoint, **parts):
        batch = take(torch.randint(len(images), (config.train_batch,)))
        batch = batch.flip(-1) if step % 2 else batch
        shown = batch.split(config.train_microbatch or len(batch))
        if step == 0:
            for book, z in zip(model.books, _features(model, shown), strict=True):
                book.place(z)
        optimizer.zero_grad()
        passes = []
        for part in shown:
            done = one_pass(model, part, config)
            loss = done.loss
            if perceptual:
                loss = loss + config.perceptual * perceptual(done.rebuilt, part)
            if adversary:
                loss = loss + config.adversarial * adversary.generator_loss(done.rebuilt)
            (loss * (len(part) / len(batch))).backward()
            passes.append(done.kept())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if adversary:
            adversary.step(batch, torch.cat([done.rebuilt for done in passes]))
        error = torch.stack([done.error * (len(done.rebuilt) / len(batch)) for done in passes]).sum()
        tally.errors = [*tally.errors, error][-10:]  # read at the end: no wait at every step
        for i, (book, count) in enumerate(zip(model.books, tally.counts, strict=True)):
            book.follow([done.quantised[i] for done in passes])
            for done in passes:
                codes = done.quantised[i].codes.flatten()
                count.index_add_(0, codes, torch.ones_like(codes, dtype=count.dtype))
        # Not at the very end: a restarted code needs steps to find its place.
        if (step + 1) % RESTART_EVERY == 0 and step + 1 < 0.9 * config.train_steps:
            for i, (book, count, z) in enumerate(zip(model.books, tally.counts, _features(model, shown), strict=True)):
                tally.restarts[i] += book.restart_dead(count, z.flatten(0, 1))
        if (step + 1) % RESTART_EVERY == 0 and step + 1 < config.train_steps:
            tally.counts = [torch.zeros_like(count) for count in tally.counts]
    weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    last = sum(map(float, tally.errors)) / len(tally.errors)
    books = {
        name: {**health(count.cpu()), "size": len(count), "restarts": n}
        for name, count, n in zip(("approximation", "details"), tally.counts, tally.restarts, strict=False)
    }
    return weights, {"psnr": -10 * math.log10(last), "codebooks": books}


@dataclass(frozen=True)
class Pass:
    """What a pass over some images of a batch did. error: the mean squared error. loss: with commitment, without the
    perceptual and the adversarial part."""

    rebuilt: Tensor
    quantised: list[Quantised]
    error: Tensor
    loss: Tensor

    def kept(self) -> Pass:
        """Without what its backward pass needed."""
        quantised = [replace(part, vectors=part.given, commitment=part.commitment.detach()) for part in self.quantised]
        return Pass(self.rebuilt.detach(), quantised, self.error.detach(), self.loss.detach())


def one_pass(model: SpectralNetwork, images: Tensor, config: LearnedConfig) -> Pass:
    """Of B C h w in [0, 1]."""
    rebuilt, quantised = model(images)
    error = F.mse_loss(rebuilt, images)
    return Pass(rebuilt, quantised, error, error + config.commitment * sum(part.commitment for part in quantised))


@torch.no_grad()
def _features(model: SpectralNetwork, shown: Iterable[Tensor]) -> list[Tensor]:
    """What each codebook quantises, of all images together."""
    return [torch.cat(parts) for parts in zip(*(model.features(part) for part in shown), strict=True)]


class _Tally:
    """State of a training besides weights: errors of the last ten batches; for each codebook counts of its V codes,
    how often it was restarted, and the sums that its codes follow."""

    def __init__(self, books: Iterable[Codebook]) -> None:
        self.books = list(books)
        self.counts = [torch.zeros(len(book.codes), device=book.codes.device) for book in self.books]
        self.restarts, self.errors = [0] * len(self.books), list[Tensor]()

    def state_dict(self) -> dict[str, Any]:
        sums = [book.sums for book in self.books]
        return {"counts": self.counts, "restarts": self.restarts, "errors": self.errors, "sums": sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.restarts, self.errors = state["restarts"], state["errors"]
        for mine, counts in zip(self.counts, state["counts"], strict=True):
            mine.copy_(counts)
        for book, sums in zip(self.books, state["sums"], strict=True):
            book.sums = sums.to(book.sums.device)

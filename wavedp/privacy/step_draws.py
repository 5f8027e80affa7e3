"""All that is random in a step of a private fit, drawn on the CPU and, where that pays, while the step before computes.

    n  records drawn for the step   P  trainable parameters

Batches, the records' own draws and the noise come from generators on the CPU, so that a fit has the same numbers on
every device. At published sizes they take the CPU as long as the step takes a GPU. For a device that leaves the CPU
free, one thread therefore draws the next step's numbers meanwhile; torch lets go of Python's lock while it draws.

Formal guarantee. A step gets the numbers that it would get if they were drawn at its beginning: only the thread uses
the generators that it draws from, in the order of the steps, and every number is handed out once. The fit's own
generators are always as they are after the step that is in use, so a checkpoint never holds the state of a step drawn
ahead, and a fit that goes on from it draws that step again, the same.

    case                                    result
    on the CPU                              drawn at the beginning of the step, noise after its gradients
    no step after this one                  nothing is drawn ahead
    drawing fails                           the error is raised in the step whose numbers are missing
    the fit stops in the middle             what was drawn ahead is dropped; no noise was shown
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import cast

import torch
from torch import Tensor

from wavedp.privacy.randomness import Drawn, Generator, normal, twin

AHEAD = ("cuda",)
"""Types of devices that leave the CPU free."""


@dataclass(frozen=True)
class StepDraws:
    """rows: int64 [n] on the CPU. chance: float32 [n, draws], None where the records' losses draw nothing. noise: what
    `clipping.noisy_mean` draws from, once."""

    rows: Tensor
    chance: Tensor | None
    noise: Generator


class Draws:
    """The draws of the steps `first`, first + 1, ..., steps - 1, to be asked for in this order; a context manager.

    sampling, noise: the fit's generators. sample: the rows of a batch. chance: (step, n) -> the records' draws.
    noisy: the tensors that get noise, P or none.
    """

    def __init__(
        self,
        sampling: Generator,
        noise: Generator,
        sample: Callable[[Generator], Tensor],
        chance: Callable[[int, int], Tensor | None],
        noisy: Sequence[Tensor],
        steps: range,
        device: torch.device,
    ) -> None:
        self.sampling, self.noise, self.sample, self.chance, self.noisy = sampling, noise, sample, chance, noisy
        self.steps, self.device = steps, device
        self.thread: ThreadPoolExecutor | None = None
        self.next: Future[tuple[Tensor, Tensor | None, list[Tensor], Tensor, Tensor]] | None = None

    def __enter__(self) -> Draws:
        if self.device.type in AHEAD and self.steps:
            self.thread = ThreadPoolExecutor(1, "wavedp-draws")
            self.ahead = twin(self.sampling), twin(self.noise)
            self.next = self.thread.submit(self._draw, self.steps[0])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.thread:
            self.thread.shutdown(cancel_futures=True)

    def of(self, step: int) -> StepDraws:
        """The draws of a step. The fit's generators are then as after it, but for noise that it has yet to draw."""
        if self.thread is None or self.next is None:
            rows = self.sample(self.sampling)
            return StepDraws(rows, self.chance(step, len(rows)), self.noise)
        rows, chance, noise, sampled, noised = self.next.result()
        self.next = self.thread.submit(self._draw, step + 1) if step + 1 in self.steps else None
        self.sampling.set_state(sampled)
        self.noise.set_state(noised)
        there = [tensor.to(self.device, non_blocking=True) for tensor in noise]
        return StepDraws(rows, chance, cast("Generator", Drawn(there)))

    def _draw(self, step: int) -> tuple[Tensor, Tensor | None, list[Tensor], Tensor, Tensor]:
        """In the thread: the step's numbers, and the generators' states after them."""
        sampling, noise = self.ahead
        rows = self.sample(sampling)
        chance = self.chance(step, len(rows))
        numbers = [normal(tensor.shape, tensor.dtype, noise) for tensor in self.noisy]
        if self.device.type == "cuda":  # from pinned memory the copies need not be waited for
            rows, numbers = rows.pin_memory(), [tensor.pin_memory() for tensor in numbers]
            chance = None if chance is None else chance.pin_memory()
        return rows, chance, numbers, sampling.get_state(), noise.get_state()

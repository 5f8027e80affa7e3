"""Sums of clipped gradients over the records drawn for a step, as many records at a time as fit in memory.

    b  records in a microbatch   n  records drawn for the step   P  trainable parameters

A sum does not depend, beyond rounding, on how the drawn records are cut into microbatches, so the cut follows memory:
`privacy.microbatch_size` records at a time, and half as many from the moment that they do not fit. The record's own
random numbers (`draws` of wavedp.privacy.training) are made for the step before it is cut, and a loss that draws from
torch's global generator finds it seeded again for each attempt.

Formal guarantee. Each drawn record is in exactly one microbatch whose sum is added, and in it once: a microbatch that
ran out of memory has added nothing, and is cut again from its first record.

    case                                   result
    microbatch_size=auto on CUDA           starts with a whole batch, at most B + 3 √B records
    microbatch_size=auto on the CPU        64, which its caches like; its memory is rarely the limit
    out of memory                          one line in the log, half as many records from here on, in this fit
    out of memory with one record          UserError
    no record drawn                        zeros
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from wavedp.errors import UserError

log = logging.getLogger("wavedp.privacy")

ON_CPU = 64
"""Records of a microbatch that `auto` takes on the CPU, which is also the default of privacy.microbatch_size."""

ROOM = 4
"""The records move to the device once if they take at most one part in ROOM of its free memory."""


class Microbatches:
    """Sums over microbatches of `records`, in the memory of `device`.

    sum_of: the clipped sum of one microbatch, of P tensors; it may raise torch.OutOfMemoryError. records: tensors with
    first dimension N. size: most records of a microbatch, falls when memory does not suffice.
    """

    def __init__(
        self,
        sum_of: Callable[[list[Tensor]], Sequence[Tensor]],
        parameters: Sequence[nn.Parameter],
        records: Sequence[Tensor],
        size: int,
        device: torch.device,
    ) -> None:
        self.sum_of, self.parameters, self.size, self.device = sum_of, parameters, size, device
        self.records = placed(records, device)

    def sum(self, rows: Tensor, chance: Tensor | None, seed_of: Callable[[int], int]) -> list[Tensor]:
        """The sum over the records `rows`, int64 [n] on the CPU.

        chance: [n, draws], what each record's loss gets as its last argument. seed_of: the seed of torch's global
        generator for a microbatch, by its first row. Raises UserError if one record alone does not fit in memory.
        """
        sums = [torch.zeros_like(parameter) for parameter in self.parameters]
        places = {tensor.device: rows.to(tensor.device, non_blocking=True) for tensor in self.records}
        done = 0
        while done < len(rows):
            part = slice(done, done + self.size)
            batch = [tensor[places[tensor.device][part]].to(self.device) for tensor in self.records]
            if chance is not None:
                batch.append(chance[part].to(self.device, non_blocking=True))
            found = self._sum_or_none(batch, seed_of(int(rows[done])))
            if found is not None:
                torch._foreach_add_(sums, list(found))
                done += len(rows[part])
        return sums

    def _sum_or_none(self, batch: list[Tensor], seed: int) -> Sequence[Tensor] | None:
        """The sum of one microbatch; None, and a smaller size, if it did not fit."""
        try:
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                torch.manual_seed(seed)
                return self.sum_of(batch)
        except (torch.OutOfMemoryError, UserError) as error:
            if not ran_out(error):
                raise
            self._halve(error)
        if self.device.type == "cuda":  # after the except clause, whose traceback holds the microbatch's tensors
            torch.cuda.empty_cache()
        return None

    def _halve(self, error: Exception) -> None:
        if self.size == 1:
            raise UserError(
                f"The gradient of a single record does not fit in the memory of {self.device}: use "
                "privacy.grad_sample_mode=ghost, fewer privacy.views or diffusion.multiplicity, a smaller generator, "
                "or a device with more memory."
            ) from error
        self.size = math.ceil(self.size / 2)
        # Not how many records were drawn: that is private.
        log.warning("Out of memory on %s: microbatches of %d records from here on.", self.device, self.size)


def first_size(asked: int | Literal["auto"], batch_size: int, device: torch.device) -> int:
    """Records of a microbatch to start with. batch_size: the expected B; three standard deviations more are drawn once
    in 700 steps, and then in two microbatches. More room would cost every step that fills it (clipping.Precision)."""
    if asked != "auto":
        return asked
    return batch_size + math.ceil(3 * math.sqrt(batch_size)) if device.type == "cuda" else ON_CPU


def ran_out(error: BaseException | None) -> bool:
    """Whether memory ran out, or an error for which memory that ran out is the stated cause."""
    while error is not None and not isinstance(error, torch.OutOfMemoryError):
        error = error.__cause__
    return error is not None


def placed(records: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The records on the device if they leave most of its free memory alone, and otherwise where they are."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if ROOM * sum(tensor.nbytes for tensor in records) <= free:
            return [tensor.to(device) for tensor in records]
    return list(records)

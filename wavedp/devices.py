"""Where to compute, and how to keep an accelerator busy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from wavedp.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

RESIDENT = 4 * 2**30  # bytes: a larger set of records stays in the host's memory


def chosen_device(asked: str) -> str:
    """cpu or cuda. Raises UserError for a GPU that is not there."""
    import torch

    if asked not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={asked} is not a device: use auto, cpu or cuda.")
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise UserError("device=cuda and torch finds no CUDA GPU on this machine: use device=auto or device=cpu.")
    return "cuda" if asked != "cpu" and there else "cpu"


def fused(device: str) -> bool:
    """Whether an optimiser of torch updates all weights there in one kernel: `Adam(…, fused=fused(device))`. It is
    equal up to rounding to the form that a CPU keeps, since published weights came from that."""
    return device != "cpu"


def taker(records: Tensor, device: str) -> Callable[[Tensor], Tensor]:
    """take(rows int64 on the CPU) -> those records on the device, which gets all of them once if they are at most
    `RESIDENT` bytes. The host then waits for no batch: its few row numbers are copied beside the work."""
    if records.nbytes > RESIDENT:
        return lambda rows: records[rows].to(device)
    there = records.to(device)
    return lambda rows: there[rows.to(device, non_blocking=True)]

"""Resumable public training: a training that was stopped or killed continues from its checkpoint.

    for step in steps(total, report, checkpoint, model=model, optimizer=optimizer):
        …

Once a minute, between two steps, everything that determines the rest is written to one file: the named parts, torch's
random generators and the step; and once more when `report` raises an exception in order to stop the training. The same
loop with the same file continues there. On the same device with the same number of threads it ends bit-equal to an
unbroken run. Private fits keep their own, secret state (wavedp.privacy.checkpoint).
"""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from wavedp.finite import require_finite
from wavedp.progress import Report
from wavedp.store import write_atomically

EVERY = 60.0  # seconds between two checkpoints
LOOK_EVERY = 100  # steps


class Part(Protocol):
    """A module, an optimiser, a schedule, or whatever else a loop changes."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


def steps(total: int, report: Report, checkpoint: Path | None, **parts: Part) -> Iterator[int]:
    """Yield the numbers of the steps left, from the first after `checkpoint` to total - 1; report(done, total) follows
    each.

    A training that diverged is stopped: its modules are looked at every `LOOK_EVERY` steps, before a checkpoint, and at
    the end. Raises UserError if their weights are not finite.

    checkpoint: this training's own file, or None to keep nothing. A torn file, or one by code that trained other parts,
    counts as missing, with a warning. The parts are restored before the first number is yielded. If `report` raises,
    the checkpoint is written before the exception goes on. Raises RuntimeError or ValueError for the file of a model
    of other sizes.
    """
    first, saved = _load(checkpoint, parts) if checkpoint is not None and checkpoint.exists() else 0, time.monotonic()
    for step in range(first, total):
        yield step
        due = time.monotonic() - saved >= EVERY
        if due or (step + 1) % LOOK_EVERY == 0 or step + 1 == total:
            _require_finite(step + 1, parts)
        if checkpoint is not None and due:
            _save(checkpoint, step + 1, parts)
            saved = time.monotonic()
        try:
            report(step + 1, total)
        except BaseException:  # Ctrl-C too
            if checkpoint is not None and not due:
                _save(checkpoint, step + 1, parts)
            raise


def _require_finite(done: int, parts: dict[str, Part]) -> None:
    for part in parts.values():
        if isinstance(part, nn.Module):
            require_finite(
                part.state_dict(), f"after step {done} of a public training, its weights", "lower its learning rate"
            )


def _save(path: Path, done: int, parts: dict[str, Part]) -> None:
    buffer = io.BytesIO()
    random = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
    parts_now = {name: part.state_dict() for name, part in parts.items()}
    torch.save({"done": done, "random": random, "parts": parts_now}, buffer)
    write_atomically(path, buffer.getvalue())


def _load(path: Path, parts: dict[str, Part]) -> int:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # runs no code of the file's
        if state["parts"].keys() != parts.keys():
            raise ValueError("it holds " + ", ".join(state["parts"]) + ", of other code")
    except Exception as error:  # its type depends on where the file is damaged
        warnings.warn(f"Checkpoint {path} cannot be read ({error!s:.80}): starting again from step 0.", stacklevel=4)
        return 0
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    torch.set_rng_state(state["random"]["cpu"])
    if len(state["random"]["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["random"]["cuda"])
    return int(state["done"])

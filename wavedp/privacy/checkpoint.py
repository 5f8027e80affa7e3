"""The whole state of a fit in one file, replaced atomically: weights, optimiser, average, generators, step, history.

The file holds the state of the noise generator. Whoever reads it can subtract the noise, so keep it as secret as the
records: it is open to its owner alone, under a temporary name that nobody can guess until it is complete.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor, nn

from wavedp.captions import Captions
from wavedp.errors import UserError
from wavedp.files import PRIVATE, write_atomically
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.randomness import Generator

ROWS = 1024
"""Records whose captions are hashed at once."""


class State:
    """Everything that determines the rest of a fit, as one safetensors file with JSON in its header (no pickle)."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        ema: dict[str, Tensor],
        sampling: Generator,
        noise: Generator,
        fingerprint: dict[str, Any],
    ) -> None:
        self.model, self.optimizer, self.ema = model, optimizer, ema
        self.sampling, self.noise, self.fingerprint = sampling, noise, fingerprint

    def save(self, path: Path, step: int, history: list[Mechanism]) -> None:
        """Replace `path` atomically: its readers find the old state or the new one, always complete."""
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"ema/{name}": tensor for name, tensor in self.ema.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer/{index}/{key}": value for key, value in moments.items() if isinstance(value, Tensor)
            }
        tensors |= {"sampling": self.sampling.get_state(), "noise": self.noise.get_state()}
        header = {
            "fingerprint": self.fingerprint,
            "step": step,
            "history": [(item.sample_rate, item.noise_multiplier, item.steps) for item in history],
        }
        write(path, tensors, header)

    def load(self, path: Path) -> int:
        """Restore the state and return the number of steps done: 0, with a warning, if the file is torn or corrupt.

        Raises UserError for the checkpoint of another fit.
        """
        found = read(path, "step 0")
        if found is None:
            return 0
        tensors, header = found
        for field in {**self.fingerprint, **header["fingerprint"]}:
            was, value = header["fingerprint"].get(field), self.fingerprint.get(field)
            if was != value:
                raise UserError(
                    f"Checkpoint {path} belongs to another fit ({field} was {was!s:.80}, is {value!s:.80}): "
                    f"delete it or give another path."
                )
        self.model.load_state_dict(_part(tensors, "model/"))
        for name, tensor in _part(tensors, "ema/").items():
            self.ema[name].copy_(tensor)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _part(tensors, "optimizer/").items():
            index, key = name.split("/")
            moments.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.sampling.set_state(tensors["sampling"])
        self.noise.set_state(tensors["noise"])
        return int(header["step"])


def write(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Replace `path` atomically by tensors and a JSON header, for its owner alone: readers find the old file or the new
    one, always complete."""
    kept = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    content = json.dumps({**header, "sha256": digest(kept.items())})
    write_atomically(path, save(kept, {"wavedp": content}), PRIVATE)


def read(path: Path, begin: str = "the start") -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and the header that `write` left; None, with a warning, if the file is torn or corrupt. begin: where
    its reader starts again then."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            header = json.loads(file.metadata()["wavedp"])
        if header["sha256"] != digest(tensors.items()):
            raise ValueError("its checksum does not match")
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        warnings.warn(f"Checkpoint {path} cannot be read ({error}): starting again from {begin}.", stacklevel=4)
        return None
    return tensors, header


def digest(tensors: Iterable[tuple[str, Tensor | Captions]]) -> str:
    """SHA-256 over names, shapes, types and bytes, in the order of names; of captions, those of the tensor that they
    stand for, or where they are drawn of all that they are drawn from."""
    total = hashlib.sha256()
    for name, tensor in sorted(_parts(tensors), key=lambda item: item[0]):
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        for part in tensor.split(ROWS) if isinstance(tensor, Captions) else [tensor]:
            total.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _parts(tensors: Iterable[tuple[str, Tensor | Captions]]) -> Iterator[tuple[str, Tensor | Captions]]:
    for name, tensor in tensors:
        if isinstance(tensor, Captions) and tensor.drawn:
            yield f"{name} table", tensor.table
            yield f"{name} numbers", tensor.numbers
        else:
            yield name, tensor


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

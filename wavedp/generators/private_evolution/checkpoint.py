"""The state of an unfinished fit in one file, replaced atomically: records embedded, votes taken, population.

The embeddings are as secret as the records, so the file is open to its owner alone. No generator's state is in it: each
vote's noise has a generator of its own (model.py).
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import safetensors
from safetensors.torch import save
from torch import Tensor

from wavedp.errors import UserError
from wavedp.files import PRIVATE, write_atomically
from wavedp.privacy.checkpoint import digest


@dataclass
class Progress:
    """rounds: of embedding done. votes: taken. records: embeddings B D of those rounds; None where there are none.
    population: after those votes, K N C h w; None before the first."""

    rounds: int = 0
    votes: int = 0
    records: Tensor | None = None
    population: Tensor | None = None

    def save(self, path: Path, release: str) -> None:
        """Replace the file: its readers find the old state or the new one, always complete."""
        named = {"records": self.records, "population": self.population}
        tensors = {name: value.contiguous() for name, value in named.items() if value is not None}
        header = {"release": release, "rounds": self.rounds, "votes": self.votes, "sha256": digest(tensors.items())}
        write_atomically(path, save(tensors, {"wavedp": json.dumps(header)}), PRIVATE)

    @classmethod
    def load(cls, path: Path, release: str) -> Progress:
        """The state in the file; the first one if there is no file or, with a warning, if it is torn or corrupt.

        Raises UserError for the checkpoint of another fit.
        """
        if not path.exists():
            return cls()
        try:
            with safetensors.safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
                header = json.loads(file.metadata()["wavedp"])
            if header["sha256"] != digest(tensors.items()):
                raise ValueError("its checksum does not match")
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            warnings.warn(f"Checkpoint {path} cannot be read ({error}): starting again from the start.", stacklevel=3)
            return cls()
        if header["release"] != release:
            raise UserError(f"Checkpoint {path} belongs to another fit: delete it or give another path.")
        return cls(header["rounds"], header["votes"], tensors.get("records"), tensors.get("population"))

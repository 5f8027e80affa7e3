"""The state of an unfinished fit in one file, replaced atomically: records embedded, votes taken, population.

The embeddings are as secret as the records, so the file is open to its owner alone. No generator's state is in it: each
vote's noise has a generator of its own (model.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from wavedp.errors import UserError
from wavedp.privacy.checkpoint import read, write


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
        tensors = {name: value for name, value in named.items() if value is not None}
        write(path, tensors, {"release": release, "rounds": self.rounds, "votes": self.votes})

    @classmethod
    def load(cls, path: Path, release: str) -> Progress:
        """The state in the file; the first one if there is no file or, with a warning, if it is torn or corrupt.

        Raises UserError for the checkpoint of another fit.
        """
        if not path.exists():
            return cls()
        found = read(path)
        if found is None:
            return cls()
        tensors, header = found
        if header["release"] != release:
            raise UserError(f"Checkpoint {path} belongs to another fit: delete it or give another path.")
        return cls(header["rounds"], header["votes"], tensors.get("records"), tensors.get("population"))

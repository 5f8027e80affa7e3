"""Captions of records as conditions of a generator: each different sentence once, looked up when it is shown.

    N records   M most captions of a record   V views   U different sentences

The states of a set's captions may take more than memory (83,000 records with ten captions of 32 tokens: 20 GB), so they
stay in one table, which may lie in a file (wavedp.mapped), and a batch gets the rows that it shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Captions:
    """Stands for a tensor, N V ... or N ..., and gives rows of it: `captions[rows]`.

    table: U ..., what an encoder made of each sentence. numbers: N V or N int64 in 0..U-1, the rows that are shown.
    drawn: numbers are N M then, -1 after a record's last caption, and each step of a fit shows V = `views` captions of
    a record, drawn without replacement, and all of them before one repeats; without chances the first V are shown.
    """

    table: Tensor
    numbers: Tensor
    views: int = 1
    drawn: bool = False

    @property
    def draws(self) -> int:
        """Uniform numbers in [0, 1) that a record needs at each step."""
        return self.numbers.shape[1] if self.drawn else 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor that it stands for."""
        shown = (len(self.numbers), self.views) if self.drawn else self.numbers.shape
        return (*shown, *self.table.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """Of the tensor that it stands for."""
        return self.table.dtype

    @property
    def ndim(self) -> int:
        """Of the tensor that it stands for."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Of what is kept."""
        return self.table.nbytes + self.numbers.nbytes

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: Any) -> Tensor:
        return self.shown(self.numbers[rows])

    def one_each(self, records: Any = slice(None)) -> Captions:
        """The first caption of these records, without views: N ...."""
        return Captions(self.table, self.numbers[records][:, 0])

    def split(self, size: int) -> Iterator[Tensor]:
        """All of the tensor that it stands for, `size` records at a time."""
        return (self.shown(numbers) for numbers in self.numbers.split(size))

    def to(self, device: torch.device | str) -> Captions:
        """The same on a device."""
        return replace(self, table=self.table.to(device), numbers=self.numbers.to(device))

    def shown(self, numbers: Tensor, chances: Tensor | None = None) -> Tensor:
        """What records with these `numbers` show, on their device. chances: [b, draws] in [0, 1), of a step that draws.

        A record's choice depends on its own numbers and chances only."""
        if self.drawn:
            here = numbers >= 0
            order = None if chances is None else chances.masked_fill(~here, 2.0).argsort(dim=1, stable=True)  # b M
            places = torch.arange(self.views, device=numbers.device) % here.sum(1, keepdim=True)  # b V
            numbers = numbers.gather(1, places if order is None else order.gather(1, places))
        return self.table[numbers.to(self.table.device)].to(numbers.device)

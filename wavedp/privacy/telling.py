"""Captions among the records of a private fit: a batch holds their numbers until its loss is computed.

    b  records of a microbatch   V  captions shown   M  most captions of a record

What a record shows is decided by its own captions and its own uniform numbers, which are made for the step before it is
cut into microbatches (wavedp.privacy.training): by no other record, no cut and no earlier step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from wavedp.captions import Captions
from wavedp.privacy.microbatches import placed


class Telling:
    """records: the tensors to cut into microbatches, numbers in place of captions. draws: uniform numbers that each
    record needs at a step, the loss' own (`draws` given) before those that choose captions."""

    def __init__(self, records: Sequence[Tensor | Captions], draws: int, device: torch.device) -> None:
        self.records = [record.numbers if isinstance(record, Captions) else record for record in records]
        self.place, self.captions, self.own = 0, None, draws
        for place, record in enumerate(records):
            if isinstance(record, Captions):
                (table,) = placed([record.table], device)
                self.place, self.captions = place, replace(record, table=table)
        self.draws = draws + (self.captions.draws if self.captions else 0)

    def batch(self, batch: list[Tensor]) -> list[Tensor]:
        """The microbatch as the loss gets it: captions as b V ..., and only the loss' own draws."""
        if self.captions is None:
            return batch
        told, chances = list(batch), None
        if self.captions.drawn:
            chance = told.pop()
            chances = chance[:, self.own :]
            told += [chance[:, : self.own].contiguous()] if self.own else []
        told[self.place] = self.captions.shown(told[self.place], chances)
        return told

"""One fit over several processes: each sums the clipped gradients of its share of the records drawn for a step.

    n  records drawn for the step   R  processes ("ranks", one a GPU), of which rank 0 leads

Every rank builds the same model over the same records. At each step rank 0 draws the batch, sends the weights, the
drawn rows and the records' own draws to all, and gets back the sum of the ranks' sums; it alone adds noise, takes the
optimiser's step, keeps the average and writes checkpoints. The others draw nothing and keep no state, so a fit may go
on from its checkpoint with any number of ranks.

Formal guarantee. It is that of one process (wavedp.privacy.training), because the mechanism is the same:
* each drawn row is in the share of exactly one rank, so the sum over ranks is the sum over the batch, up to rounding in
  another order of additions: one record more or less changes it by at most C. (The shares by themselves have no such
  bound, since the cut between them moves with the batch; they never leave.)
* sampling is drawn once and noise is added once, to the total, both by rank 0 from the fit's generators;
* nothing but rank 0's weights leaves. The ranks trust each other, and exchange sums without noise: over GPU links, or
  on the loopback interface of one machine, between processes of one user that meet at a file only this user can open.

    case                                         result
    fewer records drawn than ranks               some shares are empty: their sum is zero
    a rank's memory runs out                     its microbatches get smaller, the others' do not
    a rank prepared other records or settings    UserError before the first step
    a rank is gone, or silent for too long       RankLost in those that wait for it (wavedp.privacy.ranks ends all)
    a fit outside of wavedp.privacy.ranks        one process, even where torch.distributed is in use for something else
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from wavedp.errors import UserError

ShareSum = Callable[[int, Tensor, Tensor | None], list[Tensor]]
"""(step, rows, chance) -> the clipped sum over these records, a tensor for each trainable parameter."""

END = -1
"""The step that rank 0 announces when there is none left."""

_place: tuple[int, int] | None = None


class RankLost(Exception):
    """Another process of the fit is gone or does not answer."""


@contextmanager
def joined(meeting: Path, number: int, of: int, device: str, patience: float) -> Iterator[None]:
    """Fits within this context are shared by the processes that join at the file `meeting` as 0 <= number < of.

    patience: seconds to wait for the others at a time. Raises RankLost if they do not come, or leave before the end.
    """
    global _place
    with _together():
        dist.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            init_method=meeting.as_uri(),
            rank=number,
            world_size=of,
            timeout=timedelta(seconds=patience),
        )
    _place = number, of
    try:
        yield
        with _together():  # whoever is done first waits, or its silence would be the others' error
            last = torch.zeros(1, device=device)
            dist.all_reduce(last)
            last.item()
    finally:
        _place = None
        dist.destroy_process_group()


class Ranks:
    """This process among those of its fit: 0 <= number < of. device: where the fit's tensors are exchanged."""

    def __init__(self, number: int, of: int, device: torch.device) -> None:
        self.number, self.of, self.device = number, of, device

    @classmethod
    def here(cls, device: torch.device) -> Ranks | None:
        """None where this process is all of its fit."""
        return None if _place is None else cls(*_place, device)

    @property
    def leads(self) -> bool:
        return self.number == 0

    def begin_alike(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank the tensors of rank 0: training before the fit may have been rounded otherwise."""
        for tensor in tensors:
            tensor.copy_(self._sent(tensor.detach().clone(memory_format=torch.contiguous_format)))

    def require_same(self, release: str) -> None:
        """Raise UserError unless this rank is about to run the fit that rank 0 runs."""
        own = torch.tensor(list(release.encode()), dtype=torch.uint8, device=self.device)
        if not torch.equal(self._sent(own.clone()), own):
            raise UserError(
                f"Process {self.number} of {self.of} prepared another fit than process 0, with other records or "
                "settings: let all see the same data."
            )

    def sum(
        self, step: int, rows: Tensor, chance: Tensor | None, parameters: Sequence[Tensor], share_sum: ShareSum
    ) -> list[Tensor]:
        """On rank 0: the clipped sum over `rows`, int64 [n] on the CPU, with chance [n, draws], by all ranks."""
        self._announce(step, len(rows), 0 if chance is None else chance.shape[1])
        self._sent(_flat(parameters))
        if len(rows):
            self._sent(rows.to(self.device))
            chance = None if chance is None else self._sent(chance.to(self.device))
        return self._total(step, rows, chance, share_sum)

    def help(self, parameters: Sequence[Tensor], share_sum: ShareSum) -> None:
        """On the other ranks: sum the shares of all steps that rank 0 announces, until its `end`."""
        while True:
            step, records, draws = self._sent(torch.zeros(3, dtype=torch.int64, device=self.device)).tolist()
            if step == END:
                return
            _fill(parameters, self._sent(_flat(parameters)))
            rows, chance = torch.empty(0, dtype=torch.int64), torch.empty(0, draws) if draws else None
            if records:
                rows = self._sent(torch.empty(records, dtype=torch.int64, device=self.device)).cpu()
                chance = self._sent(torch.empty(records, draws, device=self.device)) if draws else None
            self._total(step, rows, chance, share_sum)

    def end(self) -> None:
        """On rank 0: let the others go."""
        self._announce(END, 0, 0)

    def _announce(self, *header: int) -> None:
        self._sent(torch.tensor(header, device=self.device))

    def _total(self, step: int, rows: Tensor, chance: Tensor | None, share_sum: ShareSum) -> list[Tensor]:
        """The sum over all ranks, on rank 0; elsewhere of no meaning."""
        share = rows.tensor_split(self.of)[self.number]
        sums = share_sum(step, share, None if chance is None else chance.tensor_split(self.of)[self.number])
        total = _flat(sums)
        with _together():
            dist.reduce(total, dst=0)
        _fill(sums, total)
        return sums

    def _sent(self, tensor: Tensor) -> Tensor:
        """The tensor with rank 0's content."""
        with _together():
            dist.broadcast(tensor, src=0)
        return tensor


@contextmanager
def _together() -> Iterator[None]:
    """Around what needs the other ranks."""
    try:
        yield
    except RuntimeError as error:  # of either backend, whose own errors are RuntimeErrors
        raise RankLost(" ".join(str(error).split())) from error


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """All numbers in one tensor: one message instead of hundreds."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


@torch.no_grad()
def _fill(tensors: Sequence[Tensor], flat: Tensor) -> None:
    """Write what `_flat` made of such tensors into these."""
    for tensor, numbers in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(numbers.view(tensor.shape))

"""Noisy nearest-neighbour votes: the only place where private evolution looks at sensitive images.

    B records   K classes   N members of a class's population   D width of an embedding   σ noise multiplier   T votes

Every record votes for one member: the nearest, by L2 distance of embeddings, of the population of its own class. N(0,
σ²) is added to each of the K N counts, and what follows is post-processing: counts below a threshold are noise more
often than not, and the rest is lowered by it (Lin et al. 2023, arXiv 2305.15560, DP_NN_HISTOGRAM).

Sensitivity. The K N counts together are one vector. A record adds 1 to one of its entries, whatever the other records
are, so adding or removing a record changes the vector by exactly 1 in L2 norm. Which entry it is depends on the
members' embeddings, and these on earlier noisy votes, public images and random draws that no record has a part in: with
lookahead, too, a member is represented by one row.

Formal guarantee. T calls of `noisy` with noise of independent generators are T adaptively composed Gaussian mechanisms,
Mechanism(1, σ, T), under `add_or_remove_one`; one record is one row with its label. It assumes a secret seed, real
numbers, and public K, N, D and T, as the private fit does (privacy.training).

    case                                 result
    equally near members                 the first of them gets the vote
    a class without records              noise alone
    σ = 0 (epsilon = inf)                the exact counts; a threshold in units of σ is 0
    no count of a class above threshold  equal shares: the population is drawn from evenly
    an embedding that is not finite      UserError, and nothing is released
    a label outside 0..K-1               UserError, and nothing is released
"""

from __future__ import annotations

import torch
from torch import Tensor

from wavedp.errors import UserError
from wavedp.privacy.clipping import noisy_mean

SENSITIVITY = 1.0
"""The L2 norm of one record's votes; see the module."""

_ROWS = 8192
"""Records whose distances are computed at once, to bound memory."""


def exact(records: Tensor, labels: Tensor, members: Tensor, device: str = "cpu") -> Tensor:
    """Votes K N float64 without noise, on the CPU.

    records: embeddings B D float32. labels: B int64 in 0..K-1. members: embeddings K N D float32. device: where
    distances are computed. Raises UserError as the table above says.
    """
    n_classes, size, _ = members.shape
    if not ((labels >= 0) & (labels < n_classes)).all():
        raise UserError(f"A label is out of 0..{n_classes - 1}: a record votes in the population of its own class.")
    if not (records.isfinite().all() and members.isfinite().all()):
        raise UserError("An embedding is NaN or infinite, and it is near to nothing: look for damaged images.")
    votes = torch.zeros(n_classes, size, dtype=torch.float64)
    for k in range(n_classes):
        own, shown = (labels == k).nonzero().squeeze(1), members[k].to(device)
        for rows in own.split(_ROWS):
            chosen = nearest(records[rows].to(device), shown, 1).squeeze(1).cpu()  # one each
            votes[k] += torch.bincount(chosen, minlength=size)
    return votes


def noisy(votes: Tensor, noise_multiplier: float, generator: torch.Generator) -> Tensor:
    """The votes K N float64 with N(0, σ²) on each; noise_multiplier 0 draws nothing."""
    (released,) = noisy_mean([votes], noise_multiplier, SENSITIVITY, 1, generator)
    return released


def shares(released: Tensor, threshold: float) -> Tensor:
    """The probability K N float64 with which each member is drawn for the next population; rows add up to 1.

    released: noisy votes K N. threshold: >= 0, in votes.
    """
    kept = (released - threshold).clamp(min=0)
    empty = kept.sum(1, keepdim=True) <= 0
    kept = torch.where(empty, torch.ones_like(kept), kept)
    return kept / kept.sum(1, keepdim=True)


def nearest(points: Tensor, others: Tensor, count: int) -> Tensor:
    """The `count` nearest of `others` M D to each of `points` n D, by L2 distance, the nearest first: n count int64."""
    # |p - o|² less |p|², which is the same for all of a point's others.
    apart = torch.addmm(others.square().sum(1), points, others.T, alpha=-2)  # n M
    if count == 1:
        return apart.argmin(1, keepdim=True)
    return apart.topk(count, dim=1, largest=False).indices

"""Noisy votes for semantics: the only use of sensitive images before DP-SGD.

    B records   K classes   M semantics   D width of an embedding   k votes of a record   z noise multiplier

Every record votes for k of the M semantics: those whose centres its embedding is nearest to, by L2 distance. Votes are
counted by class, K M counts, and N(0, k z²) is added to each (PrivImage, arXiv 2311.12850).

Sensitivity. The K M counts together are one vector. A record adds 1 to exactly k of its entries, all different and all
in the row of its own class, so adding or removing it changes the vector by exactly √k in L2 norm. Which entries they
are depends on the record and on the public centres: distances are computed pair by pair, not by a matrix product, so
that they are the same to the bit beside whatever other records.

Formal guarantee. `noisy` of such counts is the Gaussian mechanism with noise multiplier z, Mechanism(1, z, 1), under
`add_or_remove_one`; one record is one row with its label. It assumes a secret seed, real numbers, an embedding of each
record by itself, and public centres, K and k, as the private fit does (privacy.training). What is made of the noisy
counts (`choose`, and all training on what was chosen) is post-processing.

    case                                  result
    equally near centres                  any of them, and still k different ones
    a class without records               noise alone
    z = 0 (epsilon = inf)                 the exact counts
    an embedding that is not finite       UserError, and nothing is released
    a label outside 0..K-1                UserError, and nothing is released
    fewer than k centres                  UserError, and nothing is released
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wavedp.errors import UserError
from wavedp.privacy.clipping import noisy_mean

_ROWS = 4096
"""Records whose distances are computed at once, to bound memory."""


def exact(records: Tensor, labels: Tensor, n_classes: int, centres: Tensor, votes: int, device: str = "cpu") -> Tensor:
    """Votes K M float64 without noise, on the CPU.

    records: embeddings B D float32. labels: B int64 in 0..K-1. centres: M D float32. votes: k, in 1..M. device: where
    distances are computed. Raises UserError as the table above says.
    """
    if not ((labels >= 0) & (labels < n_classes)).all():
        raise UserError(f"A label is out of 0..{n_classes - 1}: a record votes in the row of its own class.")
    if not (records.isfinite().all() and centres.isfinite().all()):
        raise UserError("An embedding is NaN or infinite, and it is near to nothing: look for damaged images.")
    if not 1 <= votes <= len(centres):
        raise UserError(f"{votes} different ones of {len(centres)} centres cannot be voted for: lower generator.votes.")
    counts, there = torch.zeros(n_classes, len(centres), dtype=torch.float64), centres.to(device)
    for rows in torch.arange(len(records)).split(_ROWS):
        apart = torch.cdist(records[rows].to(device), there, compute_mode="donot_use_mm_for_euclid_dist")  # b M
        chosen = apart.topk(votes, dim=1, largest=False).indices.cpu()
        ones = torch.ones(len(rows), votes, dtype=torch.float64)
        own = torch.zeros(len(rows), len(centres), dtype=torch.float64).scatter_(1, chosen, ones)
        counts.index_add_(0, labels[rows], own)
    return counts


def noisy(counts: Tensor, noise_multiplier: float, votes: int, generator: torch.Generator) -> Tensor:
    """The counts K M float64 with N(0, k z²) on each; noise_multiplier z = 0 draws nothing."""
    (released,) = noisy_mean([counts], noise_multiplier, sensitivity(votes), 1, generator)
    return released


def sensitivity(votes: int) -> float:
    """√k, what a record changes all counts together by, in L2 norm."""
    return math.sqrt(votes)


def choose(released: Tensor, per_class: int) -> Tensor:
    """The class that each of the M semantics goes to, M int64; -1: to none.

    released: noisy counts K M. per_class: what each class gets, at most M / K. The highest count takes first; a
    semantic goes to one class only.
    """
    n_classes, size = released.shape
    owner, left = torch.full((size,), -1), [per_class] * n_classes
    for place in released.flatten().argsort(descending=True, stable=True).tolist():
        label, semantic = divmod(place, size)
        if left[label] and owner[semantic] < 0:
            owner[semantic] = label
            left[label] -= 1
    return owner

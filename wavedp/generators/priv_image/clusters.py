"""Semantics of public images that have no classes to trust: k-means clusters of their embeddings.

    n images   D width of an embedding   M clusters

All of it is public: no sensitive image reaches this file.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wavedp.generators.private_evolution.votes import nearest

ROUNDS = 30
"""Most rounds of Lloyd's algorithm; k-means has come near its end by then."""
_ROWS = 4096
"""Images that are looked at at once, to bound memory."""


def clusters(embedded: Tensor, count: int, generator: torch.Generator, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Centres M D float32, and the cluster of each image, n int64 in 0..M-1, each of at least one image.

    Lloyd's algorithm from images drawn at random, so that there are more clusters where there are more images.
    embedded: n D float32. count: at most n; M is smaller where clusters end empty, as with equal images. device: where
    distances are computed.
    """
    centres = embedded[torch.randperm(len(embedded), generator=generator)[:count]].clone()
    labels = torch.full((len(embedded),), -1)
    for _ in range(ROUNDS):
        before, labels = labels, _nearest(embedded, centres, device)
        if torch.equal(labels, before):
            break
        centres = _means(embedded, labels, centres)
    used = labels.bincount(minlength=len(centres)) > 0
    return centres[used], (used.cumsum(0) - 1)[labels]


def _nearest(embedded: Tensor, centres: Tensor, device: str) -> Tensor:
    there = centres.to(device)
    return torch.cat([nearest(part.to(device), there, 1).squeeze(1).cpu() for part in embedded.split(_ROWS)])


def _means(embedded: Tensor, labels: Tensor, before: Tensor) -> Tensor:
    """The mean of each cluster; an empty one stays where it was."""
    sums, sizes = torch.zeros(before.shape, dtype=torch.float64), labels.bincount(minlength=len(before))
    for part, own in zip(embedded.split(_ROWS), labels.split(_ROWS), strict=True):
        sums.index_add_(0, own, part.double())
    means = (sums / sizes.clamp(min=1).unsqueeze(1)).float()
    return torch.where(sizes.unsqueeze(1) > 0, means, before)

"""Conditions of a generator: a class or a sentence.

Shapes: B records, D width, E width of a sentence embedding, K classes.

Each condition returns B 1 D, to be added at every token, and has a value that means "none", for guidance.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavedp.text import EMBEDDING_WIDTH


class ClassCondition(nn.Module):
    """Embedding of labels B int64 in 0..K-1; K means "none"."""

    def __init__(self, n_classes: int, width: int) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.table = nn.Embedding(n_classes + 1, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, labels: Tensor) -> Tensor:
        # Times √D to speed up learning: only B / K records per step move a class's row, too few for a short fit.
        return self.table(labels[:, None]) * self.table.embedding_dim**0.5

    def absent(self, labels: Tensor) -> Tensor:
        """Return "none" for each of the labels."""
        return torch.full_like(labels, self.n_classes)


class TextCondition(nn.Module):
    """Map of sentence embeddings B E of unit length (wavedp.text); zeros mean "none". Only their encoder is frozen."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(EMBEDDING_WIDTH, width)
        # A unit vector has coordinates of about 1/√E; this std makes outputs as large as ClassCondition's, times √D.
        nn.init.normal_(self.project.weight, std=0.02 * width**0.5)
        nn.init.zeros_(self.project.bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.project(embeddings[:, None])

    def absent(self, embeddings: Tensor) -> Tensor:
        """Return "none" for each of the embeddings."""
        return torch.zeros_like(embeddings)


Condition = ClassCondition | TextCondition


def drop(condition: Condition, conditions: Tensor, rate: float, chances: Tensor | None = None) -> Tensor:
    """Replace each condition by "none" if its chance is below the rate. chances: B in [0, 1); None draws them from
    torch's global generator."""
    if rate == 0:
        return conditions
    kept = (torch.rand(len(conditions)) if chances is None else chances).to(
        conditions.device, non_blocking=True
    ) >= rate
    return torch.where(kept.view(-1, *[1] * (conditions.ndim - 1)), conditions, condition.absent(conditions))


def forget_classes(weights: dict[str, Tensor], n_classes: int) -> dict[str, Tensor]:
    """Adapt a model's weights, with a ClassCondition named `condition`, to new classes: each starts at the mean row."""
    table = weights["condition.table.weight"]
    mean = table[:-1].mean(0, keepdim=True).repeat(n_classes, 1)
    return {**weights, "condition.table.weight": torch.cat([mean, table[-1:]])}


def keep_classes(weights: dict[str, Tensor], n_classes: int) -> dict[str, Tensor]:
    """Adapt a model's weights, with a ClassCondition named `condition`, to the first of its classes."""
    table = weights["condition.table.weight"]
    return {**weights, "condition.table.weight": torch.cat([table[:n_classes], table[-1:]])}

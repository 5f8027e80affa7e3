"""What a generator is conditioned on: a class, or a sentence.

Shapes: B records, D width, E width of a sentence embedding, K classes.

Each condition gives B 1 D, to be added at every token, and knows how to say "none", for guidance.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavedp.text import EMBEDDING_WIDTH


class ClassCondition(nn.Module):
    """Labels B int64 in 0..K-1; K is "none"."""

    def __init__(self, n_classes: int, width: int) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.table = nn.Embedding(n_classes + 1, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, labels: Tensor) -> Tensor:
        # Times √D: a class has B / K records a step to move its row, and a short fit is over before it has.
        return self.table(labels[:, None]) * self.table.embedding_dim**0.5

    def absent(self, labels: Tensor) -> Tensor:
        """As many times "none"."""
        return torch.full_like(labels, self.n_classes)


class TextCondition(nn.Module):
    """Sentence embeddings B E of unit length (wavedp.text); zeros are "none". Their encoder is frozen, not this map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(EMBEDDING_WIDTH, width)
        # A unit vector has coordinates of 1/√E: as large an input as a row of ClassCondition's table, times √D.
        nn.init.normal_(self.project.weight, std=0.02 * width**0.5)
        nn.init.zeros_(self.project.bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.project(embeddings[:, None])

    def absent(self, embeddings: Tensor) -> Tensor:
        """As many times "none"."""
        return torch.zeros_like(embeddings)


Condition = ClassCondition | TextCondition


def drop(condition: Condition, conditions: Tensor, rate: float, chances: Tensor | None = None) -> Tensor:
    """The conditions, each replaced by "none" where its chance, of B in [0, 1), is below the rate. None: chances come
    from torch's global generator."""
    if rate == 0:
        return conditions
    kept = (torch.rand(len(conditions)) if chances is None else chances).to(conditions.device) >= rate
    return torch.where(kept.view(-1, *[1] * (conditions.ndim - 1)), conditions, condition.absent(conditions))


def forget_classes(weights: dict[str, Tensor], n_classes: int) -> dict[str, Tensor]:
    """The weights of a model with a ClassCondition named `condition`, for other classes: each starts from the mean."""
    table = weights["condition.table.weight"]
    mean = table[:-1].mean(0, keepdim=True).repeat(n_classes, 1)
    return {**weights, "condition.table.weight": torch.cat([mean, table[-1:]])}

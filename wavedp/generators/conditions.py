"""Conditions of a generator: a class, a sentence, or the tokens of a sentence.

Shapes: B records, D width, E width of a sentence embedding or of a text token's state, K classes, P text tokens.

A class and a sentence are B 1 D, to be added at every token of an image; the tokens of a sentence are B P D, a prefix
of an image's. Each condition has a value that means "none", for guidance.
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


class TokenCondition(nn.Module):
    """Map of the states of a sentence's tokens, B P E+1 (wavedp.text.encode_tokens). Only their encoder is frozen.

    The last of the E+1 numbers says that a position is empty, so the last column of the map is a learned token that all
    empty positions show. A sentence that is empty throughout means "none". It is one linear layer, whose gradients
    every way of clipping can split by record.
    """

    def __init__(self, width: int, length: int, text_width: int = EMBEDDING_WIDTH) -> None:
        super().__init__()
        self.length = length
        self.project = nn.Linear(text_width + 1, width)
        nn.init.normal_(self.project.weight, std=0.02 * width**0.5)  # as TextCondition's, for states of unit length
        nn.init.zeros_(self.project.bias)

    def forward(self, states: Tensor) -> Tensor:
        return self.project(states.to(self.project.weight.dtype))

    def absent(self, states: Tensor) -> Tensor:
        """Return "none" for each of the sentences."""
        none = torch.zeros_like(states)
        none[..., -1] = 1
        return none


Condition = ClassCondition | TextCondition | TokenCondition


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

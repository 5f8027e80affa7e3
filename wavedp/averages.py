"""Moving averages of weights whose memory grows with the updates, so that a short training is not the average of its
beginning. torch.optim.swa_utils keeps them; this is the rule that it has not."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """The `avg_fn` of AveragedModel: (1 + n) / (10 + n) of the average after n updates, `decay` of it at most."""

    def mean(averaged: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
        return averaged.lerp(current, 1 - min(decay, (1 + int(updates)) / (10 + int(updates))))

    return mean

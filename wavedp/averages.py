"""Moving average of weights whose memory grows with the number of updates, so that the initial weights do not dominate
after a short training. This is an averaging rule that torch.optim.swa_utils, which keeps the average, does not have."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Return an `avg_fn` for AveragedModel: after n updates it keeps min(decay, (1 + n) / (10 + n)) of the average."""

    def mean(averaged: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
        return averaged.lerp(current, 1 - min(decay, (1 + int(updates)) / (10 + int(updates))))

    return mean

"""Moving average of weights whose memory grows with the number of updates, so that the initial weights do not dominate
after a short training. This is an averaging rule that torch.optim.swa_utils, which keeps the average, does not have."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(AveragedModel):
    """A copy of a model, in `module`, whose weights are averaged: after n updates it keeps
    min(decay, (1 + n) / (10 + n)) of the average. Buffers are copied.

    All weights are averaged in one call, and the count of updates stays on the CPU: AveragedModel has its `avg_fn` read
    it from the device for every tensor.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Let the weights of `model`, on the same device, enter the average."""
        averaged: list[Tensor] = list(self.module.parameters())
        current: list[Tensor] = list(model.parameters())
        updates = int(self.n_averaged)
        if updates:
            torch._foreach_lerp_(averaged, current, 1 - min(self.decay, (1 + updates) / (10 + updates)))
        else:
            torch._foreach_copy_(averaged, current)
        for kept, new in zip(self.module.buffers(), model.buffers(), strict=True):
            kept.copy_(new)
        self.n_averaged += 1

"""Loop of public pretraining, for any model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from wavedp import resume
from wavedp.devices import fused
from wavedp.generators.dp_sgd import PretrainedConfig
from wavedp.progress import Report


def pretrain(
    model: nn.Module,
    loss_of: Callable[[Tensor, int], Tensor],
    records: int,
    config: PretrainedConfig,
    report: Report,
    checkpoint: Path | None,
    max_grad_norm: float | None = None,
    at_once: int | None = None,
) -> dict[str, Tensor]:
    """Train with Adam and a cosine learning rate; returns the weights on the CPU. 0 steps return the initial weights.

    loss_of: (rows of the batch, int64 in 0..records - 1; step) -> scalar. Batches come from torch's global generator.
    max_grad_norm: norm to which gradients are clipped; None: no clipping. at_once: records a pass, over which the
    gradient of a batch is summed; None: all. checkpoint: see wavedp.resume.
    """
    steps = config.pretrain_steps
    device = next(model.parameters()).device.type
    optimizer = torch.optim.Adam(model.parameters(), lr=config.pretrain_learning_rate, fused=fused(device))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for step in resume.steps(steps, report, checkpoint, model=model, optimizer=optimizer, schedule=schedule):
        rows = torch.randint(records, (config.pretrain_batch,))
        optimizer.zero_grad()
        for part in rows.split(at_once or len(rows)):
            (loss_of(part, step) * (len(part) / len(rows))).backward()
        if max_grad_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        schedule.step()
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}

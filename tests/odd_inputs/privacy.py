"""Budgets, mechanisms and models at the edge of what can be accounted for or split by record."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from odd_inputs import Odd
from wavedp.privacy.accounting import Mechanism, calibrate, compose
from wavedp.privacy.clipping import RecordGradients
from wavedp.wavelets import decompose, reconstruct


def squared(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x).square().flatten(1).sum(1)


def split(model: nn.Module, x: torch.Tensor, mode: str = "auto") -> None:
    gradients = RecordGradients(model, 1.0, mode)  # type: ignore[arg-type]
    try:
        gradients.clipped_sum(squared, (x,))
    finally:
        gradients.close()


def no_noise_costs_everything(_: Path) -> None:
    assert compose([Mechanism(0.1, 0.0, 1)], 1e-5) == math.inf
    assert calibrate(math.inf, 1e-5, 1.0, 1) == 0.0


def odd_sides_come_back(_: Path) -> None:
    images = torch.rand(1, 1, 7, 5)
    back = reconstruct(decompose(images, 2, "db2", "periodization"), "db2", "periodization")[..., :7, :5]
    torch.testing.assert_close(back, images, atol=1e-5, rtol=0)


CASES = [
    Odd(
        "PRV of an epsilon of thousands",
        lambda _: compose([Mechanism(0.5, 0.1, 100)], 1e-5, "prv"),
        ("100 steps", "pld"),
    ),
    Odd("a delta of 1e-30", lambda _: compose([Mechanism(0.01, 1.0, 9)], 1e-30), ("delta=1e-30", "1e-14")),
    Odd("noise of 1e-200", lambda _: Mechanism(0.5, 1e-200, 1), ("noise_multiplier=1e-200", "0.001")),
    Odd("no noise at all", no_noise_costs_everything),
    Odd(
        "an LSTM in a private fit", lambda _: split(nn.Sequential(nn.LSTM(4, 3)), torch.rand(3, 2, 4)), ("'0'", "LSTM")
    ),
    Odd(
        "an embedding that renormalises its rows",
        lambda _: split(nn.Embedding(5, 3, max_norm=1.0), torch.zeros(3, 2, dtype=torch.long)),
        ("Embedding(5, 3, max_norm=1.0)", "max_norm=None"),
    ),
    Odd(
        "batch statistics beside a private layer",
        lambda _: split(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False)), torch.rand(3, 4)),
        ("one record by itself fails", "GroupNorm"),
    ),
    Odd("periodization of odd sides", odd_sides_come_back),
    Odd(
        "a wavelet mode by numpy's name", lambda _: decompose(torch.rand(1, 1, 8, 8), 1, mode="wrap"), ("mode='wrap'",)
    ),  # type: ignore[arg-type]
]

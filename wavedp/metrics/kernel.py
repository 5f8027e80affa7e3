"""Kernel Inception distance: squared maximum mean discrepancy with a cubic kernel (Bińkowski et al., ICLR 2018).

n1 n2 samples, D dimensions
"""

from __future__ import annotations

import torch


def kernel_distance_of(features1: torch.Tensor, features2: torch.Tensor) -> float:
    """Unbiased MMD² between features [n1 D] and [n2 D] under k(x, y) = (x·y / D + 1)³, in float64.

    All samples are used once: no random subsets, so the number is deterministic. It estimates 0 without bias when both
    sets come from one distribution, hence may be slightly negative. Papers often print it times 1000; this is not.
    """
    x, y = features1.double(), features2.double()
    return float(_mean_off_diagonal(_kernel(x, x)) + _mean_off_diagonal(_kernel(y, y)) - 2 * _kernel(x, y).mean())


def _kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3  # n1 n2


def _mean_off_diagonal(matrix: torch.Tensor) -> torch.Tensor:
    """Without the diagonal: a sample compared with itself would bias the mean."""
    n = len(matrix)
    return (matrix.sum() - matrix.trace()) / (n * (n - 1))

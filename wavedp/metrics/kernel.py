"""Kernel Inception distance: squared maximum mean discrepancy with a cubic kernel (Bińkowski et al., ICLR 2018).

Memory holds a kernel matrix up to 2 GiB, and rows of a larger one.

n1 n2 samples, D dimensions
"""

from __future__ import annotations

import torch

LARGEST = 2**28
"""Numbers of a kernel matrix in memory at a time: 16,384 samples against as many."""


def kernel_distance_of(features1: torch.Tensor, features2: torch.Tensor) -> float:
    """Unbiased MMD² between features [n1 D] and [n2 D] under k(x, y) = (x·y / D + 1)³, in float64.

    Uses all samples once, without random subsets, so it is deterministic. Since it is unbiased with expectation 0 when
    both sets come from one distribution, it may be slightly negative. Papers often report it times 1000; this is not.
    """
    x, y = features1.double(), features2.double()
    between = _total(x, y) / (len(x) * len(y))
    return float(_mean_off_diagonal(x) + _mean_off_diagonal(y) - 2 * between)


def kernel_distance_in_subsets(
    features1: torch.Tensor, features2: torch.Tensor, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float | None]:
    """Mean of `kernel_distance_of` over random subsets of `size` samples (all, if there are fewer), and standard error.

    The protocol of Bińkowski et al. and of clean-fid (100 subsets of 1,000). The error is that of the mean over subsets
    of these samples; with other samples the mean would vary more. Where every subset would be all of both sets, the
    mean is their distance, and there is no error (None).
    """
    order = torch.Generator().manual_seed(seed)
    size = min(size, len(features1), len(features2))
    if size == len(features1) == len(features2):
        return kernel_distance_of(features1, features2), None

    def subset(features: torch.Tensor) -> torch.Tensor:
        return features[torch.randperm(len(features), generator=order)[:size]]

    found = torch.tensor([kernel_distance_of(subset(features1), subset(features2)) for _ in range(subsets)])
    return float(found.mean()), float(found.std() / subsets**0.5)


def _kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3  # n1 n2


def _total(x: torch.Tensor, y: torch.Tensor, diagonal: bool = True) -> torch.Tensor:
    """The sum over all pairs, without the diagonal if asked."""
    rows = max(LARGEST // len(y), 1)
    total = x.new_zeros(())
    for start in range(0, len(x), rows):
        matrix = _kernel(x[start : start + rows], y)
        total = total + matrix.sum()
        if not diagonal:
            total = total - matrix[:, start : start + rows].trace()
    return total


def _mean_off_diagonal(x: torch.Tensor) -> torch.Tensor:
    """Mean without the diagonal, since comparing a sample with itself would bias it."""
    return _total(x, x, diagonal=False) / (len(x) * (len(x) - 1))

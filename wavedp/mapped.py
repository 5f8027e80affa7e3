"""Arrays that may be larger than memory, as tensors: the system keeps them in files, and in memory what fits."""

from __future__ import annotations

import os
import tempfile
import warnings
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wavedp.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

HELD = 2**27
"""Bytes of the largest tensor of `empty` that lies in memory."""


def as_tensor(array: np.ndarray) -> Tensor:
    """The same memory as a tensor. Write to it only where the array may be written to."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # torch knows no such tensors
        return torch.from_numpy(array)


def empty(
    shape: tuple[int, ...],
    folder: Path | None,
    dtype: torch.dtype | None = None,
    what: str = "images",
    remedy: str = "raise level",
) -> Tensor:
    """Zeros, float32 if no dtype is given. More than `HELD` bytes lie in a file without a name on the disk of `folder`
    (None: that of temporary files), which only this process can open, and which the system removes when the tensor is
    gone or the process has ended, however it did.

    Raises UserError where the disk has no room for it; what, remedy: words of its sentence.
    """
    import torch

    dtype = torch.float32 if dtype is None else dtype
    kind = torch.empty(0, dtype=dtype).numpy().dtype
    size = prod(shape) * kind.itemsize
    if size <= HELD:
        return torch.zeros(shape, dtype=dtype)
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)  # a disk that is full later would end the process
        except OSError as error:
            where = folder or tempfile.gettempdir()
            raise UserError(
                f"{shape[0]:,} {what} of {'×'.join(map(str, shape[1:]))} {kind} take {size / 1e9:.1f} GB, for which "
                f"{where} has no room ({error.strerror}): put the store on a larger disk, or {remedy}."
            ) from error
        return torch.from_numpy(np.asarray(np.memmap(file, kind, "r+", 0, shape)))

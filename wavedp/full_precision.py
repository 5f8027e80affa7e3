"""float32 that means float32: for what is inverted, quantised or bounded afterwards.

A convolution of float32 on CUDA rounds its inputs to 10 bits (TF32) unless told otherwise, and autocast to 7. A wavelet
coefficient near the edge of a bin then gets another code on CUDA than on a CPU, and another in a batch than alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Disable autocast, and TF32 in matrix products and convolutions."""
    backends: list[Any] = [torch.backends.cuda.matmul]
    name: str = "allow_tf32"
    exact: str | bool = False
    if hasattr(backends[0], "fp32_precision"):  # torch >= 2.9, where CPU matmul has this setting too
        cpu: Any = torch.backends.mkldnn
        backends, name, exact = [*backends, cpu.matmul], "fp32_precision", "ieee"
    before = [getattr(backend, name) for backend in backends]
    try:
        for backend in backends:
            setattr(backend, name, exact)
        with ExitStack() as stack:
            stack.enter_context(torch.autocast(device.type, enabled=False))
            if device.type == "cuda":
                cudnn: Any = torch.backends.cudnn
                kept = {"benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
                stack.enter_context(cudnn.flags(enabled=cudnn.enabled, allow_tf32=False, **kept))
            yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            setattr(backend, name, value)

"""float32 that means float32: for what is inverted, quantised or bounded afterwards. And less, where a trial asks.

A convolution of float32 on CUDA rounds its inputs to 10 bits (TF32) unless told otherwise, and autocast to 7. A wavelet
coefficient near the edge of a bin then gets another code on CUDA than on a CPU, and another in a batch than alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Literal

import torch

Precision = Literal["float32", "tf32", "bfloat16"]


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Disable autocast, and TF32 in matrix products and convolutions."""
    with _tf32(device, allowed=False), _autocast(device, enabled=False):
        yield


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """How models compute: in float32; in float32 whose products are rounded to TF32, which a CPU does not have; or by
    autocast to bfloat16, with float32 for what is outside products and convolutions."""
    low = precision == "bfloat16"
    with _tf32(device, allowed=precision == "tf32"), _autocast(device, enabled=low):
        yield


def _autocast(device: torch.device, enabled: bool) -> AbstractContextManager[None]:
    """To bfloat16; nothing on the device `meta` (wavedp.footprint), which has no numbers and which autocast refuses."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, torch.bfloat16, enabled=enabled)


@contextmanager
def _tf32(device: torch.device, allowed: bool) -> Iterator[None]:
    backends: list[tuple[Any, str, bool | str]] = [(torch.backends.cuda.matmul, "allow_tf32", allowed)]
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # torch >= 2.9, where CPU matmul has this setting too
        mkldnn: Any = torch.backends.mkldnn
        wanted = "tf32" if allowed else "ieee"
        backends = [(torch.backends.cuda.matmul, "fp32_precision", wanted), (mkldnn.matmul, "fp32_precision", "ieee")]
    before = [getattr(backend, name) for backend, name, _ in backends]
    try:
        for backend, name, value in backends:
            setattr(backend, name, value)
        with ExitStack() as stack:
            if device.type == "cuda":
                cudnn: Any = torch.backends.cudnn
                kept = {"benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
                stack.enter_context(cudnn.flags(enabled=cudnn.enabled, allow_tf32=allowed, **kept))
            yield
    finally:
        for (backend, name, _), value in zip(backends, before, strict=True):
            setattr(backend, name, value)

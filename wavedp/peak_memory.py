"""The most memory that a piece of work held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 2**20


@contextmanager
def peak_memory(device: str) -> Iterator[dict[str, int]]:
    """{"host": MiB, and "gpu": MiB where device is cuda}, filled when the work ends.

    host: the largest resident set of this process meanwhile, libraries included, as Linux counts it; left out where
    the kernel does not let a process begin its count anew, since the count from its start would be another work's.
    gpu: the largest sum of PyTorch's tensors there. Other processes of the same work are in neither.
    """
    found: dict[str, int] = {}
    counted = _begin_anew()
    if device == "cuda":
        import torch

        if torch.cuda.is_initialized():  # else nothing has been held there yet, and PyTorch refuses to count it anew
            torch.cuda.reset_peak_memory_stats()
    yield found
    if counted:
        found["host"] = _resident()
    if device == "cuda":
        found["gpu"] = round(torch.cuda.max_memory_allocated() / MIB)


def _begin_anew() -> bool:
    """Reset VmHWM (man 5 proc_pid_clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _resident() -> int:
    """VmHWM (man 5 proc_pid_status), in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kib = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return round(int(kib) * 1024 / MIB)

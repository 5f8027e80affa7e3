"""Where to compute."""

from __future__ import annotations

from wavedp.errors import UserError


def chosen_device(asked: str) -> str:
    """cpu or cuda. Raises UserError for a GPU that is not there."""
    import torch

    if asked not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={asked} is not a device: use auto, cpu or cuda.")
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise UserError("device=cuda and torch finds no CUDA GPU on this machine: use device=auto or device=cpu.")
    return "cuda" if asked != "cpu" and there else "cpu"

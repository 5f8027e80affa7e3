"""Weights in files of torch or safetensors, without running what a pickle says; and their keys held against a network.

torch.load(weights_only=True) builds tensors, plain containers, and argparse's Namespace, in which training scripts keep
their options; anything else is refused.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from wavedp.errors import UserError

WRAPPERS = ("model", "module", "state_dict")
"""Under which a file may keep its weights: torch's own habit, DeepSpeed's, Lightning's."""


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a file, under one of WRAPPERS or bare. Raises UserError for a file without, or with a pickle of
    other objects."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with torch.serialization.safe_globals([Namespace]):
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split()).split(". ")[0][:120].rstrip(".")
        raise UserError(
            f"{file} cannot be read ({type(error).__name__}: {reason}): give safetensors, or a file that "
            "torch.load(weights_only=True) reads."
        ) from error
    for name in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
            break
    tensors = {name: x for name, x in found.items() if isinstance(x, Tensor)} if isinstance(found, dict) else {}
    if not tensors:
        raise UserError(f"{file} holds no weights: give the file of a whole model.")
    return tensors


def fill(
    network: nn.Module, weights: dict[str, Tensor], file: Path, said: Callable[[str], str] = lambda name: name
) -> None:
    """Load weights into a network, float32. said: the file's name for one of the network's. Raises UserError that names
    the first key which is missing, is foreign, or has another shape."""
    wanted, found = network.state_dict(), weights
    for name in sorted(wanted.keys() - found.keys()):
        raise UserError(f"{file} has no weights {said(name)}: give a file of this model, or set its depth and width.")
    for name in sorted(found.keys() - wanted.keys()):
        raise UserError(
            f"{file} has weights {said(name)}, which this model has not: set the depth and width of the file's model."
        )
    for name, x in wanted.items():
        if (shape := found[name].shape) != x.shape:
            raise UserError(
                f"{file} has weights {said(name)} of shape {tuple(shape)}, and this model has {tuple(x.shape)}: set "
                "the sizes of the file's model."
            )
    network.load_state_dict({name: x.float() for name, x in found.items()})

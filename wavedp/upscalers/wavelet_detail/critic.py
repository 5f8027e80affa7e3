"""`detail_critic=relativistic`: a discriminator that compares a drawn image with the real one of the same coarse image.

    L_D = mean softplus(D(drawn) - D(real)) + γ/2 (R1 + R2),   L_G = mean softplus(D(real) - D(drawn))

D gives a number for each patch. R1 and R2 are squared gradients at real and at drawn images; with both the game
converges locally without spectral norms (Huang et al., "The GAN is dead", arXiv 2501.05441, equations 2 to 5). Here
the pair is one coarse image's, so D sees what is missing rather than which image it is.

Shapes: B images, C channels, H W pixels, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavedp.devices import fused

PENALTY = 0.02  # γ, for gradients by values in [0, 1] and patches


class Critic:
    """The discriminator of images beside their coarse images, and its training."""

    def __init__(self, channels: int, learning_rate: float, device: str, width: int) -> None:
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(0.2)]
        for inside in (width, 2 * width):
            layers += [
                nn.Conv2d(inside, inside, 3, padding=1), nn.LeakyReLU(0.2),
                nn.Conv2d(inside, 2 * inside, 3, stride=2, padding=1), nn.LeakyReLU(0.2),
            ]  # fmt: skip
        self.network = nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 3, padding=1)).to(device)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=learning_rate, betas=(0.0, 0.99), fused=fused(device)
        )

    def step(self, real: Tensor, drawn: Tensor) -> Tensor:
        """Train it for one step on pairs B C H W; returns its loss."""
        pairs = torch.cat([real, drawn]).detach().requires_grad_()
        found = self.network(pairs)
        of_real, of_drawn = found.chunk(2)
        (slope,) = torch.autograd.grad(found.sum(), pairs, create_graph=True)
        penalty = slope.square().sum() / of_real.numel()  # of both, a patch
        loss = F.softplus(of_drawn - of_real).mean() + PENALTY / 2 * penalty
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def generator_loss(self, real: Tensor, drawn: Tensor) -> Tensor:
        """Falls as drawn images look more real than the real ones. Only the drawn images get a gradient."""
        self.network.requires_grad_(False)
        with torch.no_grad():
            of_real = self.network(real)
        loss = F.softplus(of_real - self.network(drawn)).mean()
        self.network.requires_grad_(True)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The state of the network and its optimiser."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])

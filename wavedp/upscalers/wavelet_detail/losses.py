"""Losses of the network that draws detail, by `upscaler.detail`:

    adversarial  close to the truth in pixels and to an ImageNet network, and taken for real by a discriminator that
                 also sees the coarse image: sharp; the network has noise only if `detail_noise` says so
    regression   least absolute error: the median image, blurred where the coarse image leaves the detail open
    sampled      least energy score of patches: one sample of the images that the coarse image allows
    diffusion    least squared error of denoised bands: another such sample, drawn in a few steps (diffusion.py)

`learners` are the parts that a loss trains beside the network.

Shapes: B images, C channels, H W pixels, h w of a coarse image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from wavedp.losses import Adversary, Perceptual
from wavedp.resume import Part
from wavedp.upscalers.wavelet_detail import WaveletDetailConfig, diffusion
from wavedp.upscalers.wavelet_detail.bodies import trained_levels
from wavedp.upscalers.wavelet_detail.critic import Critic
from wavedp.wavelets import spread

if TYPE_CHECKING:
    from wavedp.upscalers.wavelet_detail.bodies import DetailNetwork, DetailUNet

PATCHES = (1, 2, 4, 8)  # sides in pixels
JOINS = 0.4  # share of the training after which the discriminator joins: first images are blurred, and teach it nothing
ADVERSARY_LEARNING_RATE = 4e-4


class Adversarial:
    """Pixels + detail_perceptual × perceptual distance - detail_adversarial × D(X, coarse image); pixels: |X - y|, or
    by detail_pixels the energy score of two samples. D learns beside the network, after the first 40 % of the training:
    by the hinge loss the discriminator of the tokenizer's training, or that of critic.py.

    Raises UserError if there is a perceptual weight and the packages of its network are not installed.
    """

    def __init__(self, config: WaveletDetailConfig, channels: int, device: str) -> None:
        self.config = config
        size = (2 * channels, ADVERSARY_LEARNING_RATE, device, config.detail_critic_width)
        self.adversary = Critic(*size) if config.detail_critic == "relativistic" else Adversary(*size)
        self.perceptual = perceptual(config, device)
        self.learners: dict[str, Part] = {"adversary": self.adversary}

    def __call__(
        self, network: DetailNetwork | DetailUNet, small: Tensor, full: Tensor, level: int, share: float
    ) -> Tensor:
        """share: of the training that is over, in [0, 1)."""
        if self.config.detail_pixels == "energy":
            small, full = (images.repeat(2, 1, 1, 1) for images in (small, full))
        drawn = network.enlarge(small, network.noise_like(small, level))
        if self.config.detail_pixels == "energy":
            first, second = drawn.chunk(2)
            loss = energy_score(first, second, full.chunk(2)[0])
        else:
            loss = (drawn - full).abs().mean()
        shown = drawn.clamp(0, 1)
        if self.perceptual is not None:
            loss = loss + self.config.detail_perceptual * self.perceptual(shown, full)
        if share >= JOINS:
            beside = spread(small, 2**level)
            loss = loss + self.config.detail_adversarial * self._against(
                torch.cat([full, beside], 1), torch.cat([shown, beside], 1)
            )
        return loss

    def _against(self, real: Tensor, drawn: Tensor) -> Tensor:
        """The discriminator's own step, and what it then says to the network."""
        if isinstance(self.adversary, Critic):
            self.adversary.step(real, drawn)
            return self.adversary.generator_loss(real, drawn)
        self.adversary.step(real, drawn.detach())
        return self.adversary.generator_loss(drawn)


class Regression:
    """|X - y|."""

    learners: ClassVar[dict[str, Part]] = {}

    def __call__(
        self, network: DetailNetwork | DetailUNet, small: Tensor, full: Tensor, level: int, share: float
    ) -> Tensor:
        return (network.enlarge(small, network.noise_like(small, level)) - full).abs().mean()


class Denoising:
    """The loss of wavedp.upscalers.wavelet_detail.diffusion, of all doublings at once."""

    learners: ClassVar[dict[str, Part]] = {}

    def __init__(self, trained: int) -> None:
        self.trained = trained

    def __call__(
        self, network: DetailNetwork | DetailUNet, small: Tensor, full: Tensor, level: int, share: float
    ) -> Tensor:
        assert isinstance(network, diffusion.DetailDiffusion)
        return diffusion.loss(network, full, self.trained)


class Energy:
    """The energy score of two samples of each coarse image."""

    learners: ClassVar[dict[str, Part]] = {}

    def __call__(
        self, network: DetailNetwork | DetailUNet, small: Tensor, full: Tensor, level: int, share: float
    ) -> Tensor:
        twice = small.repeat(2, 1, 1, 1)
        first, second = network.enlarge(twice, network.noise_like(twice, level)).chunk(2)
        return energy_score(first, second, full)


def build(
    config: WaveletDetailConfig, shape: Sequence[int], device: str
) -> Adversarial | Regression | Energy | Denoising:
    """The loss that `config.detail` names, for images of shape C H W."""
    channels, height, width = shape
    if config.detail == "adversarial":
        return Adversarial(config, channels, device)
    if config.detail == "diffusion":
        return Denoising(trained_levels((height, width)))
    return Regression() if config.detail == "regression" else Energy()


def perceptual(config: WaveletDetailConfig, device: str) -> Perceptual | None:
    """The ImageNet network, if the loss has a weight for it. Raises UserError if its packages are not installed."""
    if config.detail != "adversarial" or not config.detail_perceptual:
        return None
    return Perceptual(device, "upscaler.detail_perceptual", "upscaler.detail_perceptual=0")


def energy_score(first: Tensor, second: Tensor, truth: Tensor, *, over: tuple[int, ...] | None = None) -> Tensor:
    """A score of two samples of the same coarse image, B C H W, for how they describe the truth; lower is better.
    Averaged over images and over patches of several sides. over: dimensions to average over (None: all); (1, 2, 3)
    gives one score for each image, B.

        ½ |X - y| + ½ |X' - y| - ½ |X - X'|     (Gneiting & Raftery, JASA 2007, equation 22, with two samples)

    Its expectation is least when X has the distribution of y given the coarse image, patch by patch: no adversary and
    no steps of diffusion are needed to sample. Distances are Euclidean, per pixel.
    """
    return torch.stack(
        [
            (_patch_distance(first, truth, side, over) + _patch_distance(second, truth, side, over)) / 2
            - _patch_distance(first, second, side, over) / 2
            for side in PATCHES
        ]
    ).mean(0)


def _patch_distance(first: Tensor, second: Tensor, side: int, over: tuple[int, ...] | None) -> Tensor:
    squares = (first - second).square().sum(1, keepdim=True)
    means = F.avg_pool2d(squares, min(side, *squares.shape[-2:]), stride=max(side // 2, 1))
    return (means + 1e-6).sqrt().mean(over)  # the root has no slope at 0

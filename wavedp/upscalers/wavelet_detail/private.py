"""Private fine-tuning of the network that draws detail, on full-size sensitive images: the stage `upscaler_fit`.

One record's loss describes how its own missing bands are drawn from its own coarse image: by the diffusion's loss for
detail=diffusion, by the energy score of two drawings where the network has noise, else by their absolute error
(wavedp.upscalers.wavelet_detail.losses). It averages over all places of the image, over every level that training
serves and over the record's views, before the gradient is clipped. So the record's gradient is a mean over hundreds of
places, and one release serves all levels. No discriminator: its own fit to sensitive images would be a further release.
The white-box audit of the generic fit (wavedp.audit.canaries) covers this one, which is the same `fit_private`.

    upscaler.epsilon_share  privacy.epsilon  level      the stage upscaler_fit
    0                       any              any        none: the network is public, and no key knows of the share
    above 0                 0                any        none: no sensitive image is used
    above 0                 any              0          none: there is nothing to enlarge; the generator has all of ε
    above 0                 ∞                1 or more  fine-tuned without noise or clipping, with a nonprivate line
    above 0                 finite           1 or more  DP-SGD at epsilon_share × ε; the generator's fit gets what keeps
                                                        both within ε at the trial's δ (wavedp.privacy.shares)
    above 0                 finite, with a generator that is not fitted (`public`, `real`): the same fit, and so the
                                                        same release, as beside a generator that is; the rest of ε is
                                                        not spent

Formal guarantee: that of wavedp.privacy.training. The doubling's embedding is not trained, nor are layers that see it
alone: no hook could tell the records apart that use them.

Shapes: B records, C channels, H W pixels, h w of a coarse image, Z noise planes, D uniform numbers of a record.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from wavedp.generators import FitSettings, PrivateFit
from wavedp.methods import Weights
from wavedp.privacy.training import fit_private
from wavedp.progress import Report
from wavedp.upscalers.wavelet_detail import WaveletDetailConfig, diffusion
from wavedp.upscalers.wavelet_detail.bodies import Block, DetailNetwork, DetailUNet, trained_levels
from wavedp.upscalers.wavelet_detail.diffusion import DetailDiffusion
from wavedp.upscalers.wavelet_detail.losses import energy_score
from wavedp.upscalers.wavelet_detail.network import CROP, build
from wavedp.views import view
from wavedp.wavelets import coarse

Network = DetailNetwork | DetailUNet
DRAWINGS = 2  # of a coarse image, for the energy score


def fine_tune(
    config: WaveletDetailConfig, weights: Weights, images: Tensor, fit: FitSettings, device: str, report: Report
) -> PrivateFit:
    """The public network trained on with sensitive images B C H W in [0, 1]; see the module."""
    network = for_fit(config, weights, images.shape[1])
    size, views = (images.shape[-2], images.shape[-1]), fit.privacy.views
    done = fit_private(
        network,
        record_loss(size, views),
        (images,),
        fit.privacy,
        noise_multiplier=fit.mechanisms["upscaler_fit"].noise_multiplier,
        seed=fit.seed,
        draws=draws_of(network, size, views),
        checkpoint=fit.checkpoint,
        device=device,
        report=report,
    )
    (ran,) = done.history  # what was run, not what was planned
    return PrivateFit(
        {name: value.cpu() for name, value in done.ema.items()}, {"upscaler_fit": ran}, {"upscaler_fit": done.release}
    )


def for_fit(config: WaveletDetailConfig, weights: Weights, channels: int) -> Network:
    """The network with the parameters frozen that are not trained privately."""
    network = build(config, channels, weights)
    network.doubling.requires_grad_(False)
    for layer in network.modules():
        if isinstance(layer, Block) and not isinstance(network, DetailDiffusion):  # which adds a record's noise level
            layer.known.requires_grad_(False)
    return network


def record_loss(size: tuple[int, int], views: int) -> Callable[..., Tensor]:
    """loss(network, images B C H W in [0, 1], draws B D in [0, 1)) -> B. size: H, W. Without noise planes and crops a
    network needs no draws, and is given none. An image larger than `CROP` is shown in crops of that side."""
    levels = range(1, trained_levels(_shown(size)) + 1)

    def loss(network: Network, images: Tensor, draws: Tensor | None = None) -> Tensor:
        numbers = _Numbers(images.new_empty(len(images), 0) if draws is None else draws)
        total = torch.zeros(len(images), device=images.device)
        for number in range(views):
            full = _cropped(view(images, number), numbers)
            score = _denoising if isinstance(network, DetailDiffusion) else _score
            for level in levels:
                total = total + score(network, full, level, numbers)
        return total / (views * len(levels))

    return loss


def draws_of(network: Network, size: tuple[int, int], views: int) -> int:
    """How many uniform numbers a record's loss takes: D."""
    height, width = _shown(size)
    levels = range(1, trained_levels((height, width)) + 1)
    places = [(height >> down) * (width >> down) for down in levels]
    crop = 2 if _shown(size) != size else 0
    if isinstance(network, DetailDiffusion):  # a level and a noise of each doubling
        return views * (crop + sum(1 + network.noise * each for each in places))
    return views * (crop + DRAWINGS * network.noise * sum(sum(places[:level]) for level in levels))


def _score(network: Network, full: Tensor, level: int, numbers: _Numbers) -> Tensor:
    """How well a level of each image is drawn: B."""
    small = coarse(full, level)

    def drawn() -> Tensor:
        return network.enlarge(small, _noise(network, small, level, numbers))

    if not network.noise:
        return (drawn() - full).abs().mean((1, 2, 3))
    return energy_score(drawn(), drawn(), full, over=(1, 2, 3))


def _denoising(network: Network, full: Tensor, level: int, numbers: _Numbers) -> Tensor:
    """How well the bands are denoised that images of level `level` lack for the next finer one: B."""
    assert isinstance(network, DetailDiffusion)
    size = (network.noise, full.shape[-2] >> level, full.shape[-1] >> level)
    at = _normal(numbers.take(1)).squeeze(1)
    noise = _normal(numbers.take(math.prod(size))).view(len(full), *size)
    return diffusion.errors(network, full, level - 1, at, noise).mean((1, 2, 3))


class _Numbers:
    """Uniform numbers of each record, taken in order: B D."""

    def __init__(self, draws: Tensor) -> None:
        self.draws, self.taken = draws, 0

    def take(self, count: int) -> Tensor:
        self.taken += count
        return self.draws[:, self.taken - count : self.taken]


def _noise(network: Network, small: Tensor, level: int, numbers: _Numbers) -> list[Tensor]:
    """White noise for each doubling of images B C h w, as `noise_like` has it, from the records' own
    numbers: B Z h w, coarse to fine."""
    sizes = [(network.noise, small.shape[-2] << place, small.shape[-1] << place) for place in range(level)]
    return [_normal(numbers.take(math.prod(size))).view(len(small), *size) for size in sizes]


def _normal(uniforms: Tensor) -> Tensor:
    """Normal numbers of uniform ones in [0, 1), through the quantile function, cut at 5.4 deviations."""
    return torch.special.ndtri(uniforms.double() + 2.0**-25).to(uniforms.dtype)


def _shown(size: tuple[int, int]) -> tuple[int, int]:
    return min(size[0], CROP), min(size[1], CROP)


def _cropped(images: Tensor, numbers: _Numbers) -> Tensor:
    """A crop of each image, at a place of its own; small images as they are."""
    whole = (images.shape[-2], images.shape[-1])
    shown = _shown(whole)
    if shown == whole:
        return images
    for dim, side, kept, place in zip((2, 3), whole, shown, numbers.take(2).unbind(1), strict=True):
        first = (place * (side - kept + 1)).long()
        rows = first[:, None] + torch.arange(kept, device=images.device)  # B kept
        index = rows[:, None, :, None] if dim == 2 else rows[:, None, None, :]
        target = [*images.shape[:dim], kept, *images.shape[dim + 1 :]]
        images = images.gather(dim, index.expand(target))
    return images

"""A small network that draws the wavelet bands that a coarse image lacks, trained on public images.

    x_0 = the coarse image; for each doubling:  H, V, D = network(x_i, noise);  x_{i+1} = inverse Haar of (x_i, H, V, D)

One network serves every doubling, since images look alike at neighbouring scales; the number of the doubling, counted
from full size, is one of its inputs. It works on the coarse grid, a quarter of the pixels that it draws. The low-pass
of the output is exactly the coarse image, because only the other three bands are drawn. The networks are in bodies.py,
the losses in losses.py; the network has noise as an input by `sampled`, by `diffusion` and where `detail_noise` says.

Training works like use: public images are reduced by 1, 2 or 3 levels and brought back in as many doublings. That of
`diffusion` takes each doubling by itself, from a real coarse image.

Shapes: B images, C channels, H W pixels, h w of a coarse image.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from wavedp import resume
from wavedp.averages import MovingAverage
from wavedp.devices import fused, taker
from wavedp.methods import Weights
from wavedp.progress import Report
from wavedp.seeds import derive_seed, generator_of
from wavedp.upscalers.wavelet_detail import WaveletDetailConfig, losses
from wavedp.upscalers.wavelet_detail.bodies import LEVELS, DetailNetwork, DetailUNet, trained_levels
from wavedp.upscalers.wavelet_detail.diffusion import DetailDiffusion, sizes
from wavedp.wavelets import coarse

NOISE = 4  # planes, of detail=sampled
MEASURED = 4096  # images at most, for the sizes of bands
CROP = 64  # larger images are trained on crops of this side: the network is convolutional


def build(config: WaveletDetailConfig, channels: int, weights: Weights | None = None) -> DetailNetwork | DetailUNet:
    """The network of `config`, with these weights."""
    size = (channels, config.detail_width, config.detail_depth)
    noise = NOISE if config.detail == "sampled" else config.detail_noise
    network: DetailNetwork | DetailUNet
    if config.detail == "diffusion":
        network = DetailDiffusion(*size, config.detail_halvings)
    elif config.detail_halvings:
        network = DetailUNet(*size, config.detail_halvings, noise)
    else:
        network = DetailNetwork(*size, noise)
    if weights is not None:
        network.load_state_dict(weights)
    return network


def fit_public(
    images: Tensor, config: WaveletDetailConfig, device: str, report: Report, checkpoint: Path | None = None
) -> Weights:
    """Train with Adam on public images B C H W in [0, 1], their mirror images and transposes.

    config.public_seed seeds the weights, batches and noise. Goes on from `checkpoint` (wavedp.resume). Raises UserError
    if the loss does.
    """
    torch.manual_seed(derive_seed(config.public_seed, "wavelet_detail"))
    network = build(config, images.shape[1])
    if isinstance(network, DetailDiffusion):
        network.size.copy_(sizes(images[:: -(-len(images) // MEASURED)], trained_levels(images.shape[-2:])))
    network = network.to(device).train()
    averaged, take = MovingAverage(network, config.detail_decay), taker(images, device)
    optimizer = torch.optim.Adam(
        network.parameters(), lr=config.train_learning_rate, betas=(0.9, 0.99), fused=fused(device)
    )
    loss_of = losses.build(config, images.shape[1:], device)
    parts: dict[str, resume.Part] = {"network": network, "averaged": averaged, "optimizer": optimizer}
    for step in resume.steps(config.train_steps, report, checkpoint, **parts, **loss_of.learners):
        optimizer.param_groups[0]["lr"] = config.train_learning_rate * rate(step / config.train_steps)
        shown = _augmented(take(torch.randint(len(images), (config.train_batch,))), step)
        level = 1 + step % trained_levels(images.shape[-2:])
        loss = loss_of(network, coarse(shown, level), shown, level, step / config.train_steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        averaged.update_parameters(network)
    return {name: value.detach().cpu().clone() for name, value in averaged.module.state_dict().items()}


def rate(share: float) -> float:
    """The learning rate's factor after this share of the training: up over its first 2 %, then straight down to 5 %."""
    return min(share / 0.02 + 0.01, 1.05 - share, 1)


@torch.inference_mode()
def complete(config: WaveletDetailConfig, weights: Weights, device: str, images: Tensor, factor: int) -> Tensor:
    """Coarse images B C h w in [0, 1] -> B C h*factor w*factor, not clipped. The noise of an image depends on that
    image only."""
    network, level = build(config, images.shape[1], weights).to(device).eval(), factor.bit_length() - 1
    noise = network.noise_like(images, level)
    if network.noise:
        of_each = [network.noise_like(image[None], level, generator_of(image)) for image in images]
        noise = [torch.cat(planes).to(device) for planes in zip(*of_each, strict=True)]
    if isinstance(network, DetailDiffusion):
        return network.draw(images.to(device), noise, config.detail_steps).cpu()
    return network.enlarge(images.to(device), noise).cpu()


def _augmented(images: Tensor, step: int) -> Tensor:
    """One of the eight ways to turn and mirror a square, in turn; a random crop of larger images."""
    height, width = images.shape[-2:]
    if max(height, width) > CROP:
        top, left = (int(torch.randint(max(side - CROP, 0) + 1, ())) for side in (height, width))
        images = images[..., top : top + CROP, left : left + CROP]
    way = step // LEVELS % 8
    images = images.flip(-1) if way & 1 else images
    images = images.flip(-2) if way & 2 else images
    return images.transpose(-1, -2) if way & 4 else images

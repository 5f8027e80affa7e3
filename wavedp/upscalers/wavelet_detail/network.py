"""A small network that draws the wavelet bands that a coarse image lacks, trained on public images.

    x_0 = the coarse image; for each doubling:  H, V, D = network(x_i, noise);  x_{i+1} = inverse Haar of (x_i, H, V, D)

One network serves every doubling, since images look alike at neighbouring scales; the number of the doubling, counted
from full size, is one of its inputs. It works on the coarse grid, a quarter of the pixels that it draws. The low-pass
of the output is exactly the coarse image, because only the other three bands are drawn. The losses are in
wavedp.upscalers.wavelet_detail.losses; only the network of `sampled` has noise as an input.

Training works like use: public images are reduced by 1, 2 or 3 levels and brought back in as many doublings.

Shapes: B images, C channels, H W pixels, h w of a coarse image, Z noise planes, D width.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavedp import resume
from wavedp.averages import MovingAverage
from wavedp.devices import fused, taker
from wavedp.methods import Weights
from wavedp.progress import Report
from wavedp.seeds import derive_seed, generator_of
from wavedp.upscalers.wavelet_detail import WaveletDetailConfig, losses
from wavedp.wavelets import Pyramid, coarse, doubled, reconstruct

NOISE = 4  # planes, of detail=sampled
LEVELS = 3  # doublings trained for, where the images' sides allow
DECAY = 0.998  # of the moving average of the weights; the average is kept
CROP = 64  # larger images are trained on crops of this side: the network is convolutional


class DetailNetwork(nn.Module):
    """Residual convolutions on the coarse grid, with fresh noise before each: nothing sees the whole image."""

    def __init__(self, channels: int, width: int, depth: int, noise: int) -> None:
        super().__init__()
        self.channels, self.noise = channels, noise
        self.first = nn.Conv2d(channels + noise, width, 3, padding=1)
        self.doubling = nn.Embedding(LEVELS, width)
        self.before = nn.ModuleList(nn.Conv2d(width + noise, width, 3, padding=1) for _ in range(depth))
        self.after = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.last = nn.Conv2d(width, 3 * channels, 3, padding=1)
        for layer in self.after:  # each block begins as the identity
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor, noise: Tensor, doubling: int) -> Tensor:
        """B C h w in [0, 1], B Z h w -> B C 3 h w, the bands H, V, D of an image twice as large.

        doubling: how many more follow this one (beyond `LEVELS`, as the farthest that was trained).
        """
        x = self.first(self._beside(images * 2 - 1, noise))
        x = x + self.doubling.weight[min(doubling, LEVELS - 1)][:, None, None]
        for before, after in zip(self.before, self.after, strict=True):
            x = x + after(F.silu(before(self._beside(F.silu(x), noise))))
        return self.last(F.silu(x)).unflatten(1, (self.channels, 3))

    def _beside(self, x: Tensor, noise: Tensor) -> Tensor:
        return torch.cat([x, noise], 1) if self.noise else x

    def enlarge(self, images: Tensor, noise: list[Tensor]) -> Tensor:
        """B C h w -> B C h*2^n w*2^n not clipped, one doubling for each of the n items of noise (see `noise_like`)."""
        for place, planes in enumerate(noise):
            bands = self(images, planes, len(noise) - 1 - place)
            on_cpu = images.device.type == "cpu"  # where published weights were trained, to the bit
            images = reconstruct(Pyramid(images * 2, (bands,))) if on_cpu else doubled(images, bands)
        return images

    def noise_like(self, images: Tensor, level: int, generator: torch.Generator | None = None) -> list[Tensor]:
        """White noise for each of `level` doublings of images B C h w, coarse to fine, each B Z h w of its own size."""
        count, _, height, width = images.shape
        sizes = [(count, self.noise, height << place, width << place) for place in range(level)]
        if not self.noise:
            return [images.new_empty(size) for size in sizes]
        return [torch.randn(size, generator=generator).to(images.device) for size in sizes]


def build(config: WaveletDetailConfig, channels: int, weights: Weights | None = None) -> DetailNetwork:
    """The network of `config`, with these weights."""
    noise = NOISE if config.detail == "sampled" else 0
    network = DetailNetwork(channels, config.detail_width, config.detail_depth, noise)
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
    network = build(config, images.shape[1]).to(device).train()
    averaged, take = MovingAverage(network, DECAY), taker(images, device)
    optimizer = torch.optim.Adam(
        network.parameters(), lr=config.train_learning_rate, betas=(0.9, 0.99), fused=fused(device)
    )
    loss_of = losses.build(config, images.shape[1], device)
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
    return network.enlarge(images.to(device), noise).cpu()


def trained_levels(size: tuple[int, int] | torch.Size) -> int:
    """The highest level that training reduces images of this size to: up to `LEVELS`, if 2^level divides both sides."""
    height, width = size
    return max((level for level in range(1, LEVELS + 1) if height % 2**level == width % 2**level == 0), default=0)


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

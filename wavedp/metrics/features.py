"""Inception features as clean-fid takes them, cached by content.

    B images, C channels (1 or 3), H W pixels

Images are resized to 299x299 by Pillow's bicubic filter in float32, without rounding (Parmar, Zhang & Zhu, CVPR 2022,
"On Aliased Resizing and Surprising Subtleties in GAN Evaluation"), grey is repeated to three channels, and the pool
layer of the 2015 Inception network is read: mode `clean`. Mode `pytorch` resizes as pytorch-fid, and so DPImageBench,
does: bilinearly, without antialiasing, and maps 0 and 255 to -1 and 1. Mode `tensorflow` resizes as TensorFlow 1, and
so the first FID code, torch-fidelity and clean-fid's legacy_tensorflow, does: bilinearly, without antialiasing, from
the upper left corner of each pixel. On a CPU, small batches are quicker (results/bench).

Memory holds one batch's activations and 8 KiB of features an image.
"""

from __future__ import annotations

import contextlib
import hashlib
import uuid
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from wavedp.config import MetricsConfig
from wavedp.errors import UserError
from wavedp.metrics import network_file
from wavedp.metrics.inception import plain
from wavedp.metrics.network_file import file_sha256
from wavedp.metrics.views import CHUNK
from wavedp.progress import Report, silent
from wavedp.resize import resize

DIMENSIONS = 2048
# A cache file holds CHUNK images: an interrupted extraction resumes here, and a longer set reuses a shorter one's.

# The first features of `_probe_image()` by that file: every copy of the network, in whichever file, must give them.
PROBE_FEATURES = (0.55619, 0.15722, 0.00229, 0.10405, 0.06843, 1.00489, 0.31696, 0.0)


def extract(
    images: torch.Tensor,
    config: MetricsConfig,
    cache_dir: Path | None = None,
    report: Report = silent,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Pool features of uint8 images: B C H W -> B 2048 float32, on the CPU.

    Chunks of 500 images found in `cache_dir` are read instead of computed: the file name is the sha256 of the chunk's
    pixels, the network file, the mode and the precision, so no change of any of them can meet an old file.
    `report(done, total)` counts images. Raises UserError for other images than uint8 of 1 or 3 channels, for features
    that are not finite, and as `network_file.find_network` and `load_network` do.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UserError(
            f"FID takes uint8 images B C H W with 1 or 3 channels, got {images.dtype} {list(images.shape)}: "
            "round images to 0..255 and set data.channels to 1 or 3."
        )
    path = network_file.find_network(config.inception)

    def load() -> Callable[[torch.Tensor], torch.Tensor]:
        network = load_network(path, str(device), config.precision)
        return lambda batch: _forward(network, batch.to(device, non_blocking=True), config)

    source = f"{file_sha256(path)} {config.mode} {config.precision}"
    features = by_content(images, source, load, DIMENSIONS, pass_size(config, device), cache_dir, report)
    if not features.isfinite().all():
        raise UserError(
            f"FID features are NaN or infinite: delete the cache {cache_dir} and check the device {device}."
        )
    return features


def by_content(
    images: torch.Tensor,
    source: str,
    load: Callable[[], Callable[[torch.Tensor], torch.Tensor]],
    dimensions: int,
    batch_size: int,
    cache_dir: Path | None,
    report: Report = silent,
) -> torch.Tensor:
    """Features B D float32 of uint8 images, in chunks of 500 that are read from `cache_dir` where they were computed
    before: the file name is the sha256 of the pixels and of `source`, which says what computes the features. load: what
    gives that computation, called for chunks that are not there. `report(done, total)` counts images."""
    features = torch.empty(len(images), dimensions)
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK].cpu().contiguous()
        cached = cache_dir / f"{_chunk_key(chunk, source)}.npy" if cache_dir else None
        if cached and cached.exists():
            features[start : start + len(chunk)] = torch.from_numpy(np.load(cached))
        else:
            forward, found = load(), []
            for batch in chunk.split(batch_size):
                found.append(forward(batch))
                report(start + sum(map(len, found)), len(images))
            features[start : start + len(chunk)] = torch.cat(found).cpu()  # the host waits here only
            if cached:
                _save(cached, features[start : start + len(chunk)].numpy())
        report(start + len(chunk), len(images))
    return features


def pass_size(config: MetricsConfig, device: torch.device | str) -> int:
    """Images a forward pass: metrics.batch_size, and on an accelerator at least 50, since the default is for a CPU's
    cache."""
    return config.batch_size if str(device) == "cpu" else max(config.batch_size, 50)


def clean_resize(images: torch.Tensor) -> torch.Tensor:
    """clean-fid's resize: uint8 B C H W -> float32 B C 299 299 in [0, 255], bicubic with antialiasing, not rounded."""
    return resize(images.float(), (299, 299), "bicubic").clamp(0, 255)


def pytorch_resize(images: torch.Tensor) -> torch.Tensor:
    """pytorch-fid's resize: uint8 B C H W -> float32 B C 299 299 in [0, 255], bilinear between the nearest pixels."""
    return F.interpolate(images.float(), (299, 299), mode="bilinear", align_corners=False)


def tensorflow_resize(images: torch.Tensor) -> torch.Tensor:
    """TensorFlow 1's bilinear resize: uint8 B C H W -> float32 B C 299 299 in [0, 255]. Pixel i of the result lies at
    i h / 299 of a line of h pixels, between those left and right of it; centres are not aligned."""
    rows, columns = (tensorflow_operator(size, 299).to(images.device) for size in images.shape[-2:])
    return rows @ images.float() @ columns.T


@lru_cache(maxsize=64)
def tensorflow_operator(size_in: int, size_out: int) -> torch.Tensor:
    """The matrix [size_out size_in] float32 that resizes a line of `size_in` pixels as TensorFlow 1 does."""
    position = torch.arange(size_out, dtype=torch.float32) * torch.tensor(size_in / size_out, dtype=torch.float32)
    left = position.long()
    share = (position - left)[:, None]
    right = (left + 1).clamp(max=size_in - 1)
    return F.one_hot(left, size_in) * (1 - share) + F.one_hot(right, size_in) * share


@lru_cache(maxsize=1)
def load_network(path: Path, device: str, precision: str = "float32") -> torch.nn.Module:
    """The network in the TorchScript file `path`: float32 B 3 299 299 in [-1, 1) -> B 2048, channels last.

    For float32 it is rebuilt for speed (wavedp.metrics.inception); bfloat16 would round that differently, so there the
    file's own modules run. Raises UserError when the file cannot be read or is another network: the path does not
    enter a trial's identity, so it must not change a number by more than rounding.
    """
    with warnings.catch_warnings():
        # Recent torch versions deprecate TorchScript, the form in which this network is published.
        warnings.simplefilter("ignore")
        try:
            network = torch.jit.load(path, map_location=device).eval()
        except RuntimeError as error:
            raise UserError(f"{path} is not a TorchScript file: give the FID Inception network.") from error
    # clean-fid's file wraps the network in its own resizing; `layers` is the network itself, as in the package's `net`.
    layers = getattr(getattr(network, "net", network), "layers", network)
    with contextlib.suppress(AttributeError, KeyError):  # a file of other parts runs as it is
        layers = plain(layers) if precision == "float32" else layers
    network = layers.to(memory_format=torch.channels_last)
    try:
        probe = _forward(network, _probe_image().to(device), MetricsConfig())[0, : len(PROBE_FEATURES)].cpu()
        same = torch.allclose(probe, torch.tensor(PROBE_FEATURES), atol=0.01, rtol=0.01)
    except RuntimeError:
        same = False
    if not same:
        raise UserError(f"{path} is not the FID Inception network: it gives other features for a known image.")
    return network


def _forward(network: torch.nn.Module, batch: torch.Tensor, config: MetricsConfig) -> torch.Tensor:
    """uint8 B C H W -> float32 B 2048."""
    if config.mode == "pytorch":
        normalized = pytorch_resize(batch) / 127.5 - 1
    else:
        normalized = ((clean_resize if config.mode == "clean" else tensorflow_resize)(batch) - 128) / 128
    normalized = normalized.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    low = torch.autocast(batch.device.type, torch.bfloat16, enabled=config.precision == "bfloat16")
    # TF32 would change features by more than rounding.
    by_trial = torch.backends.cudnn.benchmark  # which `flags` would turn off
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=by_trial, allow_tf32=False)
    with torch.inference_mode(), exact, low:
        return network(normalized).reshape(len(batch), -1).float()


def _probe_image() -> torch.Tensor:
    """A fixed picture of coloured stripes, uint8 1 3 32 32."""
    row, column = torch.arange(32)[:, None], torch.arange(32)[None]
    channels = [row * 8 + column * 0, column * 8 + row * 0, (row + column) * 16 % 256]
    return torch.stack(channels)[None].to(torch.uint8)


@lru_cache(maxsize=4)
def _chunk_key(chunk: torch.Tensor, source: str) -> str:
    digest = hashlib.sha256(f"{source} {list(chunk.shape)} ".encode())
    digest.update(chunk.numpy().data)
    return digest.hexdigest()


def _save(path: Path, features: np.ndarray) -> None:
    """Write beside the target and rename, so that no reader ever sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.unfinished.npy")
    np.save(unfinished, features)
    unfinished.replace(path)

"""Stage two: bring private coarse images to full size with a model that never saw the sensitive images.

    from wavedp.config import UpscalerConfig
    from wavedp.upscalers import build

    images = build(UpscalerConfig(name="bicubic")).upscale(coarse, factor=2)  # B C h w -> B C 2h 2w, float32 in [0, 1]

To add an upscaler, write a file in this folder with a class that has the three members of `Upscaler`:

    from wavedp.resize import resize

    class Sharpened:
        '''Bicubic, plus half of what going down and up once more would lose.'''

        name = "sharpened"

        def upscale(self, images, factor):
            size = (images.shape[-2] * factor, images.shape[-1] * factor)
            large = resize(images, size, "bicubic")
            blurred = resize(resize(large, images.shape[-2:], "bilinear"), size, "bilinear")
            return (large + 0.5 * (large - blurred)).clamp(0, 1)

        def bridge(self, factor):
            return None

Give it a line in `UPSCALERS` below. tests/wavedp/test_upscalers.py takes its names from there, so the new one meets
`check_upscaler` (tests/wavedp/upscaler_conformance.py) at once: each image must depend on itself alone, constants must
stay constant, and block means must stay close to the coarse image that the privacy budget paid for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from wavedp.config import UpscalerConfig
from wavedp.errors import UserError
from wavedp.upscalers import completion
from wavedp.upscalers.bridged import require_channels
from wavedp.upscalers.classical import Classical, Identity
from wavedp.upscalers.latent_diffusion import LatentDiffusion
from wavedp.upscalers.low_pass import LowPassConsistent
from wavedp.upscalers.ncnn_graph import published
from wavedp.upscalers.spandrel_file import spandrel_file
from wavedp.upscalers.weights import WEIGHTS
from wavedp.weight_files import HUB_IDS


class Upscaler(Protocol):
    """What stage two needs of a model. Deterministic; images in a batch do not influence each other."""

    name: str

    def upscale(self, images: torch.Tensor, factor: int) -> torch.Tensor:
        """Images [B C h w] float32 in [0, 1], C = 1 or 3 -> [B C h*factor w*factor] float32 in [0, 1]."""
        ...

    def bridge(self, factor: int) -> str | None:
        """How a model made for another factor reaches this one, in words for the record; None when it fits."""
        ...


# name -> what builds it from its configuration and the device that its networks run on.
UPSCALERS: dict[str, Callable[[UpscalerConfig, str], Upscaler]] = {
    "identity": lambda config, device: Identity(),
    "nearest": lambda config, device: Classical("nearest"),
    "bilinear": lambda config, device: Classical("bilinear"),
    "bicubic": lambda config, device: Classical("bicubic"),
    "lanczos": lambda config, device: Classical("lanczos"),
    **dict.fromkeys(WEIGHTS, published),
    "spandrel": spandrel_file,
    **dict.fromkeys(HUB_IDS, LatentDiffusion),
}


def build(config: UpscalerConfig, device: str = "cpu") -> Upscaler:
    """The upscaler that `config` names, loaded and ready; networks run on `device`, but for ncnn's, on the CPU.

    Raises UserError for an unknown name, weights that are not there or are no super-resolution model's, or options that
    the upscaler cannot keep.
    """
    if config.name not in UPSCALERS:
        known = ", ".join((*UPSCALERS, *completion.NAMES))
        raise UserError(f"upscaler.name={config.name!r} is not known: use one of {known}.")
    for option, value in (("tile", config.tile), ("batch_size", config.batch_size)):
        if value is not None and value < 1:
            raise UserError(f"upscaler.{option}={value} holds nothing: use 1 or more.")
    upscaler = UPSCALERS[config.name](config, device)
    return LowPassConsistent(upscaler) if config.low_pass_consistency else upscaler


def check(config: UpscalerConfig, factor: int, shape: Sequence[int]) -> None:
    """Refuse, before any training, what could not be upscaled after it: one black image [C h w] makes the whole way, in
    one step where a model diffuses.

    Raises UserError where `build` does, and for a factor below 1 or one the upscaler does not reach (`identity` only
    takes 1), or channels other than 1 and 3.
    """
    if factor < 1:
        raise UserError(f"factor={factor} cannot be upscaled by: use a level of 0 or more, its factor is 2^level.")
    require_channels(shape[0])
    one_step = dataclasses.replace(config, diffusion_steps=min(config.diffusion_steps, 1))
    build(one_step).upscale(torch.zeros(1, *shape), factor)

"""Stage two: bring private coarse images to full size with a model that never saw the sensitive images.

    from wavedp import upscalers
    from wavedp.config import configure

    model = upscalers.load(configure("upscaler", "bicubic"))
    images = model.upscale(coarse, factor=2)  # B C h w -> B C 2h 2w, float32 in [0, 1]

To add an upscaler, write a file like this one in any package:

    from dataclasses import dataclass
    from wavedp.fields import result
    from wavedp.upscalers import UpscalerMethod

    @dataclass(frozen=True)
    class SharpenedConfig:
        name: str = result("sharpened")
        amount: float = result(0.5)

    class Sharpened(UpscalerMethod):
        '''Bicubic, plus some of what going down and up once more would lose.'''

        name, Config = "sharpened", SharpenedConfig

        def load(self, config, device):
            return SharpenedModel(config.amount)

    class SharpenedModel:
        name = "sharpened"

        def __init__(self, amount):
            self.amount = amount

        def upscale(self, images, factor):
            from wavedp.resize import resize  # which imports torch: a declaration does not

            size = (images.shape[-2] * factor, images.shape[-1] * factor)
            large = resize(images, size, "bicubic")
            blurred = resize(resize(large, images.shape[-2:], "bilinear"), size, "bilinear")
            return (large + self.amount * (large - blurred)).clamp(0, 1)

        def bridge(self, factor):
            return None

Give it an entry point in the group `wavedp.upscalers`, or name it `upscaler.name=package.module:Sharpened`. Its tests:
subclass `wavedp.testing.upscalers.UpscalerSuite`. Each image must depend on itself only, constants must stay constant,
and block means must stay close to the coarse image that the privacy budget paid for.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from wavedp import registry
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.methods import Inputs, Method

if TYPE_CHECKING:
    import torch


class Upscaler(Protocol):
    """What stage two needs of a model. Deterministic; images in a batch do not influence each other."""

    name: str

    def upscale(self, images: torch.Tensor, factor: int) -> torch.Tensor:
        """Images [B C h w] float32 in [0, 1], C = 1 or 3 -> [B C h*factor w*factor] float32 in [0, 1]."""
        ...

    def bridge(self, factor: int) -> str | None:
        """How a model made for another factor reaches this one, in words for the record; None when it fits."""
        ...


@dataclass(frozen=True)
class Origin:
    """licence: of the weights, and who says so. source: paper and repository. trained_on: as the source states it."""

    licence: str
    source: str
    trained_on: str


NOT_STATED = "not stated"
FREE = Origin("Apache-2.0 (this code)", "wavedp", "nothing")
OURS = Origin("Apache-2.0 (this code)", "wavedp", "the study's public images")


@dataclass(frozen=True)
class LowPass:
    """What every ready-made upscaler can be asked for."""

    low_pass_consistency: bool = result(
        False, later=True
    )  # replace the block means of what it drew by the coarse image


class UpscalerMethod(Method):
    """What all upscalers declare. origin, factor: for the table of `python -m wavedp.upscalers`."""

    origin: Origin = Origin(NOT_STATED, NOT_STATED, NOT_STATED)
    factor: str = "any"

    def load(self, config: Any, device: str) -> Upscaler:
        """The model, where configuration and files are all that it needs. Raises UserError for files that are missing
        or damaged, and options that the model does not have."""
        raise NotImplementedError(f"{self.name} is built from a trial")

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> Upscaler:
        """The model for a trial."""
        return load(trial.upscaler, device)

    def check(self, trial: TrialConfig) -> list[str]:
        """Warns of a model for faces on a folder of faces."""
        return face_warning(trial, self.restores_faces(trial.upscaler), trial.upscaler.name)

    def check_models(self, trial: TrialConfig) -> None:
        """The model takes this trial's images. Opens its files, which `check` does not. Raises UserError."""
        channels, height, width = _coarse_shape(trial)
        check(trial.upscaler, 2**trial.level, (channels, height, width))

    def restores_faces(self, config: Any) -> bool:
        """Whether the model was made for faces, as far as its name tells."""
        return bool(FACE_MODELS.search(self.name.lower()))

    def found(self) -> str:
        """Whether its weights are on this machine, in words."""
        return "needs none"

    def training_content(self, trial: TrialConfig) -> tuple[Any, list[Any]]:
        """What of its Config, and of shared sections, the training of an upscaler with the ability
        `wavedp.methods.Trains` reads, as JSON values: enters the key of the stage `upscaler`."""
        raise NotImplementedError(f"{self.name} does not train")


# Face restoration models, most of them trained on FFHQ or CelebA, and where their training sets lie.
FACE_MODELS = re.compile(r"gfpgan|codeformer|restoreformer|gpen|vqfr|(?<!sur)(?<!inter)face")
FACE_SETS = re.compile(r"celeba|ffhq|(?<!sur)(?<!inter)face")


def face_warning(trial: TrialConfig, restores: bool, named: str) -> list[str]:
    """A sentence where stage two may have been trained on the sensitive images: a face model on a folder of faces. Then
    it is not post-processing of a private release, and ε says nothing about it."""
    if not restores or trial.data.path is None or not FACE_SETS.search(trial.data.path.lower()):
        return []
    return [
        f"upscaler {named} is a model for faces and data.path={trial.data.path} may hold images it was trained on, "
        "which would break the guarantee: find out what it saw, or use a network that saw no faces."
    ]


def load(config: Any, device: str = "cpu") -> Upscaler:
    """The upscaler that `config` configures, loaded and ready; networks run on `device`, except ncnn's, on the CPU.

    Raises UserError for weights that are missing or not a super-resolution model's, or options that it cannot keep.
    """
    for option in ("tile", "batch_size"):
        value = getattr(config, option, None)
        if value is not None and value < 1:
            raise UserError(f"upscaler.{option}={value} holds nothing: use 1 or more.")
    upscaler = registry.find("upscaler", config.name).load(config, device)
    if not getattr(config, "low_pass_consistency", False):
        return upscaler
    from wavedp.upscalers.low_pass import LowPassConsistent

    return LowPassConsistent(upscaler)


def check(config: Any, factor: int, shape: Sequence[int]) -> None:
    """Refuse, before any training, what could not be upscaled after it: one black image [C h w] makes the whole way, in
    one step where a model diffuses.

    Raises UserError where `load` does, and for a factor below 1 or one the upscaler does not reach (`identity` only
    takes 1), or channels other than 1 and 3.
    """
    if factor < 1:
        raise UserError(f"factor={factor} cannot be upscaled by: use a level of 0 or more, its factor is 2^level.")
    import torch

    from wavedp.upscalers.bridged import require_channels

    require_channels(shape[0])
    if getattr(config, "diffusion_steps", 1) > 1:
        config = dataclasses.replace(config, diffusion_steps=1)
    load(config).upscale(torch.zeros(1, *shape), factor)


def _coarse_shape(trial: TrialConfig) -> tuple[int, int, int]:
    from wavedp import data

    channels, height, width = data.shape(trial.data)
    return channels, height >> trial.level, width >> trial.level

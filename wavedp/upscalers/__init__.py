"""Stage two: enlarge private coarse images to full size with a model that never saw the sensitive images.

    from wavedp import upscalers
    from wavedp.config import configure

    model = upscalers.load(configure("upscaler", "bicubic"))
    images = model.upscale(coarse, factor=2)  # B C h w -> B C 2h 2w, float32 in [0, 1]

To add an upscaler, write a file as CONTRIBUTING.md has one: a frozen Config, an `UpscalerMethod` with `load`, and a
model with `upscale` and `bridge`. Give it an entry point in the group `wavedp.upscalers`, or use it as
`upscaler.name=package.module:Sharpened`. To test it, subclass `wavedp.testing.upscalers.UpscalerSuite`: an image
depends on itself only, constants stay constant, and block means stay close to the coarse image that the privacy budget
paid for. With a Config derived from `LowPass`, users can also ask for exact block means (`low_pass_consistency=true`).
An upscaler that is trained on public images first is a subclass of `wavedp.upscalers.trained.Trained`.
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
from wavedp.fields import check_values, result
from wavedp.methods import Inputs, Method, is_ours

if TYPE_CHECKING:
    import torch


class Upscaler(Protocol):
    """A loaded model. It is deterministic, and the images of a batch do not influence each other."""

    name: str

    def upscale(self, images: torch.Tensor, factor: int) -> torch.Tensor:
        """Images [B C h w] float32 in [0, 1], C = 1 or 3 -> [B C h*factor w*factor] float32 in [0, 1]."""
        ...

    def bridge(self, factor: int) -> str | None:
        """The way to this factor, in words for the record; None if the model was made for it."""
        ...


@dataclass(frozen=True)
class Origin:
    """The source of a model.

    licence: of the weights, and who says so. source: paper and repository. trained_on: as the source states it. sets:
    the names of those sets, by which wavedp.data.seen compares them with the sensitive one.
    """

    licence: str
    source: str
    trained_on: str
    sets: tuple[str, ...] = ()


NOT_STATED = "not stated"
FREE = Origin("Apache-2.0 (this code)", "wavedp", "nothing")
OURS = Origin("Apache-2.0 (this code)", "wavedp", "the study's public images")


@dataclass(frozen=True)
class LowPass:
    """The option of every ready-made upscaler."""

    # Replace the block means of its output by the coarse image.
    low_pass_consistency: bool = result(False, later=True)


class UpscalerMethod(Method):
    """The declaration of an upscaler. origin, factor: shown by `python -m wavedp.upscalers`. tried: of this package's
    own, it takes any image and factor, as its tests show, so that no trial has to try again."""

    origin: Origin = Origin(NOT_STATED, NOT_STATED, NOT_STATED)
    factor: str = "any"
    tried: bool = False

    def load(self, config: Any, device: str) -> Upscaler:
        """The model, if it needs nothing but its configuration and files. Raises UserError for missing or damaged files
        and for options that the model does not have."""
        raise NotImplementedError(f"{self.name} is built from a trial")

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> Upscaler:
        """The model for a trial."""
        return load(trial.upscaler, device)

    def check(self, trial: TrialConfig) -> list[str]:
        """Warns if a model for faces is used on a folder of faces."""
        return face_warning(trial, self.restores_faces(trial.upscaler), trial.upscaler.name)

    def check_models(self, trial: TrialConfig) -> None:
        """Check that a ready-made model is there and takes this trial's images, by upscaling one; opens its files,
        which `check` does not. A model built from what earlier stages make has no files to open. Raises UserError."""
        if self.needs(trial).inputs:
            return
        if self.tried and is_ours(self):
            self.require_files(trial)
        else:
            check(trial.upscaler, 2**trial.level, _coarse_shape(trial))

    def require_files(self, trial: TrialConfig) -> None:
        """For a `tried` upscaler: what it needs is there and as published, and its options go together. Loads no model.
        Raises UserError."""

    def seen(self, trial: TrialConfig) -> dict[str, tuple[str, ...] | None]:
        """The sets of its origin; None where that states nothing."""
        sets = None if self.origin.trained_on == NOT_STATED else self.origin.sets
        return {f"upscaler={self.name}": sets}

    def restores_faces(self, config: Any) -> bool:
        """True if the model's name says that it was made for faces."""
        return bool(FACE_MODELS.search(self.name.lower()))

    def found(self) -> str:
        """In words, if its weights are on this machine."""
        return "needs none"

    def training_content(self, trial: TrialConfig) -> tuple[Any, list[Any]]:
        """For upscalers with the ability `wavedp.methods.Trains`: the parts of its Config, and of shared sections, that
        its training reads, as JSON values. They enter the key of the stage `upscaler`."""
        raise NotImplementedError(f"{self.name} does not train")


# Names of face restoration models, most of them trained on FFHQ or CelebA, and of folders that hold such faces.
FACE_MODELS = re.compile(r"gfpgan|codeformer|restoreformer|gpen|vqfr|(?<!sur)(?<!inter)face")
FACE_SETS = re.compile(r"celeba|ffhq|(?<!sur)(?<!inter)face")


def face_warning(trial: TrialConfig, restores: bool, named: str) -> list[str]:
    """A sentence if stage two may have been trained on the sensitive images: a face model on a folder of faces. Then it
    would not be post-processing of a private release, and ε would not cover it. named: the model, in that sentence."""
    faces = FACE_SETS.search(f"{trial.data.name} {trial.data.path}".lower())
    if not restores or trial.data.path is None or not faces:
        return []
    return [
        f"upscaler {named} is a model for faces and data.path={trial.data.path} may hold images it was trained on, "
        "which would break the guarantee: find out what it saw, or use a network that saw no faces."
    ]


def load(config: Any, device: str = "cpu") -> Upscaler:
    """The upscaler that `config` configures, loaded and ready. Networks run on `device`; ncnn always runs on the CPU.

    Raises UserError for weights that are missing or not those of a super-resolution model, and for options that the
    model does not have.
    """
    check_values(config, "upscaler.")
    upscaler = registry.find("upscaler", config.name).load(config, device)
    if not getattr(config, "low_pass_consistency", False):
        return upscaler
    from wavedp.upscalers.low_pass import LowPassConsistent

    return LowPassConsistent(upscaler)


def check(config: Any, factor: int, shape: Sequence[int]) -> None:
    """Upscale one black image of this shape [C h w], in one step if the model diffuses: run before any training, it
    refuses what could not be upscaled after it.

    Raises UserError when `load` does, for an image that is not finite, for a factor below 1, for one that the upscaler
    does not reach (`identity` takes 1 only), and for channels other than 1 and 3.
    """
    if factor < 1:
        raise UserError(f"factor={factor} does not enlarge: use a level of 0 or more, whose factor is 2^level.")
    import torch

    from wavedp.finite import require_finite
    from wavedp.upscalers.bridged import require_channels

    require_channels(shape[0])
    if getattr(config, "diffusion_steps", 1) > 1:
        config = dataclasses.replace(config, diffusion_steps=1)
    images = load(config).upscale(torch.zeros(1, *shape), factor)
    require_finite({"images": images}, f"images of upscaler={config.name}", "look for damaged weights")


def _coarse_shape(trial: TrialConfig) -> tuple[int, int, int]:
    from wavedp import data

    channels, height, width = data.shape(trial.data)
    return channels, height >> trial.level, width >> trial.level

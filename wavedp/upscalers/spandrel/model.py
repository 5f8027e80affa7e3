"""`spandrel`: the user's own super-resolution network, from a .pth or .safetensors file.

spandrel (https://github.com/chaiNNer-org/spandrel) finds the architecture and its sizes from the names and shapes of
the weights, and reads .pth files with an unpickler that builds nothing but tensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from wavedp.errors import UserError
from wavedp.upscalers.bridged import Bridged, one_by_one
from wavedp.upscalers.spandrel import SpandrelConfig, file_of

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor

FACE_RESTORATION = ("GFPGAN", "RestoreFormer")  # spandrel's architectures of purpose FaceSR


def spandrel_file(config: SpandrelConfig, device: str = "cpu") -> Bridged:
    """The network in `config.path`, in evaluation mode. It gets one image at a time, since spandrel promises no more.

    Raises UserError for a file that is missing, unreadable, or of an architecture that spandrel does not know, and for
    a network that does not enlarge, takes channels other than 1 or 3, or lacks the precision or the tiles asked for.
    """
    path = file_of(config)
    model = _load(path)
    if model.purpose not in ("SR", "FaceSR") or model.scale < 2:
        raise UserError(
            f"{path} holds {model.architecture.name}, made for {model.purpose} at x{model.scale}, which is not "
            "super-resolution: give the weights of a network that enlarges."
        )
    if model.input_channels not in (1, 3) or model.output_channels != model.input_channels:
        raise UserError(
            f"{path} holds a network from {model.input_channels} to {model.output_channels} channels: give one from 1 "
            "to 1 or from 3 to 3."
        )
    if config.precision == "bfloat16" and not model.supports_bfloat16:
        raise UserError(f"{model.architecture.name} has no bfloat16 in spandrel: use upscaler.precision=float32.")
    if config.tile is not None and model.tiling.name != "SUPPORTED":
        raise UserError(f"{model.architecture.name} looks at whole images, not at tiles: use upscaler.tile=null.")
    dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    model.to(device, dtype).eval()

    def once(image: torch.Tensor) -> torch.Tensor:
        return model(image.to(device, dtype)).float()

    return Bridged("spandrel", model.scale, one_by_one(once), channels=model.input_channels, tile=config.tile)


def restores_faces(path: Path) -> bool:
    """True if the file's architecture is one for faces; False also for files that spandrel does not know."""
    import spandrel

    try:
        state = spandrel.ModelLoader().load_state_dict_from_file(path)
        found = (
            item.architecture.id for item in spandrel.MAIN_REGISTRY.architectures("detection") if item.detect(state)
        )
        return next(found, "") in FACE_RESTORATION
    except Exception:  # a damaged file makes loaders raise anything; `spandrel_file` reports it
        return False


def _load(path: Path) -> ImageModelDescriptor[torch.nn.Module]:
    import spandrel

    try:
        model = spandrel.ModelLoader("cpu").load_from_file(path)
    except spandrel.UnsupportedModelError:
        known = ", ".join(sorted(item.architecture.id for item in spandrel.MAIN_REGISTRY))
        raise UserError(
            f"{path} has an architecture that spandrel does not know: give the weights of one of {known}."
        ) from None
    except Exception as error:  # a damaged file or a half-matching architecture makes loaders raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"spandrel cannot read {path} ({reason}): give a whole .pth or .safetensors file of one model."
        ) from error
    if not isinstance(model, spandrel.ImageModelDescriptor):
        raise UserError(
            f"{path} holds {model.architecture.name}, made for {model.purpose}: give a super-resolution model."
        )
    return model

"""`spandrel`: the user's own super-resolution network, from a .pth or .safetensors file.

The file's content identifies it, never its path. It is up to the user to know that the network was not trained on the
sensitive images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, ClassVar, Literal

from wavedp import extras, weight_files
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import performance, result
from wavedp.upscalers import FACE_MODELS, NOT_STATED, LowPass, Origin, Upscaler, UpscalerMethod, face_warning


@dataclass(frozen=True)
class SpandrelConfig(LowPass):
    """The file, and how its network runs."""

    name: str = result("spandrel")
    precision: Literal["float32", "bfloat16"] = result("float32", later=True)
    tile: int | None = result(None, later=True, within="[1, inf)")  # side of a large image's tiles; None: no tiles
    path: str | None = performance(None, path=True)  # its content is in the key


class Spandrel(UpscalerMethod):
    """See the module's docstring."""

    name, Config, factor = "spandrel", SpandrelConfig, "the file's"
    origin = Origin("the file's own", "the user's file", NOT_STATED)
    published: ClassVar[dict[str, dict[str, Any]]] = {"own": {"temperature": 1.0}}

    def content(self, config: Any) -> dict[str, Any]:
        """Also the sha256 of the file. Raises UserError if there is no file."""
        return {**super().content(config), "model": {"sha256": weight_files.sha256(file_of(config))}}

    def load(self, config: Any, device: str) -> Upscaler:
        """The network in the file, of any architecture that spandrel knows."""
        extras.require("upscaler=spandrel", "spandrel")
        from wavedp.upscalers.spandrel.model import spandrel_file

        return spandrel_file(config, device)

    def check(self, trial: TrialConfig) -> list[str]:
        """Warns on a folder of faces if the name or the architecture is that of a model for faces."""
        config = trial.upscaler
        named = f"{config.name} {PurePath(config.path or '').name}".strip()
        if not face_warning(trial, True, named):  # spares opening the file
            return []
        return face_warning(trial, bool(FACE_MODELS.search(named.lower())) or self.restores_faces(config), named)

    def restores_faces(self, config: Any) -> bool:
        """True if spandrel knows the file's architecture as one for faces."""
        extras.require("upscaler=spandrel", "spandrel")
        from wavedp.upscalers.spandrel.model import restores_faces

        return restores_faces(file_of(config))

    def found(self) -> str:
        """The user names the file."""
        return "upscaler.path"


def file_of(config: SpandrelConfig) -> Path:
    """The network's file. Raises UserError when there is none."""
    if config.path is None:
        raise UserError("upscaler=spandrel needs weights: set upscaler.path to a .pth or .safetensors file.")
    path = Path(config.path).expanduser()
    if not path.is_file():
        raise UserError(f"upscaler.path={config.path} is not a file: give the .pth or .safetensors file of a model.")
    return path

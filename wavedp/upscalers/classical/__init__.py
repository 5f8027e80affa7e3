"""Upscalers without weights: Pillow's nearest, bilinear, bicubic and Lanczos filters, and the identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.upscalers import FREE, LowPass, Upscaler, UpscalerMethod


@dataclass(frozen=True)
class IdentityConfig:
    """Nothing to set."""

    name: str = result("identity")


@dataclass(frozen=True)
class ClassicalConfig(LowPass):
    """Filters share the option of all ready-made upscalers, and have no other."""

    name: str = result("bicubic")


class Identity(UpscalerMethod):
    """No second stage: at level 0 the coarse image is the whole image."""

    name, Config, origin, factor, tried = "identity", IdentityConfig, FREE, "x1", True
    published: ClassVar[dict[str, dict[str, Any]]] = {"own": {"temperature": 1.0}}

    def load(self, config: Any, device: str) -> Upscaler:
        """Takes factor 1 only."""
        from wavedp.upscalers.classical.model import IdentityModel

        return IdentityModel()

    def require_files(self, trial: TrialConfig) -> None:
        """None; the coarse image must be the whole image."""
        if trial.level:
            raise UserError(f"upscaler=identity cannot upscale by {2**trial.level}: use level=0 or another upscaler.")


class Nearest(UpscalerMethod):
    """Repeats every pixel."""

    name, Config, origin, tried = "nearest", ClassicalConfig, FREE, True
    published: ClassVar[dict[str, dict[str, Any]]] = {"own": {"temperature": 1.0}}

    def load(self, config: Any, device: str) -> Upscaler:
        """Pillow's filter of this name."""
        from wavedp.upscalers.classical.model import Classical

        return Classical(self.name)  # type: ignore[arg-type]


class Bilinear(Nearest):
    """Triangle filter."""

    name = "bilinear"


class Bicubic(Nearest):
    """Cubic filter."""

    name = "bicubic"


class Lanczos(Nearest):
    """Sinc filter of three lobes."""

    name = "lanczos"

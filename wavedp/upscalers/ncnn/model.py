"""ncnn graphs as upscalers. Two engines run the same files: ncnn on the CPU,
each image through the network alone, and torch (wavedp.upscalers.ncnn.torch_graph) in batches, on any device. A test holds
them to 1e-2 of full scale.

Borders are left to the networks' own zero padding. Reflecting or replicating 2 to 8 pixels around the 14x14 and 7x7
block means of 150 Fashion-MNIST images, and cropping afterwards, lowered PSNR for every model (x4plus at 14x14: 20.6 dB
without padding, 19.7 dB with 4 replicated pixels; at 7x7: 15.2 dB and 15.0 dB).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from wavedp.errors import UserError
from wavedp.upscalers.bridged import Bridged
from wavedp.upscalers.ncnn import NetworkConfig
from wavedp.upscalers.ncnn.torch_graph import torch_pass
from wavedp.upscalers.ncnn.weights import WEIGHTS, find_weights


def published(config: NetworkConfig, device: str = "cpu") -> Bridged:
    """The network of WEIGHTS that `config.name` says, on the engine that it asks for; ncnn's is always on the CPU.

    Raises UserError when `find_weights` does, or for bfloat16 with engine=ncnn.
    """
    graph, factor = find_weights(config.name, config.weights), WEIGHTS[config.name].factor
    if config.engine == "torch":
        once = torch_pass(graph, device, config.precision, config.channels_last)
        return Bridged(config.name, factor, once, batch_size=config.batch_size, tile=config.tile)
    if config.precision != "float32":
        raise UserError(
            f"upscaler.precision={config.precision} is not for upscaler.engine=ncnn: use engine=torch, or float32."
        )
    threads = min(torch.get_num_threads(), config.batch_size)
    return Bridged(config.name, factor, NcnnPass(graph, threads), batch_size=threads, tile=config.tile)


class NcnnPass:
    """One pass of a graph on the CPU: B 3 h w float32 -> B 3 h*s w*s, not clipped. Each image is a run of its own, so
    none can influence another; ncnn lets go of Python's lock while it runs, so `threads` of them run beside each other,
    which suits images too small to keep the threads of one run busy."""

    def __init__(self, graph: Path, threads: int = 1) -> None:
        """Raises UserError for files that ncnn does not read."""
        import ncnn

        self._graph, self._threads = graph, threads
        self._net = ncnn.Net()
        # Never changed later: ncnn lays its weights out for it, and complains at every layer of a run if it changes.
        self._net.opt.num_threads = max(torch.get_num_threads() // threads, 1)
        if self._net.load_param(str(graph)) or self._net.load_model(str(graph.with_suffix(".bin"))):
            raise UserError(f"ncnn cannot read {graph}: install the ncnn version that pyproject.toml asks for.")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        alone = [image.cpu() for image in images]
        beside = min(self._threads, len(alone))
        if beside == 1:
            return torch.stack([self._run(image) for image in alone])
        with ThreadPoolExecutor(beside) as pool:
            return torch.stack(list(pool.map(self._run, alone)))

    def _run(self, image: torch.Tensor) -> torch.Tensor:
        """3 h w -> 3 h*s w*s."""
        import ncnn

        extractor = self._net.create_extractor()
        # A Mat borrows the memory of the array that it is made from: the array must have a name, else Python frees it
        # before clone() copies it, and the network sees whatever lies there next.
        pixels = np.ascontiguousarray(image.numpy())
        extractor.input("data", ncnn.Mat(pixels).clone())
        status, output = extractor.extract("output")
        if status:
            raise RuntimeError(
                f"ncnn stopped with status {status} on {self._graph.stem} and an image of shape {list(image.shape)}"
            )
        return torch.from_numpy(np.array(output))

"""ncnn graphs as upscalers, run by one of two engines from the same files.

ncnn takes one image at a time, on the CPU; torch (wavedp.upscalers.ncnn.torch_graph) takes batches, on any device. A
test holds their difference below 1e-4 of full scale.

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
from wavedp.upscalers.ncnn import NetworkConfig, require_engine
from wavedp.upscalers.ncnn.torch_graph import torch_pass
from wavedp.upscalers.ncnn.weights import WEIGHTS, find_weights


def published(config: NetworkConfig, device: str = "cpu") -> Bridged:
    """The network of this name in WEIGHTS, on the engine that `config` asks for; ncnn always runs on the CPU.

    Raises UserError when `find_weights` does, and for bfloat16 with engine=ncnn.
    """
    graph, factor = find_weights(config.name, config.weights), WEIGHTS[config.name].factor
    if config.engine == "torch":
        once = torch_pass(graph, device, config.precision, config.channels_last)
        return Bridged(config.name, factor, once, batch_size=config.batch_size, tile=config.tile)
    require_engine(config)
    threads = min(torch.get_num_threads(), config.batch_size)
    return Bridged(config.name, factor, NcnnPass(graph, threads), batch_size=threads, tile=config.tile)


class NcnnPass:
    """One pass of a graph on the CPU: B 3 h w float32 -> B 3 h*s w*s, not clipped.

    Each image is a run of its own, so that none influences another. ncnn releases Python's lock, so `threads` runs go
    on at the same time: small images would not keep several threads of one run busy.
    """

    def __init__(self, graph: Path, threads: int = 1) -> None:
        """Raises UserError for files that ncnn does not read."""
        import ncnn

        self._graph, self._threads = graph, threads
        self._net = ncnn.Net()
        # Set before the weights are loaded: ncnn arranges them for it, and warns at every layer if it changes later.
        self._net.opt.num_threads = max(torch.get_num_threads() // threads, 1)
        if self._net.load_param(str(graph)) or self._net.load_model(str(graph.with_suffix(".bin"))):
            raise UserError(f"ncnn cannot read {graph}: install the ncnn version that pyproject.toml asks for.")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        single = [image.cpu() for image in images]
        threads = min(self._threads, len(single))
        if threads == 1:
            return torch.stack([self._run(image) for image in single])
        with ThreadPoolExecutor(threads) as pool:
            return torch.stack(list(pool.map(self._run, single)))

    def _run(self, image: torch.Tensor) -> torch.Tensor:
        """3 h w -> 3 h*s w*s."""
        import ncnn

        extractor = self._net.create_extractor()
        # A Mat borrows the memory of the array it is made from. Without a variable for that array, Python would free it
        # before clone() copies it, and the network would see whatever is written there next.
        pixels = np.ascontiguousarray(image.numpy())
        extractor.input("data", ncnn.Mat(pixels).clone())
        status, output = extractor.extract("output")
        if status:
            raise RuntimeError(
                f"ncnn stopped with status {status} on {self._graph.stem} and an image of shape {list(image.shape)}"
            )
        return torch.from_numpy(np.array(output))

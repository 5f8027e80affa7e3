"""Images a second of the published networks on ncnn, on torch one at a time, and on torch in batches, for 14×14 coarse
images enlarged by 2 and by 4.

    python tests/bench/bench_upscalers.py [--images 8] [--repeats 3] [--threads 1] [--device cpu]

The three take turns, so that a busy machine slows all; medians count. The ratio is to ncnn, which stays on the CPU.
"""

import argparse
import statistics
import time

import torch

from wavedp.config import configure
from wavedp.upscalers import load


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{options.images} images of 14×14, {options.threads} threads, torch on {options.device}, median of "
        f"{options.repeats} alternating"
    )
    ways = {
        "ncnn": {"engine": "ncnn", "batch_size": 1},
        "torch": {"engine": "torch", "batch_size": 1},
        "torch, batched": {"engine": "torch", "batch_size": options.images},
        "batched, channels_last": {"engine": "torch", "batch_size": options.images, "channels_last": True},
    }
    images = torch.rand(options.images, 1, 14, 14)
    for name, factor in [
        ("realesrgan_x4plus", 2),
        ("realesrgan_x4plus", 4),
        ("animevideov3_x2", 2),
        ("animevideov3_x4", 4),
    ]:
        upscalers = {way: load(configure("upscaler", name, **fields), options.device) for way, fields in ways.items()}
        seconds = {way: [] for way in ways}
        for upscaler in upscalers.values():
            upscaler.upscale(images[:2], factor)  # the first call prepares kernels
        for repeat in range(options.repeats):
            for way in list(ways)[:: -1 if repeat % 2 else 1]:
                start = time.perf_counter()
                upscalers[way].upscale(images, factor)  # its result comes to the CPU, so the GPU is done
                seconds[way].append(time.perf_counter() - start)
        median = {way: statistics.median(values) for way, values in seconds.items()}
        print(
            f"{name:>18} x{factor}  "
            + ", ".join(
                f"{way} {options.images / value:7.2f} images/s ({median['ncnn'] / value:.2f}x)"
                for way, value in median.items()
            )
        )


if __name__ == "__main__":
    main()

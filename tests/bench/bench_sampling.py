"""Sampling with the KV cache and by recomputing the whole prefix, at every level: the gain of the cache, and of
stopping at the private tokens.

    python tests/bench/bench_sampling.py [--images 100] [--repeats 3] [--threads 1]

The two take turns, so that a busy machine slows both; medians count. Of 28×28 images at levels 2, 1 and 0 the spectral
tokenizer has 49, 98 and 147 tokens, the scalar one 49, 98 and 294.
"""

import argparse
import statistics
import time

import torch

from wavedp.config import configure
from wavedp.generators.conditions import ClassCondition
from wavedp.generators.spectral_ar.transformer import SpectralTransformer
from wavedp.tokenizers import untrained


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = configure("generator", "spectral_ar")
    print(
        f"{options.images} images, width {config.width}, depth {config.depth}, median of {options.repeats} alternating"
    )
    for name, level in [("spectral", 2), ("spectral", 1), ("spectral", 0), ("scalar", 0)]:
        tokenizer = untrained(configure("tokenizer", name), (1, 28, 28), level)
        condition = ClassCondition(10, config.width)
        model = SpectralTransformer(tokenizer, condition, config.width, config.depth, config.heads).eval()
        labels, uniforms = torch.arange(options.images) % 10, torch.rand(options.images, tokenizer.length)
        seconds = {True: [], False: []}
        for repeat in range(options.repeats):
            for cached in (True, False) if repeat % 2 else (False, True):
                start = time.perf_counter()
                model.sample(labels, uniforms, cached=cached)
                seconds[cached].append(time.perf_counter() - start)
        with_cache, without = (statistics.median(seconds[cached]) for cached in (True, False))
        print(
            f"{name:>8} level {level} {tokenizer.length:>4} tokens  cache {with_cache:.2f} s, without {without:.2f} s  "
            f"ratio {without / with_cache:5.1f}x  {options.images / with_cache:7.1f} images/s"
        )


if __name__ == "__main__":
    main()

"""FID features per second, ours against clean-fid's own loop, with the same network file.

    python tests/bench/bench_fid_features.py --images 100 --rounds 3 --threads 1

Both read the same images: clean-fid from a folder of PNG files, as it does in use, ours from a uint8 tensor without a
cache; clean-fid in its default batches of 32, ours in the default ones and in batches of 50. The order alternates from
round to round and medians are compared, so a busy machine slows all.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
from cleanfid import fid as cleanfid
from PIL import Image

from wavedp.config import MetricsConfig
from wavedp.metrics.features import extract, find_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")

    config = MetricsConfig()
    images = torch.randint(0, 256, (options.images, 1, options.size, options.size), dtype=torch.uint8)
    network = torch.jit.load(find_network(None)).eval()

    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(images):
            Image.fromarray(image[0].numpy()).convert("RGB").save(Path(folder) / f"{i:05}.png")

        def theirs():
            return cleanfid.get_folder_features(
                folder,
                model=lambda batch: network((batch - 128) / 128),
                num_workers=0,
                batch_size=32,
                device=torch.device("cpu"),
                mode="clean",
                verbose=False,
            )

        def ours(batch_size=config.batch_size):
            return extract(images, dataclasses.replace(config, batch_size=batch_size)).numpy()

        # The first passes load and optimise the networks; they also show that both compute the same.
        print(f"largest difference of a feature: {abs(theirs() - ours()).max():.1e}")
        entries = {"wavedp": ours, "clean-fid": theirs, "wavedp in batches of 50": lambda: ours(50)}
        seconds: dict[str, list[float]] = {name: [] for name in entries}
        for round_ in range(options.rounds):
            for name, compute in list(entries.items())[:: 1 if round_ % 2 == 0 else -1]:
                start = time.perf_counter()
                compute()
                seconds[name].append(time.perf_counter() - start)

    rates = {name: options.images / statistics.median(times) for name, times in seconds.items()}
    for name, rate in rates.items():
        print(f"{name:>23}: {rate:6.1f} images/s   wavedp / this: {rates['wavedp'] / rate:.2f}")


if __name__ == "__main__":
    main()

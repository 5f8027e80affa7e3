"""FID features per second, ours against clean-fid's own loop, with the same network file.

    python tests/bench/bench_fid_features.py --images 60 --rounds 3 --threads 1 [--device cpu]

Both read the same images: clean-fid from a folder of PNG files, as it does in use, ours from a uint8 tensor without a
cache; clean-fid in its default batches of 32, ours in the default ones and in batches of 50. The order alternates from
round to round and medians are compared. On a busy machine the ratio of processor seconds is the one to trust: it leaves
out the time in which something else ran.

--device cuda: ours there, in passes of 50 (the fewest there) and 250, each with cuDNN's choice of algorithms by trial
(torch.backends.cudnn.benchmark) and without: float32 is bound by arithmetic, and how fast it is depends on that choice.
clean-fid stays on the CPU and only says what the features are.
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
from wavedp.metrics.features import extract
from wavedp.metrics.network_file import find_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
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

        def ours(batch_size=config.batch_size, by_trial=False):
            torch.backends.cudnn.benchmark = by_trial
            chosen = dataclasses.replace(config, batch_size=batch_size)
            return extract(images, chosen, device=options.device).numpy()

        # The first passes load and optimise the networks; they also show that both compute the same.
        expected, found = theirs(), ours()
        difference, scale = abs(expected - found).max(), abs(expected).max()
        print(f"largest difference of a feature: {difference:.1e}, {difference / scale:.1e} of the largest feature")
        entries = {"wavedp": ours, "clean-fid": theirs, "wavedp in batches of 50": lambda: ours(50)}
        if options.device != "cpu":
            entries |= {
                "clean-fid": entries.pop("clean-fid"),
                "batches of 50, by trial": lambda: ours(50, by_trial=True),
                "batches of 250": lambda: ours(250),
                "batches of 250, by trial": lambda: ours(250, by_trial=True),
            }
        clocks = {"wall clock": time.perf_counter, "processor": time.process_time}
        seconds: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in entries} for clock in clocks}
        for round_ in range(options.rounds):
            for name, compute in list(entries.items())[:: 1 if round_ % 2 == 0 else -1]:
                start = {clock: now() for clock, now in clocks.items()}
                compute()
                for clock, now in clocks.items():
                    seconds[clock][name].append(now() - start[clock])

    for clock, taken in seconds.items():
        rates = {name: options.images / statistics.median(times) for name, times in taken.items()}
        for name, rate in rates.items():
            print(
                f"{clock:>10} {name:>24}: {rate:6.1f} images/s   wavedp / this: {rates['wavedp'] / rate:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Planning and checking a grid of thousands of trials: CPU time a trial, and of what a dry run does once.

    python tests/bench/bench_plan.py [--seeds 167]

The grid is full_grid's, 60 trials a seed, on procedural images. CPU time, so that a busy machine matters less.
"""

import argparse
import dataclasses
import math
import time

from sweeps.plan import plan
from wavedp import checks
from wavedp.config import DataConfig, TrialConfig, to_dict

GRID = {
    "epsilon": [1, 3, 5, 10, math.inf],
    "level": [0, 1, 2],
    "upscaler": ["bicubic", "lanczos", "realesrgan_x4plus", "realsr_df2k_x4"],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=167)
    options = parser.parse_args()
    images = DataConfig(name="procedural", n_records=512)
    public = DataConfig(name="procedural", split="public", n_records=512)
    base = to_dict(dataclasses.replace(TrialConfig(), data=images, public=public))

    def planned(seeds):
        return plan(base, {"grid": GRID, "seeds": seeds}, lambda group, option: {"name": option})

    started = time.process_time()
    for trial in planned([options.seeds]):  # fingerprints and the noise of every ε
        checks.check(trial.config)
    once = time.process_time()
    trials = planned(list(range(options.seeds)))
    made = time.process_time()
    for trial in trials:
        checks.check(trial.config)
    checked = time.process_time()
    print(
        f"{len(trials):,} trials: {once - started:.2f} s once, then {1e3 * (made - once) / len(trials):.3f} ms to plan "
        f"and {1e3 * (checked - made) / len(trials):.3f} ms to check each; {checked - started:.2f} s in all"
    )


if __name__ == "__main__":
    main()

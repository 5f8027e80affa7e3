"""A study of a thousand trials whose stages are nearly empty: what the conductor itself costs.

    python tests/bench/bench_conductor.py [--trials 1000] [--folder DIR] [--cpus 2]

Prints the peak memory of the processes on the head beyond Ray's own (the driver and the coordinator; PSS, so that what
two share counts once), the driver's CPU time a trial beyond its start, the coordinator's, and the time between the end
of a stage and the start of the next one of the same trial, by the trial's own record. CPU times, so that a busy machine
matters less; the pauses are of the wall clock.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
TRIVIAL = [
    "sweep.grid.epsilon=[0]",
    "~sweep.grid.upscaler",
    "sampling.n=10",
    "metrics.fid_samples=10",
    "metrics.reference_samples=10",
    "metrics.downstream_steps=0",
    "metrics.kid=false",
    "metrics.floor=false",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="for the study (a temporary one)")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--override", nargs="*", default=[], help="more settings of the study")
    chosen = parser.parse_args()
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="many-"))
    folder.mkdir(parents=True, exist_ok=True)
    typed = [
        sys.executable,
        "-m",
        "sweeps.run",
        "+sweep=smoke",
        *TRIVIAL,
        f"sweep.sampling_seeds=range({chosen.trials})",
    ]
    typed += [f"results={folder / 'results'}", f"store={folder / 'store'}", f"ray.num_cpus={chosen.cpus}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("wb") as log:
        driver = subprocess.Popen([*typed, *chosen.override], cwd=folder, env=environment, stdout=log, stderr=log)
    peak, cpu, first, began = {"driver": 0, "coordinator": 0}, {}, {}, 0.0
    while driver.poll() is None:
        found = {"driver": psutil.Process(driver.pid), "coordinator": coordinator(driver.pid)}
        for name, process in found.items():
            with contextlib.suppress(psutil.Error, AttributeError):
                peak[name] = max(peak[name], process.memory_full_info().pss)
                cpu[name] = sum(process.cpu_times()[:2])
                if found["coordinator"]:
                    began = began or time.monotonic()
                    first.setdefault(name, cpu[name])
        time.sleep(0.5)
    seconds = time.monotonic() - began
    rows = [json.loads(line) for line in next((folder / "results").glob("*/trials.jsonl")).read_text().splitlines()]
    done = sum(row["status"] == "done" for row in rows)
    print(f"{done} of {len(rows)} trials done in {seconds / 60:.1f} minutes, {seconds / len(rows):.2f} s each")
    print(f"peak memory: {', '.join(f'{name} {size / 2**20:.0f} MiB' for name, size in peak.items())}")
    for name in cpu:
        each = 1e3 * (cpu[name] - first[name]) / len(rows)
        print(f"CPU time of the {name}: {each:.1f} ms a trial, {cpu[name]:.0f} s with its start")
    pauses = sorted(pauses_of(folder))
    if pauses:
        print(
            f"{len(pauses)} pauses from a stage's end to the start of the trial's next: median "
            f"{statistics.median(pauses):.3f} s, 95 % below {pauses[int(0.95 * len(pauses))]:.3f} s"
        )
    return driver.returncode or int(done != len(rows))


def coordinator(driver: int) -> psutil.Process | None:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, IndexError):
            if process.cmdline()[0].startswith("ray::Coordinator") and driver in {
                each.pid for each in process.parents()
            }:
                return process
    return None


def pauses_of(folder: Path) -> list[float]:
    """From the store: when a stage's manifest was written, and when the next stage of its trial took its lock."""
    store, found = folder / "store", []
    for row in map(json.loads, next((folder / "results").glob("*/trials.jsonl")).read_text().splitlines()):
        names = [name for name in ("coarse_samples", "upscale", "evaluate") if name in row["keys"]]
        for before, after in itertools.pairwise(names):
            ended = (store / before / row["keys"][before] / "manifest.json").stat().st_mtime
            begun = (store / "work" / "locks" / f"{after}-{row['keys'][after]}").stat().st_mtime
            found.append(begun - ended)
    return found


if __name__ == "__main__":
    sys.exit(main())

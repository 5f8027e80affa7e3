"""Every bench starts: the numbers they print are for people, but a bench that refuses its own images is no bench."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent / "bench"
SMALL = {
    "bench_blur": "--repeats 1",
    "bench_conductor": "--trials 2",
    "bench_dp_step": "--repeats 1 --records 4 --model unet",
    "bench_fid_features": "--images 2 --rounds 1",
    "bench_memory_in_n": "--records 60 --size 32 --level 1",
    "bench_plan": "--seeds 1",
    "bench_public": "--steps 2 --repeats 1 --only pretraining",  # all of them take two minutes
    "bench_sampling": "--images 1 --repeats 1",
    "bench_step_draws": "--records 64 --batch 8 --draws 4 --parameters 16 --milliseconds 1 --steps 3 --repeats 1",
    "bench_upscalers": "--images 1 --repeats 1",
    "bench_wavelets": "--repeats 1",
}


def test_every_bench_is_tried():
    assert sorted(SMALL) == sorted(path.stem for path in BENCH.glob("bench_*.py"))


@pytest.mark.parametrize("name", SMALL)
def test_a_bench_measures(name):
    command = [sys.executable, str(BENCH / f"{name}.py"), *SMALL[name].split()]
    here = {**os.environ, "PYTHONPATH": str(BENCH.parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=here, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"\d", done.stdout)

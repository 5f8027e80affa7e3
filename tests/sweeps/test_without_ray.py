"""A study made in pieces elsewhere, and finished by its own command: the same numbers, no second release."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wavedp.run import read_plan

ROOT = Path(__file__).parents[2]
SMOKE = ["+sweep=smoke", "privacy.steps=80", "privacy.checkpoint_every=4"]
SHARDS = 3


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "BROWSER_PATH": "/nonexistent"}


def call(folder, module, *arguments, status=0):
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def study(folder):
    return call(folder, "sweeps.run", *SMOKE, f"results={folder / 'results'}", f"store={folder / 'store'}")


def rows(folder, name="trials.jsonl"):
    return [json.loads(line) for line in (folder / "results" / "smoke" / name).read_text().splitlines()]


def kill_in_its_private_fit(folder, *arguments):
    """Start a shard, and pull the plug once its private fit has written a checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "wavedp.run", *arguments], cwd=folder, env=environment(), stdout=subprocess.DEVNULL
    )
    store = Path(arguments[arguments.index("--store") + 1])
    deadline = time.time() + 300
    while not list((store / "work").glob("private_fit-*/checkpoint.safetensors")):
        assert process.poll() is None
        assert time.time() < deadline, "no checkpoint appeared"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_three_shards_one_of_them_killed_make_the_study_of_one_machine(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    study(whole)

    plan = parts / "plan.json"
    assert "4 trials on 2 private fits" in call(parts, "sweeps.run", *SMOKE, f"plan={plan}")
    trials = read_plan(plan)
    fits = {int(trial.keys["private_fit"], 16) % SHARDS + 1 for trial in trials}
    for number in range(1, SHARDS + 1):
        store = parts / f"store{number}"
        shard = [str(plan), "--store", str(store), "--shard", f"{number}/{SHARDS}"]
        if number == min(fits):
            kill_in_its_private_fit(parts, *shard)
        call(parts, "wavedp.run", *shard)
        if number in fits:
            call(parts, "wavedp.store", "pack", f"{number}.tar", "--store", str(store))
            call(parts, "wavedp.store", "unpack", f"{number}.tar", "--store", str(parts / "store"))

    collected = parts / "collected"
    forbidden = "import sys; sys.modules |= {'ray': None, 'hydra': None}; from sweeps.collect import main"
    arguments = [str(plan), "--store", "store", "--results", str(collected / "results")]
    command = f"{forbidden}; sys.exit(main({arguments}))"
    subprocess.run([sys.executable, "-c", command], cwd=parts, env=environment(), check=True, timeout=300)

    printed = study(parts)
    assert "private releases: 1 (0 new)" in printed
    assert all(set(row["reused"]) == set(row["keys"]) and row["seconds"] == {} for row in rows(parts))
    made = (whole, parts, collected)
    numbers = [{row["trial"]: (row["metrics"], row["epsilon_spent"]) for row in rows(at)} for at in made]
    assert numbers[0] == numbers[1] == numbers[2]
    ledgers = [
        {(line["purpose"], line["stage_key"], line["release"]) for line in rows(at, "ledger.jsonl")} for at in made
    ]
    assert ledgers[0] == ledgers[1] == ledgers[2]
    pictures = [sorted(at.glob("results/smoke/samples/*")) for at in made]
    assert [[path.read_bytes() for path in each] for each in pictures[1:]] == [
        [path.read_bytes() for path in pictures[0]]
    ] * 2

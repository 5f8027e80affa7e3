"""Drivers and workers killed in the middle of a private fit: the same command ends it, in the same ledger."""

import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
from typed import command, environment, rows, run

from wavedp.privacy import ledger
from wavedp.store import Store

# One trial whose private fit lasts long enough to be killed in its middle.
LONG_FIT = [
    "+sweep=smoke", "~sweep.grid.upscaler", "sweep.grid.epsilon=[10]",
    "privacy.steps=120", "privacy.checkpoint_every=4",
    "metrics.downstream_steps=0", "metrics.kid=false", "metrics.fid_samples=16", "metrics.reference_samples=16",
]  # fmt: skip


def start(folder: Path, log) -> subprocess.Popen:
    return subprocess.Popen(command(folder, *LONG_FIT), cwd=folder, env=environment(), stdout=log, stderr=log)


def released_weights(folder: Path):
    (row,) = rows(folder)
    return Store(str(folder / "store")).open("private_fit", row["keys"]["private_fit"]).tensors("weights")


def wait_for_checkpoint(folder: Path, process: subprocess.Popen) -> Path:
    """The checkpoint of the running private fit, once it was written."""
    deadline = time.time() + 600
    while time.time() < deadline:
        found = list((folder / "store" / "work").glob("private_fit-*/checkpoint.safetensors"))
        if found:
            return found[0]
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("no checkpoint appeared")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    done = run(folder, *LONG_FIT)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_a_killed_driver_continues_from_the_checkpoint(uninterrupted, tmp_path):
    with open(tmp_path / "log", "w", encoding="utf-8") as log:
        process = start(tmp_path, log)
        checkpoint = wait_for_checkpoint(tmp_path, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "results/smoke/trials.jsonl").exists()
    # Ray's processes follow their driver; the resumed run must not race with a worker that is still dying.
    time.sleep(3)
    done = run(tmp_path, *LONG_FIT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not checkpoint.parent.exists()  # it holds the noise, and has served
    assert_same_release(tmp_path, uninterrupted)


@pytest.mark.slow
def test_a_killed_worker_is_replaced(uninterrupted, tmp_path):
    with open(tmp_path / "log", "w", encoding="utf-8") as log:
        process = start(tmp_path, log)
        wait_for_checkpoint(tmp_path, process)
        workers = [
            child for child in psutil.Process(process.pid).children(recursive=True)
            if "private_fit" in " ".join(child.cmdline())
        ]  # fmt: skip
        assert workers, "no worker shows the name of its task"
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
        assert process.wait(300) == 0, (tmp_path / "log").read_text()
    assert_same_release(tmp_path, uninterrupted)


def assert_same_release(folder: Path, expected: Path):
    """Each release once in the ledger, the weights of the run that nobody disturbed, the same metrics."""
    lines = ledger.read(folder / "results/smoke/ledger.jsonl")
    assert [line["kind"] for line in lines].count("dp_sgd") == 1
    ours, theirs = released_weights(folder), released_weights(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-6, atol=1e-7, msg=name)
    (row,), (other,) = rows(folder), rows(expected)
    assert row["metrics"] == pytest.approx(other["metrics"], rel=1e-4)
    assert row["keys"] == other["keys"]

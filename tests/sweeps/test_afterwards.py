"""What a killed driver leaves of its own Ray cluster is gone some seconds later, and nothing else is."""

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sweeps import afterwards, machines

ROOT = Path(__file__).resolve().parents[2]
SOON = 12  # seconds; by themselves Ray's agents stay for sixty

WATCHING = """
import sys, time
from pathlib import Path
from sweeps.afterwards import watch
watch(Path(sys.argv[1]))
print("watched", flush=True)
time.sleep(600)
"""

WITH_RAY = """
import time
import ray
from sweeps.machines import start_ray
start_ray({"num_cpus": 1})
ray.get(ray.remote(lambda: None).remote())
print("started", flush=True)
time.sleep(600)
"""


@pytest.fixture
def begun():
    """Starts processes, which end with the test."""
    processes = []

    def begin(*command, **options):
        processes.append(subprocess.Popen(command, **options))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def driver(begin, code, *arguments):
    """A driver that has said that it is ready."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = begin(
        sys.executable, "-c", code, *arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout.readline()
    return process


def watcher(process):
    (found,) = (
        child for child in psutil.Process(process.pid).children() if str(Path(afterwards.__file__)) in child.cmdline()
    )
    return found


@pytest.fixture
def pretend(tmp_path, begun):
    """Starts a process with a title, that has a log in a session's folder open."""

    def start(title, session, script="while :; do sleep 0.2; done", *arguments):
        (tmp_path / session / "logs").mkdir(parents=True, exist_ok=True)
        program = tmp_path / title
        if not program.exists():
            program.symlink_to(shutil.which("bash"))
        with open(tmp_path / session / "logs" / f"{title}.out", "w", encoding="utf-8") as log:
            return begun(str(program), "-c", script, *arguments, stdout=log)

    return start


def test_agents_and_workers_of_this_cluster_are_ended_and_nothing_else(tmp_path, pretend, begun):
    agent = pretend("ray::Agent", "session_1")
    deaf = pretend("ray::Worker", "session_1", "trap '' TERM; while :; do sleep 0.2; done")
    starting = pretend(
        "python", "session_1", "while :; do sleep 0.2; done", "/lib/ray/_private/workers/default_worker.py"
    )
    other, reader = pretend("ray::Agent", "session_12"), pretend("tail", "session_1")
    killed = driver(begun, WATCHING, str(tmp_path / "session_1"))
    watching = watcher(killed)
    killed.kill()
    assert select.select([killed.stdout], [], [], afterwards.GRACE_SECONDS / 2)[0]  # nobody else has it open
    assert agent.wait(SOON) == -15
    assert deaf.wait(SOON) == -9
    assert starting.wait(SOON) == -15
    watching.wait(SOON)
    assert (other.poll(), reader.poll()) == (None, None)


def test_while_the_driver_lives_nothing_is_ended(tmp_path, pretend, begun):
    agent = pretend("ray::Agent", "session_1")
    living = driver(begun, WATCHING, str(tmp_path / "session_1"))
    time.sleep(afterwards.GRACE_SECONDS + 1)
    assert agent.poll() is None
    assert os.getsid(watcher(living).pid) == watcher(living).pid  # Ctrl-C in a terminal does not reach it


@pytest.mark.parametrize(("address", "watched"), [(None, True), ("auto", False), ("127.0.0.1:6379", False)])
def test_a_cluster_that_is_joined_is_left_alone(address, watched, monkeypatch):
    class Context:
        address_info = {"session_dir": "/tmp/ray/session_x", "gcs_address": "10.0.0.1:6379"}  # noqa: RUF012
        dashboard_url = "10.0.0.1:8265"

    seen, heads = [], []
    monkeypatch.setattr(machines.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(machines.ray, "init", lambda **_: Context())
    monkeypatch.setattr(machines, "refuse_unanswered", lambda _: None)
    monkeypatch.setattr(machines, "watch", seen.append)
    monkeypatch.setattr(machines.head, "watch", heads.append)
    monkeypatch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
    assert machines.start_ray({"address": address}) == (None if watched else "http://10.0.0.1:8265")
    assert seen == [Path("/tmp/ray/session_x")] * watched
    assert heads == ["10.0.0.1:6379"] * (not watched)


@pytest.mark.slow
def test_a_killed_driver_leaves_nothing_of_ray_and_another_cluster_runs_on(begun):
    killed, beside = driver(begun, WITH_RAY), driver(begun, WITH_RAY)
    left, others = (psutil.Process(process.pid).children(recursive=True) for process in (killed, beside))
    others = [process for process in others if "Agent" in process.name() or process.name() == "raylet"]
    assert len(others) == 3
    killed.kill()
    killed.wait()
    _, alive = psutil.wait_procs(left, timeout=SOON)
    assert [process.name() for process in alive] == []
    assert all(process.is_running() for process in others)

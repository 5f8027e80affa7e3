"""Machines that hinder Ray, and addresses where no cluster is: one sentence, soon."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeps import machines
from wavedp.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def test_something_that_is_no_ray_cluster(monkeypatch):
    monkeypatch.setattr(machines, "RAY_SECONDS", 3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=f"no Ray cluster answers at ray.address={address}"):
            machines.refuse_unanswered(address)


def test_auto_means_what_the_environment_says(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")
    with pytest.raises(UserError, match=r"ray\.address=somewhere is not the host:port"):
        machines.refuse_unanswered("auto")


def test_an_address_of_ray_client_gets_the_right_word():
    with pytest.raises(UserError, match=r"ray://head:10001 is of Ray Client, .* `ray job submit`"):
        machines.refuse_unanswered("ray://head:10001")


def test_sockets_get_a_short_path(tmp_path):
    long, file, short = tmp_path / ("long" * 20), Path("/dev/null"), Path("/tmp/ray")
    assert machines.short_folder(long, file, short) == short
    assert not long.exists()
    with pytest.raises(UserError, match=r"can't keep its sockets in .*longlong"):
        machines.short_folder(long, file)


@pytest.mark.slow
def test_ray_starts_without_a_home_and_with_a_long_temporary_folder(tmp_path):
    (tmp_path / "home").write_text("a file, so that nothing can be written below it", encoding="utf-8")
    code = (
        "import ray, sweeps.machines as machines; machines.start_ray({'num_cpus': 1}); print(len(ray.nodes()), 'node')"
    )
    long = tmp_path / ("long" * 20)
    long.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(long), "RAY_AUTH_MODE": "token"}
    environment["HOME"] = str(tmp_path / "home")
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8", timeout=200
    )
    assert done.stdout == "1 node\n", done.stderr


TOKEN = """
import os, subprocess, sys
import sweeps.machines as machines
machines.start_ray({"address": sys.argv[1], "ship_code": False})
import ray
@ray.remote(num_cpus=0)
class Actor:
    def name(self): return "an actor"
print(os.environ["RAY_AUTH_MODE"], ray.get(Actor.remote().name.remote()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["token", "disabled"])
def test_a_token_is_shown_to_a_head_that_asks_for_one_and_to_no_other(mode, tmp_path):
    """A head without one can't call back a driver that has one: its actors would be cancelled."""
    (tmp_path / "home" / ".ray").mkdir(parents=True)
    (tmp_path / "home" / ".ray" / "auth_token").write_text("ab" * 32, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home"), "RAY_AUTH_MODE": mode}
    start = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        f"--port={port}",
        "--num-cpus=0",
    ]
    head = subprocess.Popen(
        [*start, "--include-dashboard=false", "--node-ip-address=127.0.0.1"], env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until = time.monotonic() + 90
        while socket.socket().connect_ex(("127.0.0.1", port)) and time.monotonic() < until:
            time.sleep(0.2)
        del environment["RAY_AUTH_MODE"]
        done = subprocess.run(
            [sys.executable, "-c", TOKEN, f"127.0.0.1:{port}"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.stdout == f"{mode} an actor\n", done.stderr
    finally:
        head.terminate()
        head.wait()


NODES = [
    {"Alive": True, "Resources": {"CPU": 8.0}},
    {"Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0, "memory": 1e9, "gpu_memory_gb": 40.0}},
    {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"num_cpus": 8}, None),
        ({"num_cpus": 2, "num_gpus": 0.5, "resources": {"gpu_memory_gb": 20}}, None),
        ({"num_gpus": 2}, r"for 2 GPU and no node has more than 1: lower ray\.stages\.upscale\.num_gpus"),
        ({"num_cpus": 9}, r"for 9 CPU and no node has more than 8: lower ray\.stages\.upscale\.num_cpus"),
        ({"num_cpus": 4, "num_gpus": 1}, r"for 4 CPU, 1 GPU together, which no single node has"),
        ({"resources": {"gpu_memory_gb": 80}}, r"80 gpu_memory_gb .* ray\.stages\.upscale\.resources\.gpu_memory_gb"),
        ({"accelerator_type": "H100"}, r"lower ray\.stages\.upscale\.accelerator_type"),
        ({"memory": 2e9}, r"ray\.elastic=true if such a machine will join"),
    ],
)
def test_a_stage_that_no_node_can_run_is_refused(monkeypatch, asked, words):
    monkeypatch.setattr(machines.ray, "nodes", lambda: NODES)
    if words is None:
        machines.check_resources({"upscale": asked})
    else:
        with pytest.raises(UserError, match=words):
            machines.check_resources({"upscale": asked})
        machines.check_resources({"upscale": asked}, elastic=True)


@pytest.mark.parametrize(
    ("device", "address", "cluster", "here", "gpus"),
    [
        ("auto", "head:6379", True, False, True),  # a head without a GPU, workers with one
        ("auto", "head:6379", False, True, False),
        ("auto", None, True, False, False),  # a GPU that Ray sees and torch was not built for
        ("auto", None, False, True, True),
        ("cpu", "head:6379", True, True, False),
        ("cuda", "head:6379", False, False, True),  # refused by check_resources, or waits for a node
    ],
)
def test_a_gpu_is_asked_for_where_the_work_runs(monkeypatch, device, address, cluster, here, gpus):
    monkeypatch.setattr(machines.ray, "cluster_resources", lambda: {"CPU": 4.0, **({"GPU": 1.0} if cluster else {})})
    monkeypatch.setattr("torch.cuda.is_available", lambda: here)
    options = {"address": address, "stages": {"reference": {"num_cpus": 1, "num_gpus": 0}, "evaluate": {"num_gpus": 1}}}
    found = machines.stage_resources(options, device)
    assert bool(found["evaluate"].get("num_gpus")) == gpus
    assert not found["reference"].get("num_gpus")
    assert found["pretrain"] == {"num_cpus": 1}

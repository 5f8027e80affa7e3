"""Machines that hinder Ray, and addresses where no cluster is: one sentence, soon."""

import os
import socket
import subprocess
import sys
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

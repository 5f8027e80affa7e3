"""A study on a cluster of three nodes and an object store, of which a worker, a node, the head or the store is struck
while a stage of one's choice is at work. The head holds the driver too, as on a login node."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster
from typed import environment

AWAY = 25.0  # seconds that a struck store is away
PACKAGES = ("s3fs", "moto", "flask_cors", "cryptography")


@dataclass(frozen=True)
class Strike:
    """victim: worker, node, head or store. stage: which is at work then, since so many seconds."""

    victim: str
    stage: str
    after: float = 0.0


class Wire:
    """A TCP port that leads to another, and can be cut: whoever is connected is cut off, and nobody gets in."""

    def __init__(self, target: int) -> None:
        self.target, self.port = target, free_port()
        self.listener: socket.socket | None = None
        self.ends: list[socket.socket] = []
        self.mend()

    def mend(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def cut(self) -> None:
        assert self.listener is not None
        for each in (self.listener, *self.ends):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self.ends = []

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it was cut
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                self.ends += [near, far]
                threading.Thread(target=_carry, args=(near, far), daemon=True).start()


def _carry(near: socket.socket, far: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError), selectors.DefaultSelector() as ready:
        for one, other in ((near, far), (far, near)):
            ready.register(one, selectors.EVENT_READ, other)
        while True:
            for key, _ in ready.select():
                content = key.fileobj.recv(2**16)  # type: ignore[union-attr]
                if not content:
                    raise OSError("it has ended")
                key.data.sendall(content)
    near.close()
    far.close()


class Bucket:
    """An S3 server of its own behind a wire. names: the environment in which a process finds it."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        with (folder / "moto.log").open("wb") as log:
            self.server = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log
            )
        self.wire = Wire(port)
        self.names = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.wire.port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        until = time.monotonic() + 60
        while not _answers(port):
            assert time.monotonic() < until, (folder / "moto.log").read_text()
            time.sleep(0.1)
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")).close()

    def close(self) -> None:
        self.wire.cut()
        self.server.kill()
        self.server.wait()


class Nodes:
    """A head without cores and two workers of one core each. apart: they have temporary folders of their own, so that
    nobody knows at once that a stage's holder is dead."""

    def __init__(self, folder: Path, names: dict[str, str], apart: bool) -> None:
        self.folder, self.names, self.apart, self.count = folder, {**environment(), **names}, apart, 0
        os.environ |= self.names  # the head has no other way to get them
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.address = self.cluster.address
        for _ in range(2):
            self.add()

    def add(self) -> None:
        self.count += 1
        own = self.folder / f"tmp-{self.address.rpartition(':')[2]}-{self.count}"
        own.mkdir()
        self.cluster.add_node(num_cpus=1, env_vars=self.names | ({"TMPDIR": str(own)} if self.apart else {}))

    def kill_node_of(self, worker: psutil.Process) -> None:
        """The node on which this worker runs is gone; another one comes."""
        raylet = worker.parent()
        node = next(each for each in self.cluster.worker_nodes if raylet.pid in _pids(each))
        everything = [*raylet.children(recursive=True), raylet]
        _kill(everything)
        self.cluster.remove_node(node, allow_graceful=False)
        self.add()

    def kill_head(self) -> None:
        """The head is gone. Its workers live on for a while, until they notice; whoever asks for the next `Nodes` does
        not wait for that."""
        _kill([psutil.Process(pid) for pid in _pids(self.cluster.head_node) if psutil.pid_exists(pid)])

    def close(self) -> None:
        found = [pid for node in (self.cluster.head_node, *self.cluster.worker_nodes) for pid in _pids(node)]
        with contextlib.suppress(Exception):  # of a head that is gone
            self.cluster.shutdown()
        for pid in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                _kill([*process.children(recursive=True), process])


def run_struck(
    folder: Path, overrides: list[str], strikes: list[Strike], apart: bool = True, log: Any = print
) -> list[dict[str, Any]]:
    """Run the study, and strike while it runs; whenever the command ends with an error, it is typed again. Returns the
    rows. Raises AssertionError if it does not end well, or a strike never came."""
    folder.mkdir(parents=True)
    bucket = Bucket(folder)
    nodes, old, left = Nodes(folder, bucket.names, apart), [], list(strikes)
    said, began = folder / "driver.log", time.monotonic()
    try:
        for _ in range(1 + sum(each.victim == "head" for each in strikes)):
            driver = _start(folder, nodes, overrides, said)
            while driver.poll() is None:
                worker = _at_work(left[0].stage, bucket) if left else None
                if worker is None:
                    time.sleep(0.01)
                    continue
                strike = left.pop(0)
                time.sleep(strike.after)
                log(f"{time.monotonic() - began:6.1f} s: {strike.victim} struck {strike.after:g} s into {strike.stage}")
                if strike.victim == "worker":
                    _kill([worker])
                elif strike.victim == "node":
                    nodes.kill_node_of(worker)
                elif strike.victim == "store":
                    bucket.wire.cut()
                    time.sleep(AWAY)
                    bucket.wire.mend()
                else:
                    _kill([psutil.Process(driver.pid)])
                    nodes.kill_head()
                    driver.wait()
                    old.append(nodes)
                    nodes = Nodes(folder, bucket.names, apart)
        assert not left, f"{left} never came"
        assert driver.returncode == 0, said.read_text()[-4000:]
        log(f"{time.monotonic() - began:6.1f} s: done")
    finally:
        for each in (*old, nodes):
            each.close()
        bucket.close()
    return records(folder)


def records(folder: Path, name: str = "trials.jsonl") -> list[dict[str, Any]]:
    """The lines of one of the study's files, without what differs from run to run."""
    (file,) = (folder / "results").glob(f"*/{name}")
    found = [json.loads(line) for line in file.read_text().splitlines()]
    for each in found:
        for passing in ("seconds", "memory", "host", "reused", "time"):
            each.pop(passing, None)
        for section in ("data", "public"):
            each.get("settings", {}).get(section, {}).pop("home", None)
    return sorted(found, key=lambda each: json.dumps(each, sort_keys=True))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def _start(folder: Path, nodes: Nodes, overrides: list[str], said: Path) -> subprocess.Popen[bytes]:
    typed = [sys.executable, "-m", "sweeps.run", *overrides, "ray=cluster", f"ray.address={nodes.address}"]
    typed += ["ray.ship_code=false", "store=s3://bucket/store", f"results={folder / 'results'}"]
    with said.open("ab") as log:
        return subprocess.Popen(typed, cwd=folder, env=nodes.names, stdout=log, stderr=log)


def _at_work(stage: str, bucket: Bucket) -> psutil.Process | None:
    """A worker of this study that makes such a stage just now."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, IndexError):
            here = process.cmdline()[0].startswith(f"ray::{stage}:")
            if here and process.environ().get("AWS_ENDPOINT_URL") == bucket.names["AWS_ENDPOINT_URL"]:
                return process
    return None


def _pids(node: Any) -> list[int]:
    return [info.process.pid for infos in node.all_processes.values() for info in infos]


def _kill(processes: list[psutil.Process]) -> None:
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False

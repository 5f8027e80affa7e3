"""Three Ray nodes of which two have no checkout, another folder and one core each: the rows of one machine, whether the
images are on a disk that all see or are sent to those that lack them."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typed import ROOT, environment, rows, run

pytestmark = pytest.mark.skipif(
    shutil.which("unshare") is None
    or os.getuid() != 0
    or subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "x", "/mnt"], capture_output=True).returncode != 0,
    reason="needs a mount namespace of its own",
)

# The packages are bound to another place, then the checkout is hidden: what is installed from it is gone. Images that
# were sent lie on a disk of the node's own.
WORKER = """
set -e
mkdir -p {own}/packages {sent} && mount --bind {packages} {own}/packages
for folder in {hidden}; do mount -t tmpfs tmpfs $folder; done
mount -t tmpfs -o mode=700 tmpfs {sent}
cd {own} && env -u PYTHONPATH {own}/packages/bin/python -c 'import sweeps' 2> /dev/null && exit 3
exec env -u PYTHONPATH {own}/packages/bin/python -m ray.scripts.scripts start --address={address} --num-cpus=1 --block
"""
HEAD = """
import json, subprocess, sys, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster

folder, worker, *command = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
worker = worker.replace("ADDRESS", cluster.address)
scripts = [worker.replace("OWN", f"{folder}/node{number}") for number in range(2)]
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
workers = []
for number, script in enumerate(scripts):  # one after the other: on a busy machine a raylet may give up its start
    for attempt in range(3):
        workers.append(subprocess.Popen(["unshare", "-m", "sh", "-c", script]))
        until = time.time() + 60
        while (alive := sum(node["Alive"] for node in ray.nodes())) < number + 2 and time.time() < until:
            if workers[-1].poll() is not None:
                break
            time.sleep(0.2)
        if alive == number + 2:
            break
        workers[-1].terminate()
ray.shutdown()
try:
    sys.exit(subprocess.run([*command, f"ray.address={cluster.address}"], cwd=folder).returncode)
finally:
    for each in workers:
        each.terminate()
        each.wait()
    cluster.shutdown()
"""


def images(folder: Path) -> Path:
    """Pictures of two classes, on a disk that all nodes see."""
    for split, count in (("train", 96), ("test", 24)):
        for number in range(count):
            file = folder / split / f"class{number % 2}" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([number, len(split)]).integers(0, 256, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels // (1 + number % 2)).save(file)
    return folder


def hidden() -> str:
    """The checkout of these tests, and the one that is installed among the packages, if it is another."""
    code = "import sweeps; print(sweeps.__path__[0])"
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    installed = subprocess.run([sys.executable, "-c", code], cwd="/", env=bare, capture_output=True, text=True).stdout
    found = {ROOT, *(Path(line).parent for line in installed.splitlines())}
    return " ".join(str(path) for path in found if path.name != "site-packages")


def content(folder: Path) -> dict[str, dict]:
    """Rows without what may differ from machine to machine."""
    kept = {
        row["trial"]: {k: v for k, v in row.items() if k not in ("seconds", "memory", "host")} for row in rows(folder)
    }
    for row in kept.values():
        for name in ("data", "public"):
            row["settings"][name].pop("home")
            row["settings"][name].pop("ship", None)
    return kept


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A study on this machine: its folder, what was typed, and the images."""
    folder = tmp_path_factory.mktemp("nodes")
    pictures = images(folder / "shared" / "images")
    overrides = ["+sweep=smoke", "~sweep.grid.upscaler", "data=folder", f"data.path={pictures}", "data.size=16"]
    overrides += [
        "metrics.downstream_steps=0",
        "metrics.kid=false",
        "metrics.fid_samples=16",
        "metrics.reference_samples=16",
    ]
    done = run(folder / "alone", *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, overrides, pictures


def on_nodes(name: str, alone: tuple, *more: str, hide: str = "") -> tuple[Path, subprocess.CompletedProcess]:
    """The same study on three nodes. hide: a folder that the workers do not have."""
    folder, overrides, _ = alone
    there = folder / name
    there.mkdir()
    sent = Path(tempfile.gettempdir(), f"wavedp-{os.getuid()}-images")
    worker = WORKER.format(own="OWN", packages=sys.prefix, hidden=f"{hidden()} {hide}", address="ADDRESS", sent=sent)
    typed = [sys.executable, "-m", "sweeps.run", *overrides, *more, "ray=cluster", f"results={there / 'results'}"]
    done = subprocess.run(
        [sys.executable, "-c", HEAD, str(there), worker, *typed, f"store={folder / 'shared' / name}"],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    return there, done


def assert_same_rows(there: Path, alone: Path) -> None:
    ours, theirs = content(there), content(alone)
    metrics = [{name: row.pop("metrics") for name, row in each.items()} for each in (ours, theirs)]
    assert metrics[0].keys() == metrics[1].keys()
    for name, found in metrics[0].items():
        assert found == pytest.approx(metrics[1][name], rel=1e-4)
    assert json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nodes_without_a_checkout_write_the_rows_of_one_machine(alone):
    there, done = on_nodes("cluster", alone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Sends" not in done.stdout
    assert_same_rows(there, alone[0] / "alone")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nodes_without_the_images_are_refused(alone):
    _, done = on_nodes("refused", alone, hide=str(alone[2]))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "can't make a trial: " in done.stderr, done.stdout + done.stderr
    assert "Or let the driver send them through the store: data.ship=true." in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_images_travel_where_they_may_and_the_rows_are_those_of_one_machine(alone):
    there, done = on_nodes("sent", alone, "data.ship=true", hide=str(alone[2]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Sends 120 images of folder, 0 MB decoded, to" in done.stdout
    assert_same_rows(there, alone[0] / "alone")

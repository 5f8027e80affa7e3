"""Two Ray nodes on one machine, the second with a disk of its own: what is refused, and what runs where."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    shutil.which("unshare") is None
    or os.getuid() != 0
    or subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "x", "/mnt"], capture_output=True).returncode != 0,
    reason="needs a mount namespace of its own",
)

CLUSTER = """
import subprocess, sys, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster

own, shared, results = (Path(sys.argv[1], name) for name in ("own", "shared", "results"))
own.mkdir(); shared.mkdir()
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
ray_command = str(Path(sys.executable).with_name("ray"))
command = f"mount -t tmpfs tmpfs {own} && exec {ray_command} start --address={cluster.address} --num-cpus=1 --block"
second = subprocess.Popen(["unshare", "-m", "sh", "-c", command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) < 2:
    time.sleep(0.2)

from sweeps import execute, reach
from wavedp.errors import UserError

try:
    for store in (own, shared, "memory://here"):
        try:
            reach.require_shared(str(store))
            print("shared:", store)
        except UserError as error:
            print("refused:", error)
    settings = {"store": str(shared), "copy": "s-0", "stages": {}, "budget": {}, "zoo": None}
    here = ray.get_runtime_context().get_node_id()
    coordinators = [execute._coordinator(results, settings, []) for _ in range(6)]
    ray.get([each.rows.remote() for each in coordinators])
    states = [ray._private.state.actors(each._actor_id.hex()) for each in coordinators]
    print("coordinators here:", sum(state["Address"]["NodeID"] == here for state in states))
    print("left in the store:", sorted(path.name for path in (shared / "work").iterdir()))
finally:
    ray.shutdown()
    second.terminate()
    second.wait()
    cluster.shutdown()
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout.splitlines()


@pytest.mark.slow
def test_a_store_that_a_node_has_for_itself_is_refused_and_a_shared_one_is_not(printed):
    folder, lines = printed
    own, shared, memory = lines[:3]
    assert own.startswith("refused: node ")
    assert f"does not reach store={folder / 'own'} (what the driver wrote is not there): give store=URL" in own
    assert shared == f"shared: {folder / 'shared'}"
    assert "does not reach store=memory://here" in memory


@pytest.mark.slow
def test_the_coordinator_writes_on_the_drivers_disk(printed):
    _, lines = printed
    assert "coordinators here: 6" in lines
    assert "left in the store: []" in lines

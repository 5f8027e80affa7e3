"""The head of a joined cluster, seen by a command that waits for its trials."""

import socket
import subprocess
import sys

from typed import environment

WATCHING = """
import sys, time
from sweeps import head
head.PATIENCE, head.EVERY = 0.5, 0.05
head.watch(sys.argv[1])
time.sleep(float(sys.argv[2]))
print("still here")
"""


def watching(port, seconds):
    typed = [sys.executable, "-c", WATCHING, f"127.0.0.1:{port}", str(seconds)]
    return subprocess.run(typed, env=environment(), capture_output=True, text=True, timeout=60)


def test_a_command_ends_with_a_sentence_when_the_head_is_gone():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    done = watching(port, 30)
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"the cluster's head at 127.0.0.1:{port} is gone. Start it again, and type the same command" in done.stderr


def test_a_head_that_answers_is_left_alone():
    with socket.create_server(("127.0.0.1", 0), backlog=64) as here:
        done = watching(here.getsockname()[1], 1.5)
    assert (done.returncode, done.stdout, done.stderr) == (0, "still here\n", "")

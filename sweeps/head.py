"""The head of a cluster that was joined: when it is gone, the command says so and ends.

Ray would print C++ lines for a minute and then end the process without a word of ours. A head that comes back sooner
(with its state in Redis) is met again.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

PATIENCE = 50.0  # seconds; Ray's own is 60
EVERY = 5.0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While Ray joins the cluster: keep its C++ lines off the terminal, now (one says that the level was set) and until
    the end. Those of the cluster are in its own logs, and what hinders Ray is in its exception."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def watch(address: str) -> None:
    """End this process with a sentence and status 1 once nothing has answered at host:port for PATIENCE seconds."""
    threading.Thread(target=_watch, args=(address,), daemon=True).start()


def _watch(address: str) -> None:
    host, _, port = address.rpartition(":")
    heard = time.monotonic()
    while time.monotonic() - heard < PATIENCE:
        time.sleep(EVERY)
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=EVERY).close()
            heard = time.monotonic()
        except OSError:
            continue
    print(
        f"Error: the cluster's head at {address} is gone. Start it again, and type the same command: it goes on, and "
        "what was released is found.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)  # nothing of Ray ends in an orderly way without its head

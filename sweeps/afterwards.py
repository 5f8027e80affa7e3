"""Ends what a killed driver leaves of its own Ray cluster: the raylet dies with its driver, its agents a minute later.

`watch` starts a small process that holds one end of a pipe, and the driver alone has the other: however the driver
ends, the pipe does, and this process ends what is left. It knows Ray's agents and workers by their titles, or by their
programs while they start, and their cluster by the logs that they have open. So neither another cluster's processes nor
a notebook that has joined this one, nor whoever reads its logs, are touched.

    case                                what happens
    the driver ends, Ray in order       nothing is left; this process ends
    the driver is killed                after GRACE_SECONDS SIGTERM, after TERM_SECONDS SIGKILL
    it is killed while Ray starts       Ray's own minute
    Ctrl-C, a closed terminal           this process goes on: a session of its own, without a terminal
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import psutil

TITLE, PROGRAMS = "ray::", "/ray/_private/"  # begins a title; is in the path of a program
GRACE_SECONDS, TERM_SECONDS, PAUSE_SECONDS = 3.0, 2.0, 0.2

_watching: list[subprocess.Popen[bytes]] = []  # kept, and so are their pipes, while this process lives


def watch(session: Path) -> None:
    """Let Ray's agents and workers end with this process. session: the folder of their cluster. Raises OSError."""
    _watching.append(
        subprocess.Popen(
            [sys.executable, "-P", Path(__file__).resolve(), session.resolve()],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
    )


def end_rest(session: Path) -> None:
    """End the agents and workers of the cluster that do not end by themselves."""
    deadline = time.monotonic() + GRACE_SECONDS
    while (rest := _rest(session)) and time.monotonic() < deadline:
        time.sleep(PAUSE_SECONDS)
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in rest:
            with contextlib.suppress(psutil.Error):  # it has ended
                end(process)
        psutil.wait_procs(rest, timeout=TERM_SECONDS)
        rest = _rest(session)


def _rest(session: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # another user's, or gone
            if _is_ray(process) and any(session in Path(opened.path).parents for opened in process.open_files()):
                found.append(process)
    return found


def _is_ray(process: psutil.Process) -> bool:
    return process.name().startswith(TITLE) or any(PROGRAMS in word for word in process.cmdline()[:4])


if __name__ == "__main__":
    sys.stdin.buffer.read()  # until the driver ends
    end_rest(Path(sys.argv[1]))

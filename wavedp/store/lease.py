"""A lease: of all machines that share an object store, one at a time holds it.

    <folder>/<token>    one small object for each process that asks, under a random name of its own: host, pid, a beat

Whoever finds no other's object in the folder writes its own and looks again. It holds the lease if it is still alone;
of two that asked at once each sees the other, and both step back for a random while. A holder changes its object every
RENEW_SECONDS. Whoever waits deletes an object that has not changed for LEASE_SECONDS, counted in the waiter's own
pauses: clocks of two machines are never compared. Nobody writes or deletes under the name of a process that is alive,
so a takeover cannot hit the wrong one, and a conditional write is not needed: only that a listing shows at once what
was written, as those of S3, GCS, Azure and MinIO do.

    case                                             result
    two machines ask at once                         one holds it, the other waits and says for whom
    the holder's process or machine dies             another takes over after LEASE_SECONDS, or at once where it is
                                                     known to be dead (`end`)
    the holder is stopped, or cut off from the       another takes over; the first says so and goes on: both do the
        store, for longer than that                  same work, of which the store keeps what is published first
    the waiter is stopped or cut off                 that time does not count against the holder
    a listing that shows new objects late            two may hold it; again, what is published first is kept
    objects may be replaced and not deleted          an object of the content OVER counts as deleted
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from fsspec import AbstractFileSystem

RENEW_SECONDS = 20.0
LEASE_SECONDS = 90.0  # several renewals, so that a slow store or a busy machine costs nobody its lease
POLL_SECONDS = 5.0

OVER = b"over"

LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def held(fs: AbstractFileSystem, folder: str, token: str) -> Iterator[None]:
    """Wait for the lease, hold it during the block, give it back.

    folder: of this lease alone. token: 32 random hex digits, of this call alone. What the store raises while the lease
    is waited for is passed on.
    """
    ours, stopped = f"{folder}/{token}", threading.Event()
    signed = _signature()
    now = getattr(fs, "raw", fs)  # a renewal that fails is followed by another; none waits beyond the block's end
    renewing = threading.Thread(target=_renew, args=(now, ours, signed, stopped), daemon=True)
    try:
        _wait(fs, folder, token, signed)
        renewing.start()
        yield
    finally:
        stopped.set()
        if renewing.ident is not None:
            renewing.join()  # a renewal that is on its way would write the object again
        end(fs, ours)


def end(fs: AbstractFileSystem, path: str) -> None:
    """Delete the object of a process that holds the lease no longer; where that may not be, mark it. A mark that fails
    costs whoever waits LEASE_SECONDS."""
    try:
        fs.rm_file(path)
    except FileNotFoundError:
        pass
    except Exception:  # each backend has its own
        with contextlib.suppress(Exception):
            fs.pipe_file(path, OVER)


def _wait(fs: AbstractFileSystem, folder: str, token: str, signed: dict[str, str | int]) -> None:
    """Return when this process's object is the only one."""
    over: set[str] = set()  # tokens of silent processes, should their objects stay
    seen: dict[str, bytes] = {}
    quiet: dict[str, float] = {}  # seconds without a change, by token
    while True:
        if not _asking(fs, folder, over):
            fs.pipe_file(f"{folder}/{token}", _content(signed, 0))
            if list(_asking(fs, folder, over)) == [token]:
                return
            end(fs, f"{folder}/{token}")
        pause = POLL_SECONDS * secrets.SystemRandom().uniform(0.5, 1.5)  # random also where random was seeded
        time.sleep(pause)
        for other, content in _asking(fs, folder, over).items():
            if other not in quiet and other in seen:
                LOG.warning("%s is in use by %s: waiting.", folder, _described(content))
            if other in seen:
                quiet[other] = quiet.get(other, 0.0) + pause if seen[other] == content else 0.0
            seen[other] = content
            if quiet.get(other, 0.0) >= LEASE_SECONDS:
                LOG.warning("%s: taking over from %s, silent for %.0f s.", folder, _described(content), quiet[other])
                over.add(other)
                end(fs, f"{folder}/{other}")


def _renew(fs: AbstractFileSystem, ours: str, signed: dict[str, str | int], stopped: threading.Event) -> None:
    """Change the object every RENEW_SECONDS, until `stopped` or until somebody else has ended it."""
    beat = 0
    while not stopped.wait(RENEW_SECONDS):
        beat += 1
        try:
            if fs.cat_file(ours) == OVER:
                raise FileNotFoundError(ours)
            fs.pipe_file(ours, _content(signed, beat))
        except FileNotFoundError:
            LOG.warning(
                "%s was taken over by another machine, which had not heard of this process for %g s: both do the same "
                "work now, and what is published first is kept.",
                ours.rpartition("/")[0],
                LEASE_SECONDS,
            )
            return
        except Exception as error:  # each backend has its own; the next renewal may succeed
            LOG.warning("%s could not be renewed (%s: %s).", ours, type(error).__name__, error)


def _asking(fs: AbstractFileSystem, folder: str, over: set[str]) -> dict[str, bytes]:
    """{token: content} of everyone who asks for the lease or holds it."""
    fs.invalidate_cache(folder)
    try:
        paths = fs.ls(folder, detail=False)
    except FileNotFoundError:
        return {}
    found = {}
    for path in paths:
        token = path.rpartition("/")[2]
        if token and token not in over:
            with contextlib.suppress(FileNotFoundError):  # it was given back meanwhile
                content = fs.cat_file(path)
                if content != OVER:
                    found[token] = content
    return found


def _signature() -> dict[str, str | int]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since}


def _content(signed: dict[str, str | int], beat: int) -> bytes:
    return json.dumps({**signed, "beat": beat}).encode()


def _described(content: bytes) -> str:
    try:
        holder = json.loads(content)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}, by its clock"
    except (ValueError, KeyError, TypeError):  # in the middle of a write that is no single step
        return "another process"

"""One command at a time on a study's folder: two would overwrite each other's rows and ledger lines."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from wavedp.errors import UserError

NAME = ".lock"


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, on every machine that shares its file system. Raises UserError while another command
    holds it; the kernel frees it when its process dies. Its file is gone after an orderly end."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    while True:
        with open(path, "a+", encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                owner = handle.read().strip() or "another process"
                raise UserError(
                    f"{folder} is in use by {owner}: wait until that command has ended, or choose another name with "
                    "study=NAME."
                ) from None
            if not _is_at(path, handle):
                continue  # its last holder has just removed it
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {socket.gethostname()}")
            handle.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(path: Path, handle: IO[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False

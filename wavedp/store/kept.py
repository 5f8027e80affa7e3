"""Checkpoints of unfinished stages in an object store, so that another machine goes on where a dead one was.

    <store>/work/kept/<stage>-<key>/<file>    encrypted (AES-256-GCM) with a secret that is not in the store

A checkpoint of a private fit holds the noise, and whoever has that and the released weights has the private gradients:
hence the secret, which the study's command makes and gives to its workers. Without one nothing is kept there.

    case                                          result
    a machine dies in the middle of a fit         the next one begins with what was last sent, at most EVERY seconds old
    the store is away                             the fit goes on; the next copy is sent when it is back
    made with another secret, or cut off          left alone, with a warning; the stage begins at its start
    the stage is published                        its copies are deleted
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from wavedp.errors import UserError
from wavedp.files import PRIVATE, private_folder, sha256, write_atomically, write_synced
from wavedp.store.sealed import Seal

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

VARIABLE = "WAVEDP_CHECKPOINT_SECRET"
EVERY = 20.0  # seconds between two looks at the folder
SUFFIXES = (".safetensors", ".pt", ".npz", ".json")  # of checkpoints; what is being written has another

LOG = logging.getLogger(__name__)


def secret_for(root: str) -> str | None:
    """The secret of a store, 64 hexadecimal digits: of the environment (VARIABLE), or of a file in the user's home
    folder, made at the first use; None for a local store, and where there is no such folder.

    Raises UserError for a variable that is no such number.
    """
    if "://" not in root:
        return None
    told = os.environ.get(VARIABLE)
    if told:
        if not re.fullmatch(r"[0-9a-f]{64}", told):
            raise UserError(f"{VARIABLE} is not 64 hexadecimal digits: `openssl rand -hex 32` prints such a number.")
        return told
    try:
        folder = private_folder(Path.home() / ".wavedp" / "secrets")
        file = folder / sha256(root.rstrip("/").encode())[:16]
        with contextlib.suppress(FileExistsError):
            write_synced(file, secrets.token_hex(32).encode(), PRIVATE)
        return file.read_text(encoding="utf-8")
    except (OSError, RuntimeError, UserError):  # no home, or one that cannot be written
        LOG.warning(
            "no checkpoint is kept in %s: the home folder can't hold its secret, and %s is not set.", root, VARIABLE
        )
        return None


@contextlib.contextmanager
def mirrored(fs: AbstractFileSystem, there: str, folder: Path, secret: str) -> Iterator[None]:
    """Fill the folder with what was kept, and keep what changes in it during the block.

    fs: without patience, for a thread. Raises UserError if the package for encryption is not installed.
    """
    kept = _Kept(fs, there, folder, secret)
    kept.fetch()
    sending = threading.Thread(target=kept.send_for_ever, daemon=True)
    sending.start()
    try:
        yield
    finally:
        kept.stopped.set()
        sending.join()
        kept.send()  # of an interrupted stage; a published one is discarded


class _Kept:
    def __init__(self, fs: AbstractFileSystem, there: str, folder: Path, secret: str) -> None:
        self.fs, self.there, self.folder = fs, there, folder
        self.seal = Seal(secret, "A checkpoint in an object store")
        self.stopped = threading.Event()
        self.sent: dict[str, tuple[int, int]] = {}  # file: its time and size when it was sent

    def fetch(self) -> None:
        """Write what was kept into the folder, in place of older files there."""
        try:
            paths = self.fs.ls(self.there, detail=False)
        except FileNotFoundError:
            return
        for path in paths:
            name = path.rpartition("/")[2]
            try:
                content = self.seal.open(self.fs.cat_file(path), self._place(name))
            except Exception as error:  # another secret, half an object, or the backend's own
                LOG.warning("%s can't be used (%s): the stage begins at its start.", path, type(error).__name__)
                continue
            write_atomically(self.folder / name, content, PRIVATE)
            self.sent[name] = _state(self.folder / name)

    def send_for_ever(self) -> None:
        while not self.stopped.wait(EVERY):
            self.send()

    def send(self) -> None:
        """Send the files that have changed."""
        for file in sorted(self.folder.iterdir()):
            if file.suffix not in SUFFIXES or file.name.startswith("."):
                continue
            try:
                state, content = _state(file), file.read_bytes()
                if self.sent.get(file.name) != state:
                    self.fs.pipe_file(f"{self.there}/{file.name}", self.seal.close(content, self._place(file.name)))
                    self.sent[file.name] = state
            except FileNotFoundError:  # the stage is done with it
                continue
            except Exception as error:  # each backend has its own; the next look tries again
                LOG.warning("%s could not be kept in the store (%s: %s).", file.name, type(error).__name__, error)

    def _place(self, name: str) -> str:
        """What the content is bound to: no copy of one stage passes for another's."""
        return f"{self.there.rpartition('/')[2]}/{name}"


def _state(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_mtime_ns, found.st_size

"""Files that are written whole or not at all. Every OSError names the file that was asked for."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wavedp.errors import UserError

PUBLIC, PRIVATE = 0o666, 0o600  # modes of a new file; the first is narrowed by the user's umask


def write_synced(path: Path, data: bytes, mode: int = PUBLIC) -> None:
    """Write a new file and flush it to the disk, so that a later rename can't publish an empty file."""
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode), "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def write_atomically(path: Path, data: bytes, mode: int = PUBLIC) -> None:
    """Replace a file's content in one step: readers see the old bytes or the new ones, never a mixture."""
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            write_synced(temporary, data, mode)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_npz(path: Path, **arrays: Any) -> None:
    """Replace the file with these arrays, compressed, in one step."""
    write_atomically(path, npz(**arrays))


def npz(**arrays: Any) -> bytes:
    """The content of an .npz file with these arrays."""
    import numpy as np

    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    return packed.getvalue()


def require_writable(folder: Path, name: str) -> None:
    """Raises UserError unless a block can be written in the folder, which is made. name: the setting that chose it."""
    probe = folder / f".{secrets.token_hex(8)}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            write_synced(probe, bytes(4096))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(cannot_write(f"{name}={folder}", error)) from error


def cannot_write(what: object, error: OSError) -> str:
    """One sentence of cause and remedy for a file or folder that can't be written."""
    reason = "a file is in its place" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
    return f"{what} cannot be written ({reason or error}): make room or allow writing there, or choose another folder."


def private_folder(folder: Path) -> Path:
    """The folder, made if need be, closed to other users. Raises UserError where that is not ours to do."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
    except PermissionError as error:
        raise UserError(f"{folder} is another user's, and what is kept there is secret: remove it.") from error
    return folder


def temporary_folder(name: str) -> Path:
    """This user's own folder of that name in the machine's temporary folder, closed to others. Raises UserError if
    somebody else has made it or put a link there."""
    folder = Path(tempfile.gettempdir(), f"wavedp-{os.getuid()}-{name}")
    private_folder(folder)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UserError(f"{folder} is not this user's own folder, and what is kept there is secret: remove it.")
    return folder


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Let every OSError of the block name this path: that of a write names none."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(data: bytes) -> str:
    """The hexadecimal digest that manifests hold."""
    return hashlib.sha256(data).hexdigest()

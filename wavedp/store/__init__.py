"""Content-addressed artifacts: each stage result is one folder, named by its key, published completely or not at all.

    <root>/<stage>/<key>/manifest.json    sha256 of every other file; written last, so its presence means complete
                         *.safetensors, *.json

The root is any fsspec URL (a local folder, NFS, s3://, gs://). On a local disk publishing is one rename; on an object
store the manifest is uploaded last. No pickle anywhere: an artifact from a colleague can't run code.

`python -m wavedp.store pack|unpack` carries artifacts from one store to another (wavedp.store.carry).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

if TYPE_CHECKING:  # a plan only asks which artifacts exist; that must not import torch
    from torch import Tensor

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """A published stage result, verified against its manifest when it was opened."""

    key: str
    files: dict[str, bytes]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of `<name>.safetensors`."""
        from safetensors.torch import load

        return load(self.files[f"{name}.safetensors"])

    def json(self, name: str) -> Any:
        """The value in `<name>.json`."""
        return json.loads(self.files[f"{name}.json"])


class Draft:
    """The files of one artifact while its stage writes them."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def tensors(self, name: str, tensors: dict[str, Tensor]) -> None:
        from safetensors.torch import save

        self.files[f"{name}.safetensors"] = save({key: value.contiguous() for key, value in tensors.items()})

    def json(self, name: str, value: Any) -> None:
        self.files[f"{name}.json"] = json.dumps(value, indent=1, sort_keys=True).encode()


class Store:
    """Artifacts under one root URL. Any number of processes may read; those of one machine may write, under `lock`."""

    def __init__(self, root: str) -> None:
        self.root = root if "://" in root else str(Path(root).absolute())
        self.fs, self.path = fsspec.url_to_fs(self.root)

    def open(self, stage: str, key: str) -> Artifact | None:
        """The artifact; None if it is absent or corrupted.

        Corrupted: a file is missing or differs from its sha256 in the manifest. The folder is then renamed to
        `<key>.corrupted`, so that the stage can be run again.
        """
        folder = f"{self.path}/{stage}/{key}"
        if not self.fs.exists(f"{folder}/{MANIFEST}"):
            return None
        try:
            manifest = json.loads(self.fs.cat_file(f"{folder}/{MANIFEST}"))
            files = {name: self.fs.cat_file(f"{folder}/{name}") for name in manifest}
            intact = all(sha256(data) == manifest[name] for name, data in files.items())
        except (FileNotFoundError, ValueError):
            intact, files = False, {}
        if intact:
            return Artifact(key, files)
        aside = f"{folder}.corrupted"
        if self.fs.exists(aside):
            self.fs.rm(aside, recursive=True)
        self.fs.mv(folder, aside, recursive=True)
        return None

    def has(self, stage: str, key: str) -> bool:
        """True if the artifact was published. Only `open` verifies its content."""
        return self.fs.exists(f"{self.path}/{stage}/{key}/{MANIFEST}")

    def publish(self, stage: str, key: str, draft: Draft) -> Artifact:
        """Publish a draft; an artifact that already exists is kept. Returns the published one."""
        published = self.open(stage, key)
        if published is not None:
            return published
        manifest = {name: sha256(data) for name, data in draft.files.items()}
        folder = f"{self.path}/{stage}/{key}"
        if isinstance(self.fs, LocalFileSystem):
            parent = Path(self.path, stage)
            parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{key[:12]}-", dir=parent))
            try:
                for name, data in [*draft.files.items(), (MANIFEST, json.dumps(manifest).encode())]:
                    write_synced(temporary / name, data)
                if not Path(folder, MANIFEST).exists():
                    shutil.rmtree(folder, ignore_errors=True)  # left by a crash: it has no manifest
                os.rename(temporary, folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                published = self.open(stage, key)  # another process was first: its artifact stays
                if published is None:
                    raise
                return published
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            _sync_folder(parent)
        else:
            for name, data in draft.files.items():
                self.fs.pipe_file(f"{folder}/{name}", data)
            self.fs.pipe_file(f"{folder}/{MANIFEST}", json.dumps(manifest).encode())
        return Artifact(key, dict(draft.files))

    def work_folder(self, stage: str, key: str) -> Path:
        """The folder for checkpoints of an unfinished stage.

        It lies in a local store (NFS included), so that another worker can resume; for any other store it lies in this
        machine's temporary folder.
        """
        local = isinstance(self.fs, LocalFileSystem)
        base = Path(self.path) if local else Path(tempfile.gettempdir(), "wavedp-" + sha256(self.root.encode())[:12])
        folder = base / "work" / f"{stage}-{key}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextlib.contextmanager
    def lock(self, stage: str, key: str) -> Iterator[None]:
        """A lock to hold while a stage runs: two studies on one store then never make the same release twice.

        The kernel frees it when its process dies.
        """
        locks = self.work_folder(stage, key).parent / "locks"
        locks.mkdir(exist_ok=True)
        with open(locks / f"{stage}-{key}", "w", encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def write_synced(path: Path, data: bytes) -> None:
    """Write and flush to the disk, so that a later rename can't publish an empty file."""
    with open(path, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file's content in one step: readers see the old bytes or the new ones, never a mixture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    write_synced(temporary, data)
    os.replace(temporary, path)
    _sync_folder(path.parent)


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace the file with these rows in one step; each line is one JSON object."""
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def write_npz(path: Path, **arrays: Any) -> None:
    """Replace the file with these arrays, compressed, in one step."""
    import numpy as np

    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    write_atomically(path, packed.getvalue())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(data: bytes) -> str:
    """The hexadecimal digest that manifests hold."""
    return hashlib.sha256(data).hexdigest()

"""Content-addressed artifacts: one folder a stage result, named by its key, published whole or not at all.

    <root>/<stage>/<key>/manifest.json    sha256 of every other file; written last, so its presence means complete
                         *.safetensors, *.json

The root is any fsspec URL (a local folder, NFS, s3://, gs://). On a local disk publishing is one rename; on an object
store the manifest is uploaded last. No pickle anywhere: an artifact from a colleague can't run code.
"""

from __future__ import annotations

import contextlib
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

if TYPE_CHECKING:  # a plan asks the store what it has, and needs no torch for it
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
    """What a stage writes before it is published."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def tensors(self, name: str, tensors: dict[str, Tensor]) -> None:
        from safetensors.torch import save

        self.files[f"{name}.safetensors"] = save({key: value.contiguous() for key, value in tensors.items()})

    def json(self, name: str, value: Any) -> None:
        self.files[f"{name}.json"] = json.dumps(value, indent=1, sort_keys=True).encode()


class Store:
    """Artifacts under one root URL. Safe for many readers and, through `lock`, many writers of one machine."""

    def __init__(self, root: str) -> None:
        self.root = root if "://" in root else str(Path(root).absolute())
        self.fs, self.path = fsspec.url_to_fs(self.root)

    def open(self, stage: str, key: str) -> Artifact | None:
        """The artifact, or None when it is absent or any file differs from its manifest's sha256 (a corrupted one is
        moved aside as `<key>.corrupted`, for the caller to make again)."""
        folder = f"{self.path}/{stage}/{key}"
        if not self.fs.exists(f"{folder}/{MANIFEST}"):
            return None
        try:
            manifest = json.loads(self.fs.cat_file(f"{folder}/{MANIFEST}"))
            files = {name: self.fs.cat_file(f"{folder}/{name}") for name in manifest}
            intact = all(_sha256(data) == manifest[name] for name, data in files.items())
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
        """Whether the artifact was published (its content is verified by `open`)."""
        return self.fs.exists(f"{self.path}/{stage}/{key}/{MANIFEST}")

    def publish(self, stage: str, key: str, draft: Draft) -> Artifact:
        """Publish a draft; the first one wins and is never rewritten. Returns the published artifact."""
        published = self.open(stage, key)
        if published is not None:
            return published
        manifest = {name: _sha256(data) for name, data in draft.files.items()}
        folder = f"{self.path}/{stage}/{key}"
        if isinstance(self.fs, LocalFileSystem):
            parent = Path(self.path, stage)
            parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{key[:12]}-", dir=parent))
            for name, data in [*draft.files.items(), (MANIFEST, json.dumps(manifest).encode())]:
                write_synced(temporary / name, data)
            shutil.rmtree(folder, ignore_errors=True)  # what a crash without a manifest left
            os.rename(temporary, folder)
            _sync_folder(parent)
        else:
            for name, data in draft.files.items():
                self.fs.pipe_file(f"{folder}/{name}", data)
            self.fs.pipe_file(f"{folder}/{MANIFEST}", json.dumps(manifest).encode())
        return Artifact(key, dict(draft.files))

    def work_folder(self, stage: str, key: str) -> Path:
        """A folder for checkpoints of an unfinished stage: beside the artifacts when the store is a local path (NFS
        included), so that another worker can resume; otherwise in this machine's temporary folder."""
        local = isinstance(self.fs, LocalFileSystem)
        base = Path(self.path) if local else Path(tempfile.gettempdir(), "wavedp-" + _sha256(self.root.encode())[:12])
        folder = base / "work" / f"{stage}-{key}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextlib.contextmanager
    def lock(self, stage: str, key: str) -> Iterator[None]:
        """Held while a stage is made, so that two studies on one store never make the same release twice. The kernel
        frees it when its process dies."""
        locks = self.work_folder(stage, key).parent / "locks"
        locks.mkdir(exist_ok=True)
        with open(locks / f"{stage}-{key}", "w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def write_synced(path: Path, data: bytes) -> None:
    """Write and flush to the disk, so that a rename after it can't publish an empty file."""
    with open(path, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file's content in one step: readers see the old or the new bytes, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    write_synced(temporary, data)
    os.replace(temporary, path)
    _sync_folder(path.parent)


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace the file by these rows, one JSON object a line, in one step."""
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def write_npz(path: Path, **arrays: Any) -> None:
    """Replace the file by these arrays, compressed, in one step."""
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


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

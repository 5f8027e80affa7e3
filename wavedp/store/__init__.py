"""Content-addressed artifacts: each stage result is one folder, named by its key, published completely or not at all.

    <root>/<stage>/<key>/manifest.json    sha256 of every other file; written last, so its presence means complete
                         *.safetensors, *.json               (an object store: in a folder of this attempt's own)

The root is any fsspec URL (a local folder, NFS, s3://, gs://). On a local disk publishing is one rename. On an object
store everyone who publishes uploads files of their own and then the manifest that names them: the first manifest
stays, and files of two attempts never mix. No pickle anywhere: an artifact from a colleague can't run code.

    case                                            result
    two ask for one key at once, on one machine     one makes it, the other waits and finds it (on an object store:
        or on two                                   wavedp.store.lease)
    two make it all the same, one having been cut   the first manifest wins, the other's files are deleted; both get
        off from an object store for a while        the first's artifact
    a damaged artifact                              a warning; it is set aside, and made again by whoever needs it
    an object store is away for a while             what was asked waits for it (wavedp.store.patient)
    checkpoints of an unfinished stage              in a folder that only this user can enter; gone once it is published
                                                    (an object store may keep encrypted copies: wavedp.store.kept)

Behind a store lie places that are only read (`Behind`): what the store lacks is looked for there, by the same key. By
default that is the zoo of public models (wavedp.entries). Their artifacts are found, never copied into the store.

`python -m wavedp.store pack|unpack` carries artifacts from one store to another (wavedp.store.carry).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import fsspec
from fsspec.implementations.local import LocalFileSystem

from wavedp import entries, extras
from wavedp.errors import UserError
from wavedp.files import (
    PRIVATE,
    PUBLIC,
    cannot_write,
    named,
    private_folder,
    require_writable,
    sha256,
    sync_folder,
    temporary_folder,
    write_atomically,
    write_npz,
    write_synced,
)
from wavedp.jsonl import write_jsonl
from wavedp.store import kept, lease
from wavedp.store.patient import Patient

if TYPE_CHECKING:  # a plan only asks which artifacts exist; that must not import torch
    from torch import Tensor

__all__ = ["MANIFEST", "Artifact", "Behind", "Draft", "Store", "sha256", "write_atomically", "write_jsonl", "write_npz"]

MANIFEST = "manifest.json"
FEW = 4  # keys that are asked for one by one; more cost a listing of the whole stage


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


class Behind(Protocol):
    """Artifacts that are read where a store lacks them."""

    def files(self, stage: str, key: str) -> dict[str, bytes] | None:
        """{name: content} of a whole artifact, verified; None if there is none."""

    def origin(self, stage: str, key: str) -> str | None:
        """What to call the place of that artifact in a study's records; None if there is none."""


class Store:
    """Artifacts under one root URL. Any number of processes may read and write; see the module for what excludes whom.

    behind: read-only places for what the store lacks, in order (None: the zoo; (): none). secret: with which an object
    store keeps checkpoints (wavedp.store.kept), or None.
    Raises UserError for a URL that nothing here can open.
    """

    def __init__(self, root: str, behind: Iterable[Behind] | None = None, secret: str | None = None) -> None:
        self.secret = secret
        self.behind: tuple[Behind, ...] = entries.behind() if behind is None else tuple(behind)
        self.root = root if "://" in root else str(Path(root).absolute())
        try:
            self.raw, self.path = fsspec.url_to_fs(self.root)
        except (ImportError, ValueError) as error:
            if isinstance(error, ImportError) and self.root.startswith("s3:"):
                raise UserError(extras.needs(f"store={root}", "s3fs")) from error
            raise UserError(f"store={root} cannot be opened ({error}): install its package or mend the URL.") from error
        self.local = isinstance(self.raw, LocalFileSystem)
        self.fs: Any = self.raw if self.local else Patient(self.raw)

    def open(self, stage: str, key: str) -> Artifact | None:
        """The artifact; None if it is absent or damaged (a file is missing or differs from its sha256 in the manifest).

        A damaged one is set aside with a warning, so that the stage can be run again.
        """
        return self._own(stage, key) or self._from_behind(stage, key)

    def _own(self, stage: str, key: str) -> Artifact | None:
        """The artifact that lies in the store itself."""
        manifest = self._manifest(stage, key)
        if manifest is None:
            return None
        files = {}
        for path, digest in manifest.items():
            content = self._verified(stage, key, path, digest)
            if content is None:
                return None
            files[path.rpartition("/")[2]] = content
        return Artifact(key, files)

    def json(self, stage: str, key: str, name: str) -> Any:
        """The value in `<name>.json` of an artifact, without a look at its other files; None if absent or damaged."""
        for path, digest in (self._manifest(stage, key) or {}).items():
            if path.rpartition("/")[2] == f"{name}.json":
                content = self._verified(stage, key, path, digest)
                return None if content is None else json.loads(content)
        found = self._from_behind(stage, key)
        return None if found is None or f"{name}.json" not in found.files else found.json(name)

    def has(self, stage: str, key: str) -> bool:
        """True if the artifact was published, or lies behind. Of one that was published only `open` verifies the
        content."""
        return self._has(stage, key) or self._from_behind(stage, key) is not None

    def origin(self, stage: str, key: str) -> str | None:
        """What the place behind calls an artifact that the store itself lacks; None if the store has it, or nobody."""
        if self.behind and not self._has(stage, key):
            return next(filter(None, (place.origin(stage, key) for place in self.behind)), None)
        return None

    def _has(self, stage: str, key: str) -> bool:
        return self.fs.exists(f"{self._folder(stage, key)}/{MANIFEST}")

    def _from_behind(self, stage: str, key: str) -> Artifact | None:
        for place in self.behind:
            files = place.files(stage, key)
            if files is not None:
                return Artifact(key, files)
        return None

    def which(self, stage: str, keys: Iterable[str]) -> set[str]:
        """Those of the keys for which `has` is true, in few calls: asking an object store for each of thousands takes
        minutes."""
        keys = set(keys)
        own = self._present(stage, keys)
        return own | {key for key in keys - own if self._from_behind(stage, key) is not None}

    def origins(self, stage: str, keys: Iterable[str]) -> dict[str, str]:
        """{key: its `origin`} of those that lie behind and not in the store."""
        absent = set(keys) - self._present(stage, keys) if self.behind else set()
        named = ((key, next(filter(None, (each.origin(stage, key) for each in self.behind)), None)) for key in absent)
        return {key: name for key, name in named if name}

    def _present(self, stage: str, keys: Iterable[str]) -> set[str]:
        """Those of the keys whose manifest is in the store itself."""
        keys = set(keys)
        if self.local or len(keys) <= FEW:
            return {key for key in keys & set(self.names(stage)) if self._has(stage, key)}
        self.fs.invalidate_cache()
        end = f"/{MANIFEST}"
        found = (path[: -len(end)] for path in self.fs.find(f"{self.path}/{stage}") if path.endswith(end))
        return keys & {path.rpartition("/")[2] for path in found}

    def publish(self, stage: str, key: str, draft: Draft) -> Artifact:
        """Publish a draft; an artifact that already exists is kept. Returns the published one."""
        published = self._own(stage, key)
        if published is not None:
            return published
        if (self._rename if self.local else self._upload)(stage, key, draft):
            return Artifact(key, dict(draft.files))
        published = self._own(stage, key)
        if published is None:
            raise UserError(f"{self._folder(stage, key)} was made by another process and is damaged: run it again.")
        return published

    def work_folder(self, stage: str, key: str) -> Path:
        """The folder for checkpoints of an unfinished stage. They may hold the noise of a private fit: only this user
        can enter it.

        It lies in a local store (NFS included), so that another worker can resume; for any other store it lies in this
        machine's temporary folder.
        """
        return private_folder(self._work() / f"{stage}-{key}")

    @contextlib.contextmanager
    def working(self, stage: str, key: str) -> Iterator[Path]:
        """The `work_folder`, with the checkpoints that another machine has left there; during the block an object store
        with a secret keeps what is written in it."""
        folder = self.work_folder(stage, key)
        if self.local or self.secret is None:
            yield folder
            return
        with kept.mirrored(self.raw, self._kept(stage, key), folder, self.secret):
            yield folder

    def discard_work(self, stage: str, key: str) -> None:
        """Remove the checkpoints of a stage that was published."""
        shutil.rmtree(self._work() / f"{stage}-{key}", ignore_errors=True)
        if not self.local and self.secret is not None:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm(self._kept(stage, key), recursive=True)

    def _kept(self, stage: str, key: str) -> str:
        return f"{self.path}/work/kept/{stage}-{key}"

    @contextlib.contextmanager
    def lock(self, stage: str, key: str) -> Iterator[None]:
        """A lock to hold while a stage runs: two studies on one store then never make the same release twice.

        In a folder the kernel keeps it, on every machine that shares the file system, and frees it when its process
        dies. On an object store the kernel's lock is this machine's own, and a lease excludes the other machines: see
        wavedp.store.lease for how long a dead one keeps it.
        """
        locks = self._work() / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with open(locks / f"{stage}-{key}", "a+", encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if self.local:
                yield
                return
            leases, token = f"{self.path}/work/leases/{stage}-{key}", secrets.token_hex(16)
            handle.seek(0)
            before = handle.read()
            if before:  # whoever had the kernel's lock has ended, perhaps without giving back its lease
                lease.end(self.fs, f"{leases}/{before}")
            handle.truncate(0)
            handle.write(token)
            handle.flush()
            with lease.held(self.fs, leases, token):
                yield

    def put(self, name: str, content: bytes, private: bool = False) -> None:
        """Write or replace one small object beside the artifacts. private: in a local store it lies in a folder that
        only this user can enter. Raises OSError, and UserError if that folder is another user's."""
        if self.local:
            file = Path(self.path, name)
            if private:
                private_folder(file.parent)
            write_atomically(file, content, PRIVATE if private else PUBLIC)
        else:
            self.fs.pipe_file(f"{self.path}/{name}", content)

    def get(self, name: str) -> bytes:
        """What `put` wrote. Raises FileNotFoundError."""
        return self.fs.cat_file(f"{self.path}/{name}")

    def remove(self, folder: str) -> None:
        """Remove a folder of small objects."""
        self.fs.rm(f"{self.path}/{folder}", recursive=True)

    def names(self, folder: str) -> list[str]:
        """The names of the objects and folders in a folder of the store; [] if there is none."""
        try:
            paths = self.fs.ls(f"{self.path}/{folder}", detail=False)
        except FileNotFoundError:
            return []
        names = (path.rstrip("/").rpartition("/")[2] for path in paths)
        return sorted(name for name in names if not name.startswith("."))

    def require_writable(self) -> None:
        """Raises UserError unless the store can be written."""
        if self.local:
            require_writable(Path(self.path), "store")
            return
        probe = f"{self.path}/work/probe-{secrets.token_hex(8)}"
        try:  # without patience: an address that is wrong, or credentials that are missing, are told at once
            self.raw.pipe_file(probe, bytes(4096))
            self.raw.rm_file(probe)
        except Exception as error:  # each backend has its own
            reason = OSError(0, f"{type(error).__name__}: {error}")
            raise UserError(cannot_write(f"store={self.root}", reason)) from error

    def _folder(self, stage: str, key: str) -> str:
        return f"{self.path}/{stage}/{key}"

    def _work(self) -> Path:
        return Path(self.path, "work") if self.local else temporary_folder(sha256(self.root.encode())[:12]) / "work"

    def _manifest(self, stage: str, key: str) -> dict[str, str] | None:
        """{path under the artifact's folder: sha256}; None if it is absent or damaged."""
        try:
            content = json.loads(self.fs.cat_file(f"{self._folder(stage, key)}/{MANIFEST}"))
            return {str(path): str(digest) for path, digest in content.items()}
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, AttributeError):
            self._set_aside(stage, key, MANIFEST)
            return None

    def _verified(self, stage: str, key: str, path: str, digest: str) -> bytes | None:
        """The content of an artifact's file; None, and the artifact is set aside, if it is not what was published."""
        try:
            content = self.fs.cat_file(f"{self._folder(stage, key)}/{path}")
            if sha256(content) == digest:
                return content
        except (FileNotFoundError, IsADirectoryError):
            pass
        self._set_aside(stage, key, path)
        return None

    def _set_aside(self, stage: str, key: str, path: str) -> None:
        folder = self._folder(stage, key)
        warnings.warn(f"{folder} is damaged ({path}): it is set aside, to be made again.", stacklevel=5)
        with contextlib.suppress(OSError):  # it was taken away meanwhile, or may not be: publishing replaces it
            if self.local:
                shutil.rmtree(f"{folder}.corrupted", ignore_errors=True)
                os.rename(folder, f"{folder}.corrupted")
            else:
                self.fs.rm_file(f"{folder}/{MANIFEST}")

    def _rename(self, stage: str, key: str, draft: Draft) -> bool:
        """Publish by renaming a complete folder; False if another process was first."""
        manifest = {name: sha256(data) for name, data in draft.files.items()}
        folder, parent = self._folder(stage, key), Path(self.path, stage)
        with named(parent):
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
                return False
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            sync_folder(parent)
        return True

    def _upload(self, stage: str, key: str, draft: Draft) -> bool:
        """Publish by uploading files under names of this attempt's own, then the manifest that names them; False, and
        the files are deleted, if another process was first."""
        folder, attempt = self._folder(stage, key), secrets.token_hex(8)
        for name, data in draft.files.items():
            self.fs.pipe_file(f"{folder}/{attempt}/{name}", data)
        manifest = json.dumps({f"{attempt}/{name}": sha256(data) for name, data in draft.files.items()}).encode()
        if self._first(f"{folder}/{MANIFEST}", manifest):
            return True
        if self._own(stage, key) is not None:
            self.fs.rm(f"{folder}/{attempt}", recursive=True)
            return False
        self.fs.pipe_file(f"{folder}/{MANIFEST}", manifest)  # in place of a damaged one that could not be set aside
        return True

    def _first(self, path: str, content: bytes) -> bool:
        """Write an object unless there is one already; True if it is this content that stays."""
        try:
            self.fs.pipe_file(path, content, mode="create")
        except FileExistsError:
            pass
        except (NotImplementedError, TypeError, ValueError):  # a backend that cannot refuse to replace
            if not self.fs.exists(path):
                self.fs.pipe_file(path, content)
        return self.fs.cat_file(path) == content

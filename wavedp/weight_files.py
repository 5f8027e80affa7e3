"""Find files of ready-made weights, and identify them in keys by their content, never by a path.

Nothing is downloaded, and nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path

from wavedp.errors import UserError


def hub_identity(path: str | None, revision: str | None, usual: str) -> dict[str, str]:
    """Identify, for a key, a model of the Hugging Face hub: by its id and commit, or by the sha256 of a folder.

    path: a folder that the model was saved to, or a hub id (None: `usual`). Raises UserError for a path that does not
    exist, or a hub id without a commit.
    """
    folder = _local(path, usual)
    return (
        {"sha256": sha256(folder)} if folder else {"hub": path or usual, "revision": _commit(path or usual, revision)}
    )


def hub_folder(path: str | None, revision: str | None, usual: str) -> Path:
    """The model's folder. Raises UserError when `hub_identity` does, and for a model that is not in the hub's cache."""
    folder = _local(path, usual)
    if folder is not None:
        return folder
    hub_id = path or usual
    commit = _commit(hub_id, revision)
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(hub_id, revision=commit, local_files_only=True))
    except LocalEntryNotFoundError:
        raise UserError(
            f"{hub_id} at {commit} is not in the cache of the Hugging Face hub: run hf download {hub_id} --revision "
            f"{commit}, or set upscaler.path to a folder with the model."
        ) from None


def sha256(path: Path) -> str:
    """64 hex digits: of a file, or of all files of a folder and their names, without hidden ones."""
    if path.is_file():
        status = path.stat()
        return _of_file(str(path), status.st_size, status.st_mtime_ns)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        inside = file.relative_to(path)
        if file.is_file() and not any(part.startswith(".") for part in inside.parts):
            digest.update(f"{inside.as_posix()}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=1024)  # the same file is asked for by every trial of a study
def _of_file(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _local(path: str | None, usual: str) -> Path | None:
    """The folder that upscaler.path names; None for a hub id."""
    if path is None:
        return None
    folder = Path(path).expanduser()
    if not folder.exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path):
        return None
    if not folder.is_dir():
        raise UserError(f"upscaler.path={path} is neither a folder nor a hub id: give one, or null for {usual}.")
    return folder


def _commit(hub_id: str, revision: str | None) -> str:
    if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise UserError(
            f"upscaler.revision={revision} does not fix what {hub_id} holds: give the commit, 40 hex digits, "
            "that its page lists under `Files and versions`, or set upscaler.path to a folder with the model."
        )
    assert revision is not None
    return revision

"""Images that travel through a study's store to nodes that lack their files (`data.ship=true`, `public.ship=true`).

The driver sends the records of every split once, as a decoded file in pieces; a node without the dataset's own files
puts it into a folder that is its data home from then on, where it stands in for them (wavedp.data.decoded): the same
records in the same order, the same fingerprint, the same stage keys.

    <store>/work/images/<name>/sent.json, <attempt>-<number>      what was sent, and the pieces of the decoded file
    <temporary folder>/wavedp-<uid>-images/<name>/                the node's home (TMPDIR moves it)

    case                                          result
    a local store, or a folder on NFS             the pieces lie in a folder that only this user can enter
    an object store, sensitive images             encrypted with the store's secret (wavedp.store.kept.secret_for);
                                                  without one they are refused, and nothing is sent
    an object store, public images                as they are
    sent before, with this content and secret     found by its name, which is made of the fingerprints and the secret
    a piece is damaged, cut off or another's      refused on the node: pieces are sealed, and the file has a sha256
    a damaged file in the node's home             fetched again
    files that are computed, or here              nothing is sent, or fetched

What was sent stays for later studies. Delete `<store>/work/images`, and the nodes' folders, to remove it.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import io
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from wavedp import data
from wavedp.config import DataConfig, identity
from wavedp.data import cache, decoded
from wavedp.data.dataset import Records, Split
from wavedp.errors import UserError
from wavedp.files import private_folder, temporary_folder
from wavedp.store import Store, kept
from wavedp.store.sealed import Seal

FOLDER = "work/images"
MANIFEST = "sent.json"
PIECE = 2**25  # bytes; as much is in memory at once
FILE = f"images{decoded.SUFFIX}"
WHAT = "data.ship=true with an object store"


@dataclass(frozen=True)
class Sent:
    """A dataset in a store: its folder there, and what a node needs to put it together and to know it.

    attempt: what the names of its pieces begin with. size, sha256: of the decoded file. fingerprints: of each split.
    """

    folder: str
    attempt: str
    pieces: int
    size: int
    sha256: str
    sealed: bool
    fingerprints: dict[str, str]


def asked(config: DataConfig) -> DataConfig:
    """The config by which a sent dataset is known: equal records are merged after their travel."""
    return replace(config, duplicates="refuse")


def send(config: DataConfig, store: Store, sensitive: bool, say: Callable[[str], object] = print) -> Sent:
    """Put a dataset, which has files and is here, into the store, unless it is there.

    say: is told what is sent before it is. Raises UserError for sensitive images and an object store without a secret.
    """
    sealed = sensitive and not store.local
    seal = _seal(store) if sealed else None
    config = asked(config)
    fingerprints: dict[str, str] = {split: data.fingerprint(config, split) for split in data.splits(config)}
    folder = f"{FOLDER}/{_name(config, fingerprints, store, sealed)}"
    found = _manifest(store, folder, seal)
    if found is not None:
        return found
    say(_sentence(config, store, sealed))
    pieces = _Pieces(store, folder, seal)
    splits: dict[Split, Records] = {}
    for split in data.splits(config):
        loaded = data.load(config, split)
        splits[split] = loaded.images, loaded.labels, loaded.captions
    _, save = decoded.packed(config, data.class_names(config), splits)
    save(pieces)  # type: ignore[arg-type]
    pieces.end()
    sent = Sent(folder, pieces.attempt, pieces.count, pieces.size, pieces.digest.hexdigest(), sealed, fingerprints)
    content = json.dumps(asdict(sent)).encode()
    store.put(f"{folder}/{MANIFEST}", _closed(seal, content, f"{folder}/{MANIFEST}"), private=True)
    return sent


def here(config: DataConfig, store: Store, sent: Mapping[DataConfig, Sent]) -> DataConfig:
    """The config, with a home on this machine that has the images, where they were sent and their files are not here.

    sent: what the driver sent, by `asked(config)`. Raises UserError for what is not, bit for bit, what was sent.
    """
    found = sent.get(asked(config))
    if found is None or data.has_images(config):
        return config
    home = private_folder(temporary_folder("images") / found.folder.rpartition("/")[2])
    moved, file = replace(config, home=str(home)), home / FILE
    with open(home / "lock", "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process of a machine fetches it, the others wait and find it
        if not _is_whole(file, found.sha256):
            _fetch(file, store, found)
    for split, fingerprint in found.fingerprints.items():
        if data.fingerprint(asked(moved), split) != fingerprint:  # type: ignore[arg-type]
            raise UserError(
                f"the {split} images of {config.name} in {file} are not those that were sent: remove {home} and "
                f"{store.root}/{found.folder}, and start the same command again."
            )
    return moved


class _Pieces(io.RawIOBase):
    """A file that goes to the store piece by piece while it is written."""

    def __init__(self, store: Store, folder: str, seal: Seal | None) -> None:
        self.store, self.folder, self.seal = store, folder, seal
        self.attempt, self.digest = secrets.token_hex(8), hashlib.sha256()
        self.count = self.size = 0
        self.held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.held += content
        while len(self.held) >= PIECE:
            self._put(bytes(self.held[:PIECE]))
            del self.held[:PIECE]
        return len(content)

    def end(self) -> None:
        """Send what is left."""
        if self.held:
            self._put(bytes(self.held))
            self.held.clear()

    def _put(self, content: bytes) -> None:
        name = f"{self.folder}/{self.attempt}-{self.count}"
        self.store.put(name, _closed(self.seal, content, name), private=True)
        self.digest.update(content)
        self.count, self.size = self.count + 1, self.size + len(content)


def _fetch(file: Path, store: Store, sent: Sent) -> None:
    """Put the file together, for its owner alone. Raises UserError if it is not what was sent."""
    free = shutil.disk_usage(file.parent).free
    if free < sent.size:
        raise UserError(
            f"the images take {sent.size / 1e9:.1f} GB of the disk of {file.parent}, which has {free / 1e9:.1f} GB "
            "free: set TMPDIR to a folder on a larger disk when the node starts."
        )
    seal, digest = _seal(store) if sent.sealed else None, hashlib.sha256()
    part = file.with_name(f".{file.name}.part")
    part.unlink(missing_ok=True)
    try:
        with open(part, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as opened:
            for number in range(sent.pieces):
                content = _got(store, f"{sent.folder}/{sent.attempt}-{number}", seal)
                digest.update(content)
                opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        if digest.hexdigest() != sent.sha256:
            raise _damaged(store, sent.folder, "its sha256 is another")
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def _got(store: Store, name: str, seal: Seal | None) -> bytes:
    """What was put there. Raises UserError for what is missing or damaged."""
    try:
        content = store.get(name)
        return content if seal is None else seal.open(content, name)
    except Exception as error:  # each backend has its own
        reason = f"{name.rpartition('/')[2]}: {type(error).__name__} {error}".rstrip()
        raise _damaged(store, name.rpartition("/")[0], reason) from error


def _damaged(store: Store, folder: str, reason: str) -> UserError:
    return UserError(
        f"the images in {store.root}/{folder} can't be used ({reason}): remove that folder, and start the same command "
        "again, which sends them anew."
    )


def _is_whole(file: Path, sha256: str) -> bool:
    return file.is_file() and _digest(file, cache.stamp(file)) == sha256


@lru_cache(maxsize=64)
def _digest(file: Path, stamp: str) -> str:
    """The file's sha256, once a process."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _seal(store: Store) -> Seal:
    """Raises UserError for a store without a secret."""
    if store.secret is None:
        raise UserError(
            f"data.ship=true sends sensitive images encrypted, and no secret is known for {store.root}: set "
            f"{kept.VARIABLE} (`openssl rand -hex 32` prints one), or give every node the images on a disk."
        )
    return Seal(store.secret, WHAT)


def _closed(seal: Seal | None, content: bytes, place: str) -> bytes:
    return content if seal is None else seal.close(content, place)


def _name(config: DataConfig, fingerprints: Mapping[str, str], store: Store, sealed: bool) -> str:
    """Of the content, and of who can read it: another user's folder, or another secret's, is another one."""
    who = store.secret if sealed else str(os.getuid()) if store.local else ""
    path = None if config.path is None else Path(config.path).absolute().name
    about = [decoded.FORMAT, identity(config), path, data.class_names(config), fingerprints]
    content = json.dumps(about, sort_keys=True).encode(errors="surrogateescape")
    return hmac.new((who or "").encode(), content, "sha256").hexdigest()[:32]


def _manifest(store: Store, folder: str, seal: Seal | None) -> Sent | None:
    """What was sent before; None for nothing, and for what is damaged, which is sent again."""
    if MANIFEST not in store.names(folder):
        return None
    try:
        return Sent(**json.loads(_got(store, f"{folder}/{MANIFEST}", seal)))
    except (UserError, ValueError, TypeError):
        return None


def _sentence(config: DataConfig, store: Store, sealed: bool) -> str:
    count = sum(data.n_records(config, split) for split in data.splits(config))
    size = count * math.prod(data.shape(config)) / 1e6
    how = "encrypted" if sealed else "readable by you alone" if store.local else "not encrypted"
    return f"Sends {count:,} images of {config.name}, {size:,.0f} MB decoded, to {store.root}/{FOLDER}, {how}."

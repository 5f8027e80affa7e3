"""Decoded records on disk, keyed by the identity of the files they were decoded from, so a lookup is never stale."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import PIL

from wavedp import sources
from wavedp.config import DataConfig, identity
from wavedp.data import dataset
from wavedp.data.dataset import Dataset, Source, Split

UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def path(config: DataConfig, split: Split, source: Source) -> Path | None:
    """The file for this split's decoded records; None for a source without files, or whose code is in no file.

    The name hashes everything that can change the records: the config, the version of PIL, the text of the modules that
    decode and fingerprint them (of a dataset from outside also of those that it imports of its own), and (path, inode,
    size, mtime, ctime) of every file. ctime moves even where mtime is set back.
    """
    files = source.files(config)
    module = source.__name__ if isinstance(source, ModuleType) else type(source).__module__
    if not files or not getattr(sys.modules.get(module), "__file__", None):
        return None
    own = sorted(sources.files(module, leave=("wavedp",)).values())
    code = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (*own, Path(dataset.__file__), Path(__file__))]
    digest = hashlib.sha256(json.dumps([identity(config), PIL.__version__, code]).encode())
    for file in files:
        stat = file.stat()
        about = f"{os.path.abspath(file)}\0{stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n"
        digest.update(about.encode(errors="surrogateescape"))
    label = re.sub(r"[^\w.-]+", "-", config.name)  # package.module:Object
    name = f"{label}-{split}-{config.channels}x{config.size}-{digest.hexdigest()[:32]}.npz"
    return Path(config.home, "decoded", name)


def read(path: Path) -> Dataset | None:
    """The dataset at `path`; None if the file is missing or damaged (the records are then decoded again)."""
    try:
        with np.load(path) as arrays:
            about = json.loads(arrays["about"].tobytes())
            captions = about.pop("captions")
            return Dataset(
                images=arrays["images"],
                labels=arrays["labels"],
                classes=tuple(about.pop("classes")),
                captions=None if captions is None else tuple(captions),
                fingerprint=arrays["fingerprint"].tobytes().decode(),
                **about,
            )
    except UNREADABLE:
        return None


def read_fingerprint(path: Path) -> str | None:
    """Read only the fingerprint: an .npz is a zip, so this takes a few hundred bytes."""
    try:
        with np.load(path) as arrays:
            return arrays["fingerprint"].tobytes().decode()
    except UNREADABLE:
        return None


def write(path: Path, records: Dataset) -> None:
    """Publish in one step: two processes may decode the same split, and neither may read half a file.

    If the home cannot be written, the records are decoded each time; that is only slow, so it is logged.
    """
    about = {"name": records.name, "split": records.split, "classes": records.classes, "captions": records.captions}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            np.savez(
                file,
                fingerprint=np.frombuffer(records.fingerprint.encode(), np.uint8),
                about=np.frombuffer(json.dumps(about).encode(), np.uint8),
                images=records.images,
                labels=records.labels,
            )
        os.replace(part, path)
    except OSError as error:
        logging.getLogger(__name__).warning("decoded records are not kept: %s", error)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()

"""Decoded records on disk, keyed by the identity of the files they were decoded from, so a lookup is never stale; and
what was counted in them.

A file is an .npz whose parts are not compressed, so that its images need not be read into memory: they are mapped, and
the system reads what is looked at and forgets it when memory is short. It is written part by part. Both need the disk
that the images take, N C H W bytes a split, and a disk without it is refused before anything is decoded.

They lie in `data.cache`, a folder below the home or an absolute path, and may be copies of sensitive images: only their
owner can read them. data.cache=off keeps nothing, and decodes again in each process; what is larger than `PART` lies
meanwhile in a file without a name in the home, which the system removes when the process ends, however it does.
"""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import json
import logging
import math
import os
import re
import shutil
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from functools import cache as memoized
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
import PIL

from wavedp import sources
from wavedp.config import DataConfig, identity
from wavedp.data.dataset import Dataset, Fingerprint, Records, Source, Split, is_large
from wavedp.errors import UserError

OFF = "off"
HERE = tuple(sorted(Path(__file__).parent.glob("*.py")))
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def path(config: DataConfig, split: Split, source: Source) -> Path | None:
    """The file for this split's decoded records; None for a source without files, or whose code is in no file, and for
    data.cache=off.

    The name hashes everything that can change the records: the config, the version of PIL, the text of the modules that
    decode and fingerprint them (of a dataset from outside also of those that it imports of its own), and `stamp` of
    every file, or the source's `content`.
    """
    files = source.files(config)
    module = source.__name__ if isinstance(source, ModuleType) else type(source).__module__
    if not files or not getattr(sys.modules.get(module), "__file__", None) or config.cache == OFF:
        return None
    code = _code(*sources.files(module, leave=("wavedp",)).values(), *HERE)
    digest = hashlib.sha256(json.dumps([identity(config), PIL.__version__, code]).encode())
    content = getattr(source, "content", None)
    for mark in content(config, split) if content else map(stamp, files):
        digest.update(f"{mark}\n".encode(errors="surrogateescape"))
    label = re.sub(r"[^\w.-]+", "-", config.name)  # package.module:Object
    return _folder(config) / f"{label}-{split}-{config.channels}x{config.size}-{digest.hexdigest()[:32]}.npz"


def stamp(file: Path) -> str:
    """A file's path and the numbers that change when its content does. ctime moves even where mtime is set back."""
    stat = file.stat()
    return f"{os.path.abspath(file)}\0{stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def read(path: Path) -> Dataset | None:
    """The dataset at `path`; None if the file is missing or damaged (the records are then decoded again)."""
    try:
        _verify(path, stamp(path))
        with np.load(path) as arrays:
            about = json.loads(arrays["about"].tobytes())
            captions = about.pop("captions")
            return Dataset(
                images=_mapped(path, "images.npy"),
                labels=arrays["labels"],
                classes=tuple(about.pop("classes")),
                captions=None if captions is None else tuple(captions),
                fingerprint=arrays["fingerprint"].tobytes().decode(),
                **about,
            )
    except UNREADABLE:
        return None


def nameless(
    config: DataConfig, about: dict[str, Any], shape: tuple[int, int, int, int], parts: Callable[[], Iterable[Records]]
) -> Dataset | None:
    """As `write` and `read`, in a file of the home that is gone with the process. None where the home cannot be written
    to. Raises UserError where its disk is too small."""
    home = Path(config.home).expanduser()
    _require_room(home, shape, f"until this process ends, {shape[0]:,} decoded images of {about['name']}")
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as file:
            labels, captions, value = _write_images(file, shape, parts())
            file.flush()
            images = np.asarray(np.memmap(file, np.uint8, "r", 0, shape))
    except OSError as error:
        logging.getLogger(__name__).warning("decoded images are held in memory: %s", error)
        return None
    return Dataset(
        images=images, labels=labels, captions=None if captions is None else tuple(captions), fingerprint=value, **about
    )


def read_fingerprint(path: Path) -> str | None:
    """Read only the fingerprint: an .npz is a zip, so this takes a few hundred bytes."""
    try:
        with np.load(path) as arrays:
            return arrays["fingerprint"].tobytes().decode()
    except UNREADABLE:
        return None


def write(
    path: Path, about: dict[str, Any], shape: tuple[int, int, int, int], parts: Callable[[], Iterable[Records]]
) -> None:
    """Write records that come in parts. about: `name`, `split` and `classes` of the dataset. shape: N, C, H, W. parts:
    called once; together they are the N records.

    If the folder cannot be written, the records are decoded each time; that is only slow, so it is logged. Raises
    UserError, before the first part is asked for, where its disk is too small.
    """
    _require_room(path.parent, shape, f"decoded copies of {shape[0]:,} images of {about['name']}")

    def save(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w") as arrays:  # not compressed, for `_mapped`
            with arrays.open("images.npy", "w", force_zip64=True) as opened:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(opened, header)
                labels, captions, value = _write_images(opened, shape, parts())
            for name, array in (
                ("labels", labels),
                ("about", _bytes(json.dumps({**about, "captions": captions}))),
                ("fingerprint", _bytes(value)),
            ):
                with arrays.open(f"{name}.npy", "w", force_zip64=True) as opened:
                    np.lib.format.write_array(opened, array, allow_pickle=False)

    try:
        publish(path, save)
    except OSError as error:
        logging.getLogger(__name__).warning("decoded records are not kept: %s", error)
    else:
        _tell(path.parent)


def remember(config: DataConfig, about: Any, compute: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """`compute(*arguments)`, which is kept beside the dataset's decoded records as JSON. about: everything that it
    depends on, except the code in this package."""
    if config.cache == OFF:
        return compute(*arguments)
    code = _code(*HERE)
    digest = hashlib.sha256(json.dumps([about, code]).encode(errors="surrogateescape")).hexdigest()
    path = _folder(config) / f"{digest[:32]}.json"
    try:
        return json.loads(path.read_bytes())
    except UNREADABLE:
        found = compute(*arguments)
    with contextlib.suppress(OSError):
        publish(path, lambda file: file.write(json.dumps(found).encode()))
    return found


def remember_array(config: DataConfig, about: Any, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """As `remember`, for an array. about: everything that it depends on, the code too."""
    if config.cache == OFF:
        return compute()
    digest = hashlib.sha256(json.dumps(about).encode(errors="surrogateescape")).hexdigest()
    path = _folder(config) / f"{digest[:32]}.npy"
    try:
        return np.load(path)
    except UNREADABLE:
        found = compute()
    with contextlib.suppress(OSError):
        publish(path, lambda file: np.save(file, found))
    return found


def publish(path: Path, save: Callable[[IO[bytes]], Any]) -> None:
    """Write a file that only its owner can read, in one step: two processes may decode the same split, and neither may
    read half a file. One that has this content already is left as it is."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(part, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
        if not (path.is_file() and filecmp.cmp(part, path, shallow=False)):
            os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _write_images(
    file: IO[bytes], shape: tuple[int, int, int, int], parts: Iterable[Records]
) -> tuple[np.ndarray, list[str] | None, str]:
    """Write the images of the parts, one after another; returns the labels, the captions and the fingerprint of all."""
    digest, labels, captions = Fingerprint(shape), [], []
    for images, own, said in parts:
        assert (images.dtype, images.shape[1:]) == (np.uint8, shape[1:]), (images.dtype, images.shape)
        file.write(np.ascontiguousarray(images).data)
        digest.add(images)
        labels.append(own)
        captions.append(said)
    every = np.concatenate(labels)
    assert len(every) == shape[0], (len(every), shape)
    texts = None if captions[0] is None else [text for said in captions for text in said or ()]
    return every, texts, digest.of(every, texts)


def _require_room(folder: Path, shape: tuple[int, ...], what: str) -> None:
    """Raises UserError unless the disk of a folder, which need not be there yet, has room for images of this shape."""
    size = math.prod(shape)
    there = next((place for place in (folder, *folder.parents) if place.is_dir()), None)
    free = shutil.disk_usage(there).free if there else size
    if free < size:
        raise UserError(
            f"{what} take {size / 1e9:.1f} GB of the disk of {folder}, which has {free / 1e9:.1f} GB free: set "
            "data.cache to a folder on a larger disk, data.size or data.limit lower."
        )
    if is_large(shape):
        logging.getLogger(__name__).warning("%s take %.1f GB of the disk of %s.", what, size / 1e9, folder)


@lru_cache(maxsize=64)
def _verify(path: Path, stamp: str) -> None:
    """Compare the file with its checksums, once a process. Raises BadZipFile."""
    with zipfile.ZipFile(path) as arrays:
        if (damaged := arrays.testzip()) is not None:
            raise zipfile.BadZipFile(damaged)


def _mapped(path: Path, name: str) -> np.ndarray:
    """An array in an .npz that was not compressed, as a part of the file; it cannot be written to."""
    with zipfile.ZipFile(path) as arrays, open(path, "rb") as file:
        info = arrays.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed")
        file.seek(info.header_offset + 26)  # where a local header says how long its name and its extra field are
        file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        return np.asarray(np.memmap(file, dtype, "r", file.tell(), shape))


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def _folder(config: DataConfig) -> Path:
    return Path(config.home, config.cache).expanduser()


@memoized
def _tell(folder: Path) -> None:
    """Say once where copies of images are."""
    logging.getLogger(__name__).warning(
        "Decoded copies of the images are kept in %s, readable by you alone: data.cache=FOLDER puts them elsewhere, "
        "data.cache=off keeps none.",
        folder,
    )


def _code(*files: str | Path) -> list[str]:
    return [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in sorted(map(str, files))]

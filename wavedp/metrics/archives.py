"""Zip files whose members are checked by the directory before any is unpacked: a few kilobytes can claim any size."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from wavedp.errors import UserError

READ = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
LARGE, RATIO = 2**28, 100
"""A member may claim 256 MiB however it is packed, and more if packing made it at most a hundred times smaller."""

DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


@contextmanager
def readable(name: str, remedy: str) -> Iterator[None]:
    """Every failure to read `name` as a UserError: what failed, and `remedy`."""
    try:
        yield
    except DAMAGE as error:
        raise UserError(f"{name} cannot be read ({str(error) or type(error).__name__}): {remedy}.") from error


def members(path: Path, remedy: str) -> list[zipfile.ZipInfo]:
    """The files in the zip at `path`, by name. Raises UserError for what is not a zip; remedy: what to give instead."""
    with readable(str(path), remedy), zipfile.ZipFile(path) as archive:
        return sorted((info for info in archive.infolist() if not info.is_dir()), key=lambda info: info.filename)


def open_member(archive: zipfile.ZipFile, path: Path, info: zipfile.ZipInfo) -> IO[bytes]:
    """One file of the zip at `path`. Raises UserError for one that cannot be unpacked, or claims too much."""
    name = f"{path}:{info.filename}"
    if info.flag_bits & 1:
        raise UserError(f"{name} is encrypted: unpack it with its password, and give the folder.")
    if info.compress_type not in READ:
        method = zipfile.compressor_names.get(info.compress_type, info.compress_type)  # type: ignore[attr-defined]
        raise UserError(f"{name} is packed by {method}, which is not read: pack it again by deflate, or not at all.")
    if info.file_size > max(LARGE, RATIO * info.compress_size):
        raise UserError(
            f"{name} claims {info.file_size:,} bytes in {info.compress_size:,}, and {RATIO} times is the limit above "
            f"{LARGE:,}: save it without compression."
        )
    return archive.open(info)

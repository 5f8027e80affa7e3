"""Arrays of an npz, read by rows: memory holds a few rows, and what a header claims is compared with what is there."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from wavedp.errors import UserError
from wavedp.metrics.archives import members, open_member, readable

REMEDY = "save arrays with numpy.savez"
WHOLE = 2**30  # bytes of an array that is read at once
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class Array:
    """An array in the npz at `path`, of which only the header has been read."""

    path: Path
    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool

    def rows(self, count: int) -> Iterator[np.ndarray]:
        """All rows, `count` at a time. Raises UserError for damage."""
        if self.fortran and len(self.shape) > 1:
            whole = self.whole()
            yield from (whole[start : start + count] for start in range(0, len(whole), count))
            return
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        with self._opened() as file:
            for start in range(0, self.shape[0], count):
                here = min(count, self.shape[0] - start)
                yield np.frombuffer(_exactly(file, here * size), self.dtype).reshape(here, *self.shape[1:])
            file.read(1)  # its end, where the checksum is compared

    def whole(self) -> np.ndarray:
        """Every element. Raises UserError for damage, and for more than 1 GiB."""
        size = math.prod(self.shape) * self.dtype.itemsize
        if size > WHOLE:
            raise UserError(
                f"{self.path}:{self.info.filename} has {size:,} bytes that cannot be read in parts, and {WHOLE:,} is "
                "the limit: save numpy.ascontiguousarray of it."
            )
        with self._opened() as file:
            values = np.frombuffer(_exactly(file, size), self.dtype)
            file.read(1)
        return values.reshape(self.shape[::-1]).T if self.fortran else values.reshape(self.shape)

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        """The file behind its header."""
        with (
            readable(str(self.path), REMEDY),
            zipfile.ZipFile(self.path) as archive,
            open_member(archive, self.path, self.info) as file,
        ):
            _header(file)
            yield file


def arrays(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The arrays in the npz at `path`, by name. Raises UserError for what is not an npz."""
    with readable(str(path), REMEDY), path.open("rb") as file:
        if file.read(6) == np.lib.format.MAGIC_PREFIX:
            raise UserError(f"{path} is a single array, an .npy by another name: {REMEDY}.")
    return {
        info.filename.removesuffix(".npy"): info for info in members(path, REMEDY) if info.filename.endswith(".npy")
    }


def array(path: Path, info: zipfile.ZipInfo) -> Array:
    """One of them, by its header. Raises UserError for objects, and for a header that claims what is not there."""
    name = f"{path}:{info.filename}"
    with readable(name, REMEDY), zipfile.ZipFile(path) as archive, open_member(archive, path, info) as file:
        shape, fortran, dtype = _header(file)
        start = file.tell()
    if dtype.hasobject:
        raise UserError(f"{name} holds Python objects: save numbers.")
    claimed = start + math.prod(shape) * dtype.itemsize
    if claimed != info.file_size:
        raise UserError(
            f"{name} is damaged: its header claims {dtype} {shape}, {claimed:,} bytes in all, and it has "
            f"{info.file_size:,}: save it again."
        )
    return Array(path, info, shape, dtype, fortran)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"it is of the npy format {version[0]}.{version[1]}")
    return HEADERS[version](file)


def _exactly(file: IO[bytes], size: int) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise EOFError("it ends too early")
    return content

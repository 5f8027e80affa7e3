"""Read sets of images from a folder, a zip of files or an npz, in chunks that fit in memory.

B images of a chunk, C channels (1 or 3), H W pixels

case                              result
no image                          UserError
images of several sizes, or grey  chunks of one size and number of channels each: Inception resizes every image
and colour mixed                  separately
a file that is not an image       UserError naming it (see wavedp.data.picture)
npz: several arrays               the one called images, samples or arr_0, else UserError
npz: B H W or B H W C             converted to B C H W
npz: float in [0, 1]              rounded to 8 bits
npz: NaN, infinite, out of range  UserError naming the first such image
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
import torch
from PIL import Image

from wavedp.data import picture
from wavedp.errors import UserError

CHUNK = 500
ARRAYS = ("images", "samples", "arr_0")


def chunks(path: Path) -> Iterator[torch.Tensor]:
    """All images of the set at `path`, uint8 B C H W with B <= 500, each chunk of one shape. Raises UserError."""
    if path.suffix == ".npz" and not path.is_dir():
        yield from _array(path).split(CHUNK)
    elif path.is_dir():
        yield from _pictures([(str(path / name), partial(_open, path / name)) for name in _names(path)])
    else:
        names = _names(path)
        with zipfile.ZipFile(path) as archive:
            yield from _pictures([(f"{path}:{name}", partial(archive.open, name)) for name in names])


def count(path: Path) -> int:
    """The number of images that `chunks(path)` gives. Raises UserError."""
    return len(_array(path)) if path.suffix == ".npz" and not path.is_dir() else len(_names(path))


def pick(path: Path, indices: Sequence[int]) -> list[torch.Tensor]:
    """Return the images uint8 C H W at these positions of `chunks(path)`, in the given order; reads the set once."""
    found: dict[int, torch.Tensor] = {}
    wanted, done = set(indices), 0
    for chunk in chunks(path):
        found.update({done + place: image for place, image in enumerate(chunk) if done + place in wanted})
        done += len(chunk)
    return [found[index] for index in indices]


def labels(path: Path) -> torch.Tensor | None:
    """Return the class of each image of `chunks(path)`, int64 n, if all images have one shape: a file's folder, or the
    array `labels` of an npz. None for a set of one class."""
    if path.suffix == ".npz" and not path.is_dir():
        with np.load(path, allow_pickle=False) as file:
            classes = file["labels"].tolist() if "labels" in file else []
    else:
        classes = [str(PurePosixPath(name).parent) for name in _names(path)]
    if len(set(classes)) < 2:
        return None
    return torch.from_numpy(np.unique(classes, return_inverse=True)[1]).long()


def _names(path: Path) -> list[str]:
    """The pictures in a folder or zip, by name, relative to it. Raises UserError for none, and for what is neither."""
    if path.is_dir():
        files = (item for item in sorted(path.rglob("*")) if item.is_file())
        found = [item.relative_to(path).as_posix() for item in files]
    elif path.suffix == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                found = sorted(archive.namelist())
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} cannot be read ({error}): give a zip of image files.") from error
    else:
        raise UserError(f"{path} is not a set of images: give a folder, a .zip of image files, or an .npz.")
    names = [name for name in found if not _hidden(PurePosixPath(name)) and _picture(name)]
    if not names:
        raise UserError(f"{path} holds no images: put some there ({', '.join(sorted(picture.SUFFIXES))}).")
    return names


def _pictures(files: Sequence[tuple[str, Callable[[], IO[bytes]]]]) -> Iterator[torch.Tensor]:
    """Decode files one by one; a chunk leaves when it is full, so at most one is open for each shape."""
    waiting: dict[tuple[int, ...], list[np.ndarray]] = {}
    for name, opener in files:
        try:
            with opener() as file:
                pixels = picture.pixels(picture.load(file))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{name} cannot be read ({error}): remove or replace it.") from error
        full = waiting.setdefault(pixels.shape, [])
        full.append(pixels)
        if len(full) == CHUNK:
            yield torch.from_numpy(np.stack(waiting.pop(pixels.shape)))
    for rest in waiting.values():
        yield torch.from_numpy(np.stack(rest))


def _array(path: Path) -> torch.Tensor:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [name for name in ARRAYS if name in file] or list(file)[: 1 if len(list(file)) == 1 else 0]
            if not names:
                raise UserError(f"{path} holds {', '.join(file) or 'nothing'}: name the array of images 'images'.")
            array = file[names[0]]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({error}): save arrays with numpy.savez.") from error
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[-1] in (1, 3) and array.shape[1] not in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or not array.size:
        raise UserError(f"{path} holds an array of shape {array.shape}: give images as B H W, B H W C or B C H W.")
    if array.dtype.kind == "f":
        wrong = ~((array >= 0) & (array <= 1)).all(axis=(1, 2, 3))
        if wrong.any():
            raise UserError(
                f"{path}: image {int(wrong.argmax())} has a pixel that is NaN or out of [0, 1]: give uint8 in 0..255, "
                "or floating-point numbers in [0, 1]."
            )
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise UserError(f"{path} holds {array.dtype}: give uint8 in 0..255, or floating-point numbers in [0, 1].")
    return torch.from_numpy(np.ascontiguousarray(array))


def _picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in picture.SUFFIXES


def _hidden(path: Path | PurePosixPath) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")

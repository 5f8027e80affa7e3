"""Read sets of images from a folder, a zip of files or an npz, in chunks that fit in memory.

B images of a chunk, C channels (1 or 3), H W pixels

case                              result
no image                          UserError
images of several sizes, or grey  chunks of one size and number of channels each: Inception resizes every image
and colour mixed                  separately
a file that is not an image       UserError naming it (see wavedp.data.picture)
a picture of a kind not read      UserError naming it, since a set without it would be another set
folder: a link to a folder        followed; UserError where it leads to a folder that is read already
zip, npz: encrypted, damaged, or  UserError (see wavedp.metrics.archives)
claiming a size beyond its limit
npz: several arrays               the one called images, samples or arr_0, else UserError
npz: B H W or B H W C             converted to B C H W
npz: float in [0, 1]              rounded to 8 bits
npz: NaN, infinite, out of range  UserError naming the first such image
npz: other labels than one each   UserError

max_pixels: of one image, by its header.
"""

from __future__ import annotations

import io
import math
import os
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
from wavedp.metrics import npz
from wavedp.metrics.archives import DAMAGE, members, open_member, readable

CHUNK = 500
CHUNK_BYTES = 2**27
"""Of images that wait to be a chunk: 500 of up to 299 × 299 in colour."""
PART_BYTES = 2**24  # of an npz read at a time, which may be floating-point
ARRAYS = ("images", "samples", "arr_0")
ZIP = "give a zip of image files"


def chunks(path: Path, max_pixels: int = picture.MAX_PIXELS) -> Iterator[torch.Tensor]:
    """All images of the set at `path`, uint8 B C H W with B <= 500, each chunk of one shape. Raises UserError."""
    if _is_npz(path):
        yield from _from_array(path, *_images(path, max_pixels))
    elif path.is_dir():
        yield from _pictures([(str(path / name), partial(_open, path / name)) for name in _names(path)], max_pixels)
    else:
        infos = _infos(path)
        with readable(str(path), ZIP), zipfile.ZipFile(path) as archive:
            files = [(f"{path}:{info.filename}", partial(_unpack, archive, path, info)) for info in infos]
            yield from _pictures(files, max_pixels)


def count(path: Path, max_pixels: int = picture.MAX_PIXELS) -> int:
    """The number of images that `chunks(path)` gives. Decodes none. Raises UserError."""
    return _images(path, max_pixels)[1][0] if _is_npz(path) else len(_names(path))


def names(path: Path, max_pixels: int = picture.MAX_PIXELS) -> list[str]:
    """The files of the set relative to it, sorted, in the order of `chunks(path)` where all have one shape; places,
    0 first, of an npz. Raises UserError."""
    return [str(number) for number in range(count(path, max_pixels))] if _is_npz(path) else _names(path)


def pick(path: Path, indices: Sequence[int], max_pixels: int = picture.MAX_PIXELS) -> list[torch.Tensor]:
    """Return the images uint8 C H W at these positions of `chunks(path)`, in the given order; reads the set once."""
    found: dict[int, torch.Tensor] = {}
    wanted, done = set(indices), 0
    for chunk in chunks(path, max_pixels):
        found.update({done + place: image.clone() for place, image in enumerate(chunk) if done + place in wanted})
        done += len(chunk)
    return [found[index] for index in indices]


def labels(path: Path, max_pixels: int = picture.MAX_PIXELS) -> torch.Tensor | None:
    """Return the class of each image of `chunks(path)`, int64 n, if all images have one shape: a file's folder, or the
    array `labels` of an npz. None for a set of one class. Raises UserError."""
    classes = (
        _array_labels(path, max_pixels) if _is_npz(path) else [str(PurePosixPath(name).parent) for name in _names(path)]
    )
    if len(set(classes)) < 2:
        return None
    return torch.from_numpy(np.unique(classes, return_inverse=True)[1]).long()


def square(images: torch.Tensor, side: int) -> torch.Tensor:
    """Images uint8 B C h w as the text-to-image evaluations of GigaGAN and LlamaGen take them: the centre of the long
    edge, then Pillow's Lanczos filter to `side`, in 8 bits; uint8 B C side side."""
    height, width = images.shape[-2:]
    short = min(height, width)
    top, left = round((height - short) / 2), round((width - short) / 2)  # as torchvision's center_crop
    cut = images[..., top : top + short, left : left + short].permute(0, 2, 3, 1)
    grey = images.shape[1] == 1
    found = []
    for pixels in cut.contiguous().numpy():
        made = Image.fromarray(pixels[..., 0] if grey else pixels).resize((side, side), Image.Resampling.LANCZOS)
        found.append(np.array(made).reshape(side, side, -1))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()


def _is_npz(path: Path) -> bool:
    return path.suffix.lower() == ".npz" and not path.is_dir()


def _names(path: Path) -> list[str]:
    """The pictures in a folder or zip, by name, relative to it. Raises UserError for none, and for what is neither."""
    if not path.is_dir():
        return [info.filename for info in _infos(path)]
    names = [file.relative_to(path).as_posix() for file in sorted(_files(path))]
    return _some(path, [name for name in names if _is_picture(path, name)])


def _infos(path: Path) -> list[zipfile.ZipInfo]:
    """The pictures in a zip, likewise."""
    if path.suffix.lower() != ".zip":
        raise UserError(f"{path} is not a set of images: give a folder, a .zip of image files, or an .npz.")
    return _some(path, [info for info in members(path, ZIP) if _is_picture(path, info.filename)])


def _some(path: Path, found: list) -> list:
    if not found:
        raise UserError(f"{path} holds no images: put some there ({', '.join(sorted(picture.SUFFIXES))}).")
    return found


def _is_picture(path: Path, name: str) -> bool:
    suffix, hidden = PurePosixPath(name).suffix.lower(), _hidden(PurePosixPath(name))
    if suffix in picture.OTHER_SUFFIXES and not hidden:
        raise UserError(f"{path}: {name} is a picture of a kind that is not read: convert it to PNG, or remove it.")
    return suffix in picture.SUFFIXES and not hidden


def _hidden(path: PurePosixPath) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)


def _files(folder: Path) -> Iterator[Path]:
    """Every file below `folder`, in folders that are links too."""

    def unreadable(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): give its reader the right to.") from error

    seen: dict[str, str] = {}
    for inside, _, names in os.walk(folder, onerror=unreadable, followlinks=True):
        if (real := os.path.realpath(inside)) in seen:
            raise UserError(f"{inside} is {seen[real]} again, by a link: remove it, or its images count twice.")
        seen[real] = inside
        yield from (Path(inside, name) for name in names)


def _pictures(files: Sequence[tuple[str, Callable[[], IO[bytes]]]], max_pixels: int) -> Iterator[torch.Tensor]:
    """Decode files one by one. A chunk leaves when it is full, and the largest one when all that wait fill memory."""
    waiting: dict[tuple[int, ...], list[np.ndarray]] = {}
    held = 0
    for name, opener in files:
        try:
            with opener() as file:
                pixels = picture.pixels(picture.load(file, name=name, max_pixels=max_pixels))
        except DAMAGE as error:
            raise UserError(f"{name} cannot be read ({error}): remove or replace it.") from error
        waiting.setdefault(pixels.shape, []).append(pixels)
        held += pixels.size
        if len(waiting[pixels.shape]) == CHUNK or held >= CHUNK_BYTES:
            sizes = {shape: len(images) * math.prod(shape) for shape, images in waiting.items()}
            leaving = pixels.shape if len(waiting[pixels.shape]) == CHUNK else max(sizes, key=sizes.__getitem__)
            held -= sizes[leaving]
            yield torch.from_numpy(np.stack(waiting.pop(leaving)))
    for rest in waiting.values():
        yield torch.from_numpy(np.stack(rest))


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")


def _unpack(archive: zipfile.ZipFile, path: Path, info: zipfile.ZipInfo) -> IO[bytes]:
    with open_member(archive, path, info) as file:
        return io.BytesIO(file.read())  # whole, so that its checksum is compared


def _images(path: Path, max_pixels: int) -> tuple[npz.Array, tuple[int, int, int, int]]:
    """The array of images in an npz, and B C H W of them. Raises UserError for what is none, by its header."""
    found = npz.arrays(path)
    name = next((name for name in ARRAYS if name in found), next(iter(found)) if len(found) == 1 else None)
    if name is None:
        raise UserError(f"{path} holds {', '.join(found) or 'nothing'}: name the array of images 'images'.")
    array = npz.array(path, found[name])
    shape = _layout(array.shape)
    if shape is None:
        raise UserError(f"{path} holds an array of shape {array.shape}: give images as B H W, B H W C or B C H W.")
    if array.dtype.kind != "f" and array.dtype != np.uint8:
        raise UserError(f"{path} holds {array.dtype}: give uint8 in 0..255, or floating-point numbers in [0, 1].")
    if shape[2] * shape[3] > max_pixels:
        raise picture.too_large(f"An image of {path}", f"{shape[3]:,} × {shape[2]:,}", max_pixels)
    return array, shape


def _layout(shape: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """B C H W of an array of images of this shape; None for other arrays."""
    if 0 in shape:
        return None
    if len(shape) == 3:
        return shape[0], 1, shape[1], shape[2]
    if len(shape) != 4:
        return None
    if shape[1] in (1, 3):
        return shape[0], shape[1], shape[2], shape[3]
    return (shape[0], shape[3], shape[1], shape[2]) if shape[3] in (1, 3) else None


def _from_array(path: Path, array: npz.Array, shape: tuple[int, int, int, int]) -> Iterator[torch.Tensor]:
    """Chunks of an npz, which is read in smaller parts."""
    n, *image = shape
    size = max(min(CHUNK, CHUNK_BYTES // math.prod(image)), 1)
    part = max(PART_BYTES // (math.prod(image) * array.dtype.itemsize), 1)
    chunk = np.empty((min(size, n), *image), np.uint8)
    filled = done = 0
    for rows in array.rows(part):
        pixels = _pixels(path, rows, done, image)
        done += len(pixels)
        while len(pixels):
            here, pixels = pixels[: len(chunk) - filled], pixels[len(chunk) - filled :]
            chunk[filled : filled + len(here)] = here
            filled += len(here)
            if filled == len(chunk):
                yield torch.from_numpy(chunk)
                chunk, filled = np.empty((min(size, n - done + len(pixels)), *image), np.uint8), 0


def _pixels(path: Path, rows: np.ndarray, before: int, image: Sequence[int]) -> np.ndarray:
    """uint8 B C H W of some rows of an npz; before: rows before them."""
    last = rows.ndim == 4 and rows.shape[1:] != tuple(image)
    rows = rows.transpose(0, 3, 1, 2) if last else rows.reshape(len(rows), *image)
    if rows.dtype == np.uint8:
        return rows
    wrong = ~((rows >= 0) & (rows <= 1)).all(axis=(1, 2, 3))
    if wrong.any():
        raise UserError(
            f"{path}: image {before + int(wrong.argmax())} has a pixel that is NaN or out of [0, 1]: give uint8 in "
            "0..255, or floating-point numbers in [0, 1]."
        )
    return np.rint(rows * 255).astype(np.uint8)


def _array_labels(path: Path, max_pixels: int) -> list:
    """The array `labels` of an npz; nothing where there is none."""
    found = npz.arrays(path)
    if "labels" not in found:
        return []
    array, n = npz.array(path, found["labels"]), count(path, max_pixels)
    if array.shape != (n,) or array.dtype.kind not in "iubUS":
        raise UserError(
            f"{path}: labels are {array.dtype} {array.shape} for {n} images: give one integer or name for each."
        )
    return array.whole().tolist()

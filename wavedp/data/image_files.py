"""Write a set of images to a folder, in the forms that other tools read.

png   <class>/00000.png, the layout of torchvision's ImageFolder and of data=folder; sets with captions are not
      divided by class, and <stem>.txt holds an image's caption
npz   images.npz: images uint8 B H W C, labels int64 B, classes K, captions B (only if there are any)
hf    train/<class>/00000.png and train/metadata.jsonl, which `datasets.load_dataset(FOLDER)` reads
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from wavedp.errors import UserError
from wavedp.store import write_jsonl, write_npz

Form = Literal["png", "npz", "hf"]


@dataclass(frozen=True)
class ImageSet:
    """images: uint8 [B C H W], C = 1 or 3. labels: int64 [B], indices into classes. captions: one an image, or None
    where images have classes."""

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    captions: tuple[str, ...] | None = None


def require_empty(folder: Path) -> None:
    """Raises UserError for a folder that holds something: old and new images would be one set."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name another folder.")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: name another folder, or empty it.")


def write(images: ImageSet, folder: Path, form: Form) -> None:
    """Write the set into an empty or absent folder. Raises UserError as `require_empty`."""
    require_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if form == "png":
        names = _write_pictures(images, folder)
        for name, caption in zip(names, images.captions or (), strict=False):
            (folder / name).with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
    elif form == "npz":
        captions = {} if images.captions is None else {"captions": np.array(images.captions)}
        pixels = np.ascontiguousarray(images.images.transpose(0, 2, 3, 1))
        classes = np.array(images.classes)
        write_npz(folder / "images.npz", images=pixels, labels=images.labels, classes=classes, **captions)
    else:
        names = _write_pictures(images, folder / "train")
        rows = zip(names, _described(images), strict=True)
        write_jsonl(folder / "train" / "metadata.jsonl", [{"file_name": name, **row} for name, row in rows])


def write_picture(pixels: np.ndarray, path: Path) -> None:
    """Write one image, uint8 [C H W], with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(path)


def folders_of(classes: tuple[str, ...]) -> list[str]:
    """A folder's name for each class: its own, unless another tool would take it for a path or a hidden file."""
    names = [re.sub(r"[/\\\0]", "-", name).strip().lstrip(".") for name in classes]
    if len(set(names)) == len(names) and all(names):
        return names
    return [f"{number:03}-{name}" for number, name in enumerate(names)]


def _write_pictures(images: ImageSet, folder: Path) -> list[str]:
    """Write every image; returns their paths relative to the folder."""
    inside = folders_of(images.classes)
    names = []
    for number, label in enumerate(images.labels):
        name = f"{number:05}.png" if images.captions is not None else f"{inside[int(label)]}/{number:05}.png"
        write_picture(images.images[number], folder / name)
        names.append(name)
    return names


def _described(images: ImageSet) -> list[dict[str, int | str]]:
    """The fields of each image's line in metadata.jsonl."""
    if images.captions is not None:
        return [{"text": caption} for caption in images.captions]
    return [{"label": int(label), "class": images.classes[int(label)]} for label in images.labels]

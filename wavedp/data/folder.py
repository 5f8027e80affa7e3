"""The user's own images in folders, one class a folder, with optional captions next to the images.

    path/train/<class>/*.png  path/test/<class>/*.png  [path/val/...]   torchvision's ImageFolder layout, divided
    path/<class>/*.png                                                  undivided: a tenth, chosen by name, becomes test
    path/*.png (or path/train/*.png)                                    no classes: every label is 0

`<stem>.txt` next to an image holds its captions, one per line; either every image has such a file or none has, and a
captioned folder holds no other .txt.
Images are turned as EXIF says, laid on white where transparent, brought to grey or RGB, resized (antialiased) until the
shorter side fits, and cropped at the centre. Hidden files are ignored. Which files are images, of which split, is said
in wavedp.data.layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wavedp.config import DataConfig
from wavedp.data import layout, picture
from wavedp.data.dataset import TEST_SHARE, Picker, Records, Split, position, square_shape
from wavedp.errors import UserError

UNCLASSIFIED = "image"

shape = square_shape


def classes(config: DataConfig) -> tuple[str, ...]:
    """The sorted class folders of the first split (train, if there is one); only `image` if there are no folders."""
    first = next(iter(_folders(config).values()))
    found = tuple(sorted({_class(name) for name in layout.images(first)}))
    if not found:
        raise _empty(first)
    return found


def count(config: DataConfig, split: Split) -> int:
    """Raises UserError for a split that is absent or empty."""
    return len(_split(config, split)[1])


def has_captions(config: DataConfig) -> bool:
    """True if any image has a text file next to it."""
    return any(path.suffix == ".txt" for path in files(config))


def files(config: DataConfig) -> list[Path]:
    """Every image of every split, and the captions. Raises UserError for a folder without images, such as one on a disk
    that is not mounted."""
    found = []
    for folder in dict.fromkeys(_folders(config).values()):
        for name in layout.images(folder):
            image = folder / name
            found.append(image)
            if image.with_suffix(".txt").is_file():
                found.append(image.with_suffix(".txt"))
    if not found:
        raise _empty(Path(config.path or ""))
    return found


def record_files(config: DataConfig, split: Split) -> list[Path]:
    """The image file of each record."""
    folder, names = _split(config, split)
    return [folder / name for name in names]


def read(config: DataConfig, split: Split, n: int) -> Records:
    """Decode the first n images in the order of their names' hashes. Raises UserError naming an unreadable file."""
    return _picker(config, split, n)(range(n))


def picker(config: DataConfig, split: Split) -> Picker:
    """Decodes the images at these places of that order."""
    return _picker(config, split, config.limit)


def _picker(config: DataConfig, split: Split, n: int | None) -> Picker:
    folder, names = _split(config, split)
    names = names[:n]
    known = {label: number for number, label in enumerate(classes(config))}
    for name in names:
        if (label := _class(name)) not in known:
            raise UserError(
                f"{folder / name} is of class {label!r}, which the first split lacks: move it, or add {label!r} there."
            )
    captions = _captions(folder, names)  # before decoding: a missing caption is known at once

    def pick(places: Sequence[int]) -> Records:
        chosen = [names[place] for place in places]
        images = np.empty((len(chosen), *shape(config)), np.uint8)
        for i, name in enumerate(chosen):
            images[i] = _decode(folder / name, config.size, config.channels)
        labels = np.array([known[_class(name)] for name in chosen], np.int64)
        return images, labels, None if captions is None else tuple(captions[place] for place in places)

    return pick


def _folders(config: DataConfig) -> dict[Split, Path]:
    """The folder of each split; an undivided set has one for both train and test."""
    if config.path is None:
        raise UserError("data.name=folder needs data.path: give the folder that holds train/<class>/ or <class>/.")
    root = Path(config.path)
    if not root.is_dir():
        raise UserError(f"data.path={config.path} is not a folder: give the folder that holds the images.")
    return layout.splits(root) or {"train": root, "test": root}


def _split(config: DataConfig, split: Split) -> tuple[Path, list[str]]:
    folders = _folders(config)
    if split not in folders:
        raise UserError(f"data.path={config.path} has no {split} split: use {' or '.join(folders)}.")
    folder = folders[split]
    names = sorted(layout.images(folder), key=position)
    if folder == Path(config.path or ""):
        names = [name for name in names if (position(name) < TEST_SHARE) == (split == "test")]
    if not names:
        raise UserError(f"{folder} holds no images for {split}: add some ({', '.join(sorted(picture.SUFFIXES))}).")
    return folder, names


def _empty(folder: Path) -> UserError:
    return UserError(f"{folder} holds no images: add some ({', '.join(sorted(picture.SUFFIXES))}).")


def _class(name: str) -> str:
    return name.split("/")[0] if "/" in name else UNCLASSIFIED


def _captions(folder: Path, names: list[str]) -> tuple[str, ...] | None:
    texts = [(folder / name).with_suffix(".txt") for name in names]
    absent = [text for text in texts if not text.is_file()]
    if len(absent) == len(texts):
        return None
    if absent:
        raise UserError(f"{absent[0]} is missing, yet other images have captions: add it, or remove all of them.")
    every = {(folder / name).with_suffix(".txt") for name in layout.images(folder)}  # of other splits and limits too
    for place in sorted({text.parent for text in every}):
        for alone in sorted(set(place.glob("[!.]*.txt")) - every):
            raise UserError(f"{alone} has captions and no image beside it: add the image, or remove the captions.")
    captions = []
    for text in texts:
        try:
            lines = [line.strip() for line in text.read_text(encoding="utf-8").splitlines()]
        except UnicodeDecodeError as error:
            raise UserError(f"{text} is not UTF-8 ({error}): save it as UTF-8.") from error
        captions.append("\n".join(filter(None, lines)))
    return tuple(captions)


def _decode(path: Path, size: int, channels: int) -> np.ndarray:
    """One file -> uint8 [C H W]."""
    from PIL import Image, ImageOps

    image = picture.load(path, channels, at_least=4 * size)
    return picture.pixels(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))

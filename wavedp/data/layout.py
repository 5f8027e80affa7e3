"""Which files of a folder are images, and of which split.

case                                              what happens
train or training, val, valid or validation,      the splits, however they are capitalised
  test, testing, eval or evaluation
two names for one split                           refused
train and val, no test                            val is the test split too; logged
images beside the splits, in other folders or     refused: it is unclear whose they are
  loose
a split's name inside a class folder              refused: its test images would be trained on
one folder that holds nothing but folders         refused: the data lie a level deeper, or it is one class in parts
a link to a folder, or to a file outside          refused: a tree that leaves or enters itself counts images twice
a link or hard link to an image in the tree       one record, under the first of its own names
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import cache as memoized
from pathlib import Path

from wavedp.data import picture
from wavedp.data.dataset import Split
from wavedp.errors import UserError

NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}


def splits(root: Path) -> dict[Split, Path]:
    """The folder of each split, train first; empty for an undivided set. Raises UserError for a layout that could be
    read in two ways."""
    folders = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    found: dict[Split, Path] = {}
    for folder in folders:
        if split := NAMES.get(folder.name.lower()):
            if split in found:
                raise UserError(f"{found[split]} and {folder} are both the {split} split: keep one of them.")
            _refuse_link(folder, root)
            found[split] = folder
    if found:
        _refuse_others(root, [folder for folder in folders if folder not in found.values()], [*found.values()])
        if "val" in found and "test" not in found:
            _tell_of_val(found["val"])
            found["test"] = found["val"]
    return {split: found[split] for split in ("train", "val", "test") if split in found}  # type: ignore[index, misc]


def images(folder: Path) -> list[str]:
    """Paths of the images relative to `folder`, with slashes: `<class>/.../<name>` for every image, or `<name>`.

    Raises UserError for links, and for images whose class is unclear.
    """
    found = [path.relative_to(folder).as_posix() for path in one_of_each(folder)]
    classes = {name.split("/")[0] for name in found if "/" in name}
    if classes and (loose := [name for name in found if "/" not in name]):
        raise UserError(f"{folder / loose[0]} lies beside class folders: move it into one of them.")
    if len(classes) == 1 and all(name.count("/") > 1 for name in found):
        (only,) = classes
        raise UserError(
            f"{folder} holds only the folder {only!r}, which holds only folders: give data.path={folder / only}, or "
            f"put the images straight into {only!r} if it is the one class."
        )
    for name in found:
        _refuse_inner_split(folder, name, classes)
    return found


def one_of_each(folder: Path) -> list[Path]:
    """The images below a folder, sorted; of several names of one file the first that is no link."""
    chosen: dict[tuple[int, int], Path] = {}
    for path in sorted(_walk(folder), key=lambda path: (path.is_symlink(), str(path))):
        try:
            stat = path.stat()
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): remove or replace it.") from error
        chosen.setdefault((stat.st_dev, stat.st_ino), path)
    return sorted(chosen.values())


def _walk(folder: Path) -> Iterator[Path]:
    for inside, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            _refuse_link(Path(inside, name), folder)
        for name in names:
            if _is_image(name):
                _refuse_link(Path(inside, name), folder)
                yield Path(inside, name)


def _refuse_link(path: Path, root: Path) -> None:
    """Raises UserError for a link to a folder, and for one to a file outside `root`."""
    if not path.is_symlink():
        return
    target = Path(os.path.realpath(path))
    if target.is_dir() or not target.is_relative_to(os.path.realpath(root)):
        raise UserError(
            f"{path} is a link to {target}, and images behind it may be counted twice: put the images there, or remove "
            "the link."
        )


def _refuse_others(root: Path, others: list[Path], splits: list[Path]) -> None:
    """Raises UserError for images beside the folders of the splits."""
    loose = [child for child in sorted(root.iterdir()) if child.is_file() and _is_image(child.name)]
    for path in [*loose, *others]:
        if path in loose or any(_is_image(name) for _, _, names in os.walk(path) for name in names):
            raise UserError(
                f"{path} is beside {' and '.join(split.name for split in splits)} and of no split (known names: "
                f"{', '.join(NAMES)}): move it into one of them, or out of {root}; if {splits[0].name} is a class, "
                "move all classes into a folder named train."
            )


def _refuse_inner_split(folder: Path, name: str, classes: set[str]) -> None:
    """Raises UserError for an image in a folder named as a split, unless that is one class among others."""
    parts, no_classes = name.split("/")[:-1], all(item.lower() in NAMES for item in classes)
    for place, part in enumerate(parts):
        if part.lower() in NAMES and (place > 0 or no_classes):
            inner = folder.joinpath(*parts[: place + 1])
            raise UserError(
                f"{inner} is named as a split but lies inside {folder}, whose folders are classes: give the folder "
                "that holds train and test, or rename it."
            )


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in picture.SUFFIXES and not name.startswith(".")


@memoized
def _tell_of_val(folder: Path) -> None:
    logging.getLogger(__name__).warning("%s is the test split: there is no folder named test beside it.", folder)

"""Folders of images as people really have them, and sets given twice."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from odd_inputs import Odd
from wavedp import checks, data
from wavedp.config import DataConfig, PrivacyConfig, TrialConfig, from_dict
from wavedp.data import from_arrays

NOISE = np.random.default_rng(0).integers(0, 256, (100, 8, 8), np.uint8)


def draw(folder: Path, numbers: range, suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        Image.fromarray(NOISE[i]).save(folder / f"{i}{suffix}")


def config(folder: Path, **changes) -> DataConfig:
    return DataConfig(name="folder", path=str(folder / "set"), home=str(folder / "home"), size=8, **changes)


def count(folder: Path, *splits: str) -> list[int]:
    return [data.n_records(config(folder), split) for split in splits or ("train", "test")]


def training_and_validation(folder: Path) -> None:
    draw(folder / "set" / "Training" / "a", range(9), ".PNG")
    draw(folder / "set" / "VALIDATION" / "a", range(9, 13))
    assert count(folder) == [9, 4]


def a_third_folder(folder: Path) -> None:
    draw(folder / "set" / "train" / "a", range(9))
    draw(folder / "set" / "unlabelled", range(9, 13))
    count(folder)


def one_too_deep(folder: Path) -> None:
    draw(folder / "set" / "pictures" / "train" / "a", range(9))
    count(folder)


def link_to_parent(folder: Path) -> None:
    draw(folder / "set" / "a", range(24))
    (folder / "set" / "a" / "up").symlink_to("..")
    count(folder)


def hard_link(folder: Path) -> None:
    draw(folder / "set" / "train", range(9))
    os.link(folder / "set" / "train" / "3.png", folder / "set" / "train" / "again.png")
    assert count(folder, "train") == [9]


def truncated_tiff(folder: Path) -> None:
    draw(folder / "set" / "train", range(3), ".tif")
    file = folder / "set" / "train" / "1.tif"
    file.write_bytes(file.read_bytes()[:-40])
    data.load(config(folder), "train")


def number_for_a_path(folder: Path) -> None:
    from_dict(DataConfig, {"name": "folder", "path": 2024})


def trial(folder: Path, public: DataConfig) -> TrialConfig:
    draw(folder / "set" / "train" / "a", range(40))
    draw(folder / "set" / "test" / "a", range(40, 50))
    privacy = PrivacyConfig(batch_size=4, steps=2)
    return TrialConfig(data=config(folder), public=public, upscaler="bicubic", privacy=privacy)


def one_folder_for_both(folder: Path) -> None:
    checks.check(trial(folder, config(folder, limit=5)))


def test_images_as_public_arrays(folder: Path) -> None:
    public = from_arrays(NOISE[45:], test_images=NOISE[:1], home=folder / "arrays")
    checks.check(trial(folder, public))


def equal_arrays(folder: Path) -> None:
    twice = from_arrays(NOISE[[*range(50), 7, 7]], test_images=NOISE[50:60], home=folder / "arrays")
    public = from_arrays(NOISE[60:], test_images=NOISE[60:], home=folder / "arrays")
    checks.check(TrialConfig(data=twice, public=public, upscaler="bicubic", privacy=PrivacyConfig(batch_size=4)))


def no_copies_kept(folder: Path) -> None:
    draw(folder / "set" / "train", range(9))
    whole = data.load(config(folder), "train").fingerprint
    there = sorted(path.name for path in (folder / "home").rglob("*"))
    assert data.load(config(folder, cache="off"), "train").fingerprint == whole
    assert sorted(path.name for path in (folder / "home").rglob("*")) == there
    data.load(config(folder, cache="off", limit=3), "train")
    assert sorted(path.name for path in (folder / "home").rglob("*")) == there


CASES = [
    Odd("folders called Training and VALIDATION", training_and_validation),
    Odd("a third folder beside train", a_third_folder, ("set/unlabelled is beside train", "of no split")),
    Odd("a folder given one level too high", one_too_deep, ("holds only the folder 'pictures'", "data.path=")),
    Odd("a link to the folder's parent", link_to_parent, ("set/a/up is a link to", "remove the link")),
    Odd("one picture under two names", hard_link),
    Odd("a truncated TIFF in a folder", truncated_tiff, ("1.tif cannot be read", "remove or replace it")),
    Odd("a path that is a number", number_for_a_path, ("path=2024",)),
    Odd("one folder as sensitive and public", one_folder_for_both, ("data.path=", "public.path=", "are the same")),
    Odd("test images among public arrays", test_images_as_public_arrays, ("5 of 55 public images", "test/a/4")),
    Odd("an image three times in an array", equal_arrays, ("up to 3 times", "data.duplicates=merge")),
    Odd("a folder of which no copies may be kept", no_copies_kept),
]

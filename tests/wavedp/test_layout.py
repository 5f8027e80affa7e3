"""Which files of a folder are images, and of which split: names of splits, odd trees, links."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wavedp import data
from wavedp.config import DataConfig
from wavedp.data import layout
from wavedp.errors import UserError


def draw(folder: Path, n: int, seed: int = 0, suffix: str = "png") -> list[Path]:
    """n pictures of noise in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (n, 8, 8), np.uint8)
    files = [folder / f"{seed}_{i}.{suffix}" for i in range(n)]
    for pixels, file in zip(noise, files, strict=True):
        Image.fromarray(pixels).save(file, format="png")
    return files


def config(path: Path) -> DataConfig:
    return DataConfig(name="folder", path=str(path), home=str(path.parent / "home"), size=8)


@pytest.mark.parametrize(
    ("train", "test"), [("train", "test"), ("training", "testing"), ("Train", "TEST"), ("TRAINING", "Eval")]
)
def test_names_of_splits_are_known_however_they_are_written(train, test, tmp_path):
    root = tmp_path / "set"
    for seed, (split, n) in enumerate({train: 5, "Valid": 4, test: 3}.items()):
        draw(root / split / "a", n, seed)
        draw(root / split / "b", 1, 10 + seed)
    assert {split: data.n_records(config(root), split) for split in ("train", "val", "test")} == {
        "train": 6,
        "val": 5,
        "test": 4,
    }
    assert data.load(config(root), "train").classes == ("a", "b")


def test_a_set_with_train_and_val_is_tested_on_val_and_says_so(tmp_path, caplog):
    draw(tmp_path / "set" / "train" / "a", 5)
    draw(tmp_path / "set" / "validation" / "a", 3, seed=1)
    with caplog.at_level(logging.WARNING):
        test = data.load(config(tmp_path / "set"), "test")
    assert test.fingerprint == data.fingerprint(config(tmp_path / "set"), "val")
    assert f"{tmp_path}/set/validation is the test split" in caplog.text


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (["train/a", "extra/a"], "extra is beside train and of no split"),
        (["train/a", "."], "png is beside train and of no split"),
        (["train/a", "Training/a"], "are both the train split"),
        (["images/train/a", "images/test/a"], "holds only the folder 'images'"),
        (["images/a", "images/b"], "holds only the folder 'images'"),
        (["train/images/a", "train/images/b"], "holds only the folder 'images'"),
        (["bottle/train/good", "bottle/test/bad", "cable/train/good"], "is named as a split but lies inside"),
        (["train/train/a", "train/test/a"], "is named as a split but lies inside"),
    ],
)
def test_a_layout_that_could_be_read_in_two_ways_is_refused(folders, says, tmp_path):
    for seed, folder in enumerate(folders):
        draw(tmp_path / "set" / folder, 3, seed)
    for ask in (data.n_records, data.load):
        with pytest.raises(UserError, match=says):
            ask(config(tmp_path / "set"), "train")


def test_folders_without_images_and_a_class_named_as_a_split_do_no_harm(tmp_path):
    root = tmp_path / "set"
    for seed, folder in enumerate(["train/train", "train/bus", "test/train", "test/bus"]):
        draw(root / folder, 2, seed)
    (root / "annotations").mkdir()
    (root / "annotations" / "list.csv").write_text("x")
    draw(root / ".cache", 3, seed=9)
    assert data.load(config(root), "train").classes == ("bus", "train")
    assert data.n_records(config(root), "train") == 4


@pytest.mark.parametrize("where", ["../..", "../../../elsewhere", "../b"])
def test_a_link_to_a_folder_is_refused_by_name(where, tmp_path):
    root = tmp_path / "set"
    for seed, folder in enumerate([root / "train" / "a", root / "train" / "b", tmp_path / "elsewhere"]):
        draw(folder, 12, seed)
    (root / "train" / "a" / "loop").symlink_to(where)
    with pytest.raises(UserError, match=f"{root}/train/a/loop is a link to"):
        data.n_records(config(root), "train")


def test_a_split_and_an_image_that_are_links_out_of_the_tree_are_refused(tmp_path):
    root = tmp_path / "set"
    draw(root / "train" / "a", 3)
    (file,) = draw(tmp_path / "elsewhere" / "a", 1, seed=1)
    link = root / "train" / "a" / "x.png"
    link.symlink_to(file)
    with pytest.raises(UserError, match=f"{link} is a link to {file}"):
        data.n_records(config(root), "train")
    link.unlink()
    (root / "test").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"{root}/test is a link to"):
        data.n_records(config(root), "train")


def test_a_file_of_several_names_is_one_record(tmp_path):
    root = tmp_path / "set" / "train"
    first, second, *_ = draw(root / "a", 4)
    draw(root / "b", 2, seed=1)
    os.link(first, root / "a" / "hard.png")
    (root / "b" / "0.png").symlink_to(second)  # sorts before its target
    assert data.n_records(config(root.parent), "train") == 6
    loaded = data.load(config(root.parent), "train")
    assert np.bincount(loaded.labels).tolist() == [4, 2]
    assert second in data.record_files(config(root.parent), "train")


def test_a_link_to_nothing_names_itself(tmp_path):
    draw(tmp_path / "set" / "train", 2)
    link = tmp_path / "set" / "train" / "gone.png"
    link.symlink_to("nowhere.png")
    with pytest.raises(UserError, match=rf"{link} cannot be read \(No such file"):
        data.n_records(config(tmp_path / "set"), "train")


def test_every_suffix_of_any_case_is_an_image(tmp_path):
    for seed, suffix in enumerate(sorted(layout.picture.SUFFIXES)):
        draw(tmp_path / "set" / "train", 1, seed, suffix.upper().lstrip("."))
    assert data.n_records(config(tmp_path / "set"), "train") == len(layout.picture.SUFFIXES)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp", "ppm"])
def test_a_damaged_picture_is_named_however_it_is_cut(suffix, tmp_path):
    folder = tmp_path / "set" / "train"
    folder.mkdir(parents=True)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8))
    noise.save(tmp_path / f"whole.{suffix}")
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    for cut in {0, 1, 4, 9, 20, 60, len(whole) // 2}:
        (folder / f"x.{suffix}").write_bytes(whole[:cut])
        with pytest.raises(UserError, match=rf"x\.{suffix} cannot be read .*: remove or replace it\.$") as refusal:
            data.load(config(tmp_path / "set"), "train")
        assert "\n" not in str(refusal.value)

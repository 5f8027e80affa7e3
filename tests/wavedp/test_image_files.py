"""Sets of images in files: every form holds every image, bit by bit, with its label or caption."""

import json

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from wavedp import data
from wavedp.config import DataConfig
from wavedp.data.image_files import ImageSet, folders_of, write
from wavedp.errors import UserError
from wavedp.metrics import image_sets


def image_set(channels=3, classes=("T-shirt/top", "Bag"), captions=None):
    pixels = np.random.default_rng(0).integers(0, 256, (30, channels, 8, 8), np.uint8)
    return ImageSet(pixels, np.arange(30) % len(classes), classes, captions)


@pytest.mark.parametrize("channels", [1, 3])
def test_class_folders_are_read_by_torchvision_and_by_us(channels, tmp_path):
    images = image_set(channels)
    write(images, tmp_path / "set", "png")
    read = ImageFolder(str(tmp_path / "set"))
    assert read.classes == ["Bag", "T-shirt-top"]
    assert [label for _, label in read.samples].count(1) == 15
    config = DataConfig("folder", size=8, channels=channels, path=str(tmp_path / "set"), home=str(tmp_path))
    ours = np.concatenate([data.load(config, split).images for split in ("train", "test")])
    assert {image.tobytes() for image in ours} == {image.tobytes() for image in images.images}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", ["png", "npz", "hf"])
def test_metrics_read_every_form(form, channels, tmp_path):
    images = image_set(channels)
    write(images, tmp_path / "set", form)
    path = tmp_path / "set" / "images.npz" if form == "npz" else tmp_path / "set"
    (read,) = image_sets.chunks(path)
    assert {image.numpy().tobytes() for image in read} == {image.tobytes() for image in images.images}
    assert len(set(image_sets.labels(path).tolist())) == 2


def test_an_npz_holds_channels_last_labels_and_names(tmp_path):
    images = image_set()
    write(images, tmp_path, "npz")
    with np.load(tmp_path / "images.npz", allow_pickle=False) as read:
        assert read["images"].shape == (30, 8, 8, 3)
        assert (read["images"].transpose(0, 3, 1, 2) == images.images).all()
        assert read["labels"].tolist() == [0, 1] * 15
        assert read["classes"].tolist() == ["T-shirt/top", "Bag"]
        assert "captions" not in read


def test_the_lines_of_a_hub_set_name_its_files_and_classes(tmp_path):
    write(image_set(), tmp_path, "hf")
    text = (tmp_path / "train" / "metadata.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert rows[2] == {"file_name": "T-shirt-top/00002.png", "label": 0, "class": "T-shirt/top"}
    assert all((tmp_path / "train" / row["file_name"]).is_file() for row in rows)
    assert len(rows) == 30


@pytest.mark.parametrize("form", ["png", "npz", "hf"])
def test_captions_take_the_place_of_classes(form, tmp_path):
    captions = tuple(f"drawing {number} – ä" for number in range(30))
    write(image_set(classes=("image",), captions=captions), tmp_path / "train" if form == "png" else tmp_path, form)
    if form == "png":
        config = DataConfig("folder", size=8, channels=3, path=str(tmp_path), home=str(tmp_path / "home"))
        assert sorted(data.load(config, "train").captions) == sorted(captions)
    elif form == "npz":
        assert np.load(tmp_path / "images.npz")["captions"].tolist() == list(captions)
    else:
        text = (tmp_path / "train" / "metadata.jsonl").read_text(encoding="utf-8")
        assert [json.loads(line)["text"] for line in text.splitlines()] == list(captions)


@pytest.mark.parametrize(
    ("classes", "folders"),
    [
        (("cat", "dog"), ["cat", "dog"]),
        (("a/b", "a\\c"), ["a-b", "a-c"]),
        (("a/b", "a-b"), ["000-a-b", "001-a-b"]),
        (("..", "cat"), ["000-", "001-cat"]),
        ((".hidden", " padded "), ["hidden", "padded"]),
    ],
)
def test_a_class_never_leaves_the_folder(classes, folders):
    assert folders_of(classes) == folders


@pytest.mark.parametrize("form", ["png", "npz", "hf"])
def test_old_and_new_images_are_never_one_set(form, tmp_path):
    (tmp_path / "old.png").touch()
    with pytest.raises(UserError, match="is not empty: name another folder"):
        write(image_set(), tmp_path, form)
    assert [path.name for path in tmp_path.iterdir()] == ["old.png"]

"""Shards of images, as the package webdataset writes them."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from wavedp import data
from wavedp.config import DataConfig
from wavedp.errors import UserError
from wavedp.testing.datasets import DatasetSuite


def picture(number: int, form: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 24), (number * 9 % 256, number * 40 % 256, 90)).save(file, form)
    return file.getvalue()


def shard(path, members):
    """members: (name, content), in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def captioned(start, count):
    """Records with two captions each, by text or JSON, and a member that is not read."""
    for number in range(start, start + count):
        yield f"{number:06}.jpg", picture(number)
        if number % 2:
            yield f"{number:06}.txt", f"picture {number}\nthe same again\n".encode()
        else:
            yield f"{number:06}.json", json.dumps({"caption": [f"picture {number}", "the same again"]}).encode()
        yield f"{number:06}.npy", b"not read"


def classed(start, count, classes=3):
    for number in range(start, start + count):
        yield f"n{number % classes}/{number}.PNG", picture(number, "PNG")
        yield f"n{number % classes}/{number}.cls", str(number % classes).encode()


def settings(tmp_path, **changes):
    values = {"path": str(tmp_path / "set"), "size": 16, "channels": 3, "home": str(tmp_path / "home"), **changes}
    return DataConfig(name="webdataset", **values)


def refusal(config, split="train"):
    with pytest.raises(UserError) as refused:
        data.load(config, split)
    assert "\n" not in str(refused.value)
    return str(refused.value)


class TestCaptioned(DatasetSuite):
    def config(self, tmp_path):
        for number in range(3):
            shard(tmp_path / "set" / f"{number:05}.tar", captioned(20 * number, 20))
        return settings(tmp_path)


class TestClassed(DatasetSuite):
    def config(self, tmp_path):
        shard(tmp_path / "set" / "imagenet-train-000000.tar", classed(0, 6))
        shard(tmp_path / "set" / "imagenet-train-000001.tar", classed(6, 6))
        shard(tmp_path / "set" / "imagenet-val-000000.tar", classed(12, 4))
        return settings(tmp_path)


def test_members_of_one_name_are_a_record_whatever_their_order(tmp_path):
    members = sorted(captioned(0, 30), key=lambda member: member[0][::-1])
    shard(tmp_path / "set" / "train" / "0.tar", members)
    shard(tmp_path / "set" / "test" / "0.tar", captioned(30, 5))
    loaded = data.load(settings(tmp_path), "train")
    assert len(loaded.labels) == 30
    for image, said in zip(loaded.images, loaded.captions, strict=True):
        number = int(said.split()[1])
        assert said == f"picture {number}\nthe same again"
        assert abs(int(image[0].mean()) - number * 9 % 256) <= 4
    assert data.captions(settings(tmp_path), "train") == list(loaded.captions)


def test_classes_have_the_names_of_the_file_beside_the_shards(tmp_path):
    config = TestClassed().config(tmp_path)
    assert data.class_names(config) == ("0", "1", "2")
    (tmp_path / "set" / "classnames.txt").write_text("cat\ndog\nbird\nnone of them\n")
    loaded = data.load(config, "train")
    assert loaded.classes == ("cat", "dog", "bird", "none of them")
    assert np.bincount(loaded.labels).tolist() == [4, 4, 4]
    (tmp_path / "set" / "classnames.txt").write_text("cat\ndog\n")
    assert "names 2 classes and a record is of class 2" in refusal(config)


def test_pick_gives_what_load_has_there(tmp_path):
    config = TestCaptioned().config(tmp_path)
    whole = data.load(config, "train")
    images, labels, said = data.pick(config, "train", [40, 2, 2])
    assert np.array_equal(images, whole.images[[40, 2, 2]])
    assert np.array_equal(labels, whole.labels[[40, 2, 2]])
    assert said == tuple(whole.captions[place] for place in (40, 2, 2))


def test_a_record_stays_in_its_split_when_shards_are_added(tmp_path):
    config = TestCaptioned().config(tmp_path)
    before = set(data.load(config, "test").captions)
    shard(tmp_path / "set" / "00003.tar", captioned(60, 20))
    assert before <= set(data.load(config, "test").captions)


@pytest.mark.parametrize("cut", [700, 0.5, "end"])
def test_a_shard_that_is_cut_short_is_refused(tmp_path, cut):
    config = TestCaptioned().config(tmp_path)
    file = tmp_path / "set" / "00001.tar"
    whole = file.read_bytes()
    with tarfile.open(file) as tar:
        end = tar.getmembers()[-1].offset  # after a whole member, so that only the end is missing
    file.write_bytes(whole[: {700: 700, 0.5: len(whole) // 2 + 100, "end": end}[cut]])
    assert "00001.tar" in refusal(config)


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path):
    config = TestCaptioned().config(tmp_path)
    file = tmp_path / "set" / "00001.tar"
    with tarfile.open(file) as tar:
        place = tar.getmembers()[9].offset
    content = bytearray(file.read_bytes())
    content[place : place + 512] = b"\xff" * 512
    file.write_bytes(content)
    assert "is cut short or damaged after" in refusal(config)


def test_a_broken_picture_is_named(tmp_path):
    shard(tmp_path / "set" / "train" / "0.tar", [("a.jpg", picture(1)), ("b.jpg", picture(2)[:200])])
    assert "0.tar: b.jpg cannot be read" in refusal(settings(tmp_path))


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([("a.cls", b"1")], "record a holds no image"),
        ([("a.jpg", picture(1)), ("a.png", picture(1, "PNG"))], "holds a.jpg and a.png"),
        ([("a.jpg", picture(1)), ("a.jpg", picture(2))], "holds a.jpg twice"),
        ([("a.jpg", picture(1)), ("a.cls", b"cat")], "the class or captions of a cannot be read"),
        ([("a.jpg", picture(1)), ("a.cls", b"-1")], "-1 is below 0"),
        ([("a.jpg", picture(1)), ("a.json", b"{")], "the class or captions of a cannot be read"),
        ([("a.jpg", picture(1)), ("a.txt", b"\xff\xfe")], "the class or captions of a cannot be read"),
        ([("a.jpg", picture(1)), ("a.txt", b"said"), ("b.jpg", picture(2))], "b has no caption"),
        ([("a.jpg", picture(1)), ("a.txt", b" \n"), ("b.jpg", picture(2)), ("b.txt", b"x")], "a has no caption"),
        ([("a.jpg", picture(1)), ("b.jpg", picture(2)), ("b.cls", b"0")], "a has no class"),
        ([("a.npy", b"1")], "shards without an image"),
    ],
)
def test_records_of_another_form_are_refused(tmp_path, members, says):
    shard(tmp_path / "set" / "train" / "0.tar", members)
    assert says in refusal(settings(tmp_path))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "is not a folder"),
        (["shard-0.tar.gz"], "is compressed: unpack it"),
        (["train-0.tar", "more-0.tar"], "says no split and"),
        (["val-0.tar"], "none of train"),
        (["train/val-0.tar"], "is of train and val by its name"),
    ],
)
def test_unclear_shards_are_refused(tmp_path, names, says):
    for number, name in enumerate(names):
        shard(tmp_path / "set" / name, captioned(10 * number, 10))
    assert says in refusal(settings(tmp_path))


def test_a_missing_split_is_named(tmp_path):
    shard(tmp_path / "set" / "train-0.tar", captioned(0, 10))
    assert "has no test shards: use train" in refusal(settings(tmp_path), "test")
    assert data.n_records(settings(tmp_path), "train") == 10


def test_a_class_that_train_lacks_is_refused(tmp_path):
    shard(tmp_path / "set" / "train-0.tar", classed(0, 4, classes=2))
    shard(tmp_path / "set" / "test-0.tar", classed(0, 4, classes=3))
    assert "is of class 2, which train lacks" in refusal(settings(tmp_path), "test")

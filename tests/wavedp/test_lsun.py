"""LSUN as it is published, one lmdb a category and split, and as a folder of images."""

import dataclasses
import io
import sys
from pathlib import Path

import hydra
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from wavedp import data
from wavedp.config import DataConfig, from_dict
from wavedp.errors import UserError
from wavedp.testing.datasets import DatasetSuite

lmdb = pytest.importorskip("lmdb", reason="pip install 'wavedp[data]'")
CONF = Path(__file__).parents[2] / "conf"


def picture(number: int, form: str = "JPEG", size: tuple[int, int] = (48, 32)) -> bytes:
    """Of a plain colour, with a white left and right edge that a centre crop takes away."""
    image = Image.new("RGB", size, (number * 9 % 256, number * 40 % 256, 90))
    edge = (size[0] - size[1]) // 2
    for left in (0, size[0] - edge):
        image.paste((255, 255, 255), (left, 0, left + edge, size[1]))
    file = io.BytesIO()
    image.save(file, form, quality=95)
    return file.getvalue()


def write(folder, values):
    """An lmdb as `mdb_copy` leaves it: keys are hex digits, values files of pictures."""
    with lmdb.open(str(folder), map_size=2**24) as opened, opened.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)


def published(root, categories=("bedroom", "church_outdoor"), train=12, val=3):
    root.mkdir(exist_ok=True)
    number = 0
    for category in categories:
        for split, count in (("train", train), ("val", val)):
            values = {}
            for _ in range(count):
                values[f"{number * 7919:040x}"] = picture(number, ("JPEG", "WEBP")[number % 2])
                number += 1
            write(root / f"{category}_{split}_lmdb", values)
    return root


@pytest.fixture
def config(tmp_path):
    root = published(tmp_path / "lsun")
    return DataConfig(name="lsun", path=str(root), size=16, channels=3, home=str(tmp_path / "home"))


class TestPublished(DatasetSuite):
    def config(self, tmp_path):
        root = published(tmp_path / "lsun")
        return DataConfig(name="lsun", path=str(root), size=16, channels=3, home=str(tmp_path / "home"))


class TestExported(DatasetSuite):
    def config(self, tmp_path):
        for number in range(60):
            folder = tmp_path / "bedroom" / f"{number % 16:x}" / f"{number % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:040x}.webp").write_bytes(picture(number, "WEBP"))
        path = str(tmp_path / "bedroom")
        return DataConfig(name="lsun", path=path, size=16, channels=3, home=str(tmp_path / "home"))


def test_categories_are_classes_and_val_is_the_test_split(config):
    train, test = (data.load(config, split) for split in ("train", "test"))
    assert train.classes == ("bedroom", "church_outdoor")
    assert np.bincount(train.labels).tolist() == [12, 12]
    assert np.bincount(test.labels).tolist() == [3, 3]
    assert data.fingerprint(config, "val") == test.fingerprint
    assert set(train.labels[:8]) == {0, 1}  # a limit takes of both


def test_the_centre_of_the_long_edge_is_kept(config):
    assert data.load(config, "train").images[:, 2].max() < 200  # no white edge


def test_the_path_of_one_lmdb_is_its_category_alone(config):
    one = dataclasses.replace(config, path=f"{config.path}/church_outdoor_train_lmdb")
    assert (data.class_names(one), data.n_records(one, "train"), data.n_records(one, "val")) == (
        ("church_outdoor",),
        12,
        3,
    )


def test_an_exported_folder_is_one_category_at_any_depth(tmp_path):
    exported = TestExported().config(tmp_path)
    train, test = (data.load(exported, split) for split in ("train", "test"))
    assert train.classes == ("bedroom",)
    assert len(train.labels) + len(test.labels) == 60
    assert all(file.is_file() for file in data.record_files(exported, "train"))


def test_pick_gives_what_load_has_there(config):
    whole = data.load(config, "train")
    images, labels, _ = data.pick(config, "train", [20, 3, 3])
    assert np.array_equal(images, whole.images[[20, 3, 3]])
    assert np.array_equal(labels, whole.labels[[20, 3, 3]])


def refusal(config, split="train"):
    with pytest.raises(UserError) as refused:
        data.load(config, split)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_missing_val_is_named(config, tmp_path):
    for file in (tmp_path / "lsun" / "bedroom_val_lmdb").iterdir():
        file.unlink()
    (tmp_path / "lsun" / "bedroom_val_lmdb").rmdir()
    assert data.n_records(config, "train") == 24
    assert "no bedroom_val_lmdb for test" in refusal(config, "test")


def test_a_missing_train_is_named(config, tmp_path):
    (tmp_path / "lsun" / "bedroom_train_lmdb").rename(tmp_path / "elsewhere")
    assert "bedroom has no bedroom_train_lmdb" in refusal(config)


def test_an_lmdb_without_its_file_is_named(config, tmp_path):
    (tmp_path / "lsun" / "bedroom_train_lmdb" / "data.mdb").unlink()
    assert "bedroom_train_lmdb has no data.mdb" in refusal(config)


def test_a_file_that_is_cut_short_is_refused_and_does_not_end_the_process(config, tmp_path):
    file = tmp_path / "lsun" / "bedroom_train_lmdb" / "data.mdb"
    file.write_bytes(file.read_bytes()[: 3 * 4096])
    assert "is cut short at 12,288 of" in refusal(config)


def test_what_is_no_lmdb_is_refused(config, tmp_path):
    (tmp_path / "lsun" / "bedroom_train_lmdb" / "data.mdb").write_bytes(b"x" * 20000)
    assert "data.mdb cannot be read" in refusal(config)


def test_a_broken_picture_is_named_by_its_key(tmp_path):
    write(tmp_path / "bedroom_train_lmdb", {"0001": picture(1), "0002": picture(2)[:300], "0003": picture(3)})
    config = DataConfig(name="lsun", path=str(tmp_path), size=16, channels=3, home=str(tmp_path / "home"))
    assert "bedroom_train_lmdb (0002) cannot be read" in refusal(config)


def test_without_the_package_it_says_what_to_install(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    assert "pip install 'wavedp[data]'" in refusal(config)


def test_a_path_is_asked_for(config):
    assert "needs data.path" in refusal(dataclasses.replace(config, path=None))
    assert "is not a folder" in refusal(dataclasses.replace(config, path=f"{config.path}/none"))


@pytest.mark.parametrize(("name", "size"), [("lsun", 64), ("webdataset", 256)])
def test_the_shipped_configuration_composes(name, size):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        composed = hydra.compose("config", [f"data={name}", "data.path=/data"])
    asked = from_dict(DataConfig, OmegaConf.to_container(composed.data, resolve=True))
    assert (asked.name, asked.path, data.shape(asked)) == (name, "/data", (3, size, size))

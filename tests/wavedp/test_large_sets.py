"""Sets that are read in parts: the same records, fingerprints and refusals as of those that are read at once."""

import dataclasses
import errno
import os
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wavedp import data, mapped, stages
from wavedp.config import DataConfig
from wavedp.data import cache, dataset, decoded, export, folder, records
from wavedp.errors import UserError
from wavedp.metrics.views import draw, drawn
from wavedp.wavelets import coarse

RANDOM = np.random.default_rng(0)
SHAPE = (3, 16, 16)


def in_parts_of(monkeypatch, images: int) -> None:
    """From here on, so many images are one part."""
    monkeypatch.setattr(dataset, "PART", images * int(np.prod(SHAPE)))


@pytest.fixture
def config(tmp_path) -> DataConfig:
    """Sixty pictures in two classes with captions, of which every tenth is there twice."""
    for number in range(60):
        path = tmp_path / "set" / ("train", "test")[number % 6 == 5] / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        value = np.random.default_rng(number - number % 10 if number % 10 == 1 else number).integers(
            0, 256, (16, 16, 3)
        )
        Image.fromarray(value.astype(np.uint8)).save(path)
        path.with_suffix(".txt").write_text(f"picture {number}")
    path = str(tmp_path / "set")
    return DataConfig(name="folder", path=path, size=16, channels=3, home=str(tmp_path / "home"))


def same(one: data.Dataset, other: data.Dataset) -> bool:
    rest = [dataclasses.replace(item, images=None, labels=None) for item in (one, other)]
    return (
        rest[0] == rest[1]
        and np.array_equal(one.images, other.images)
        and np.array_equal(one.labels, other.labels)
        and one.labels.dtype == other.labels.dtype
    )


@pytest.mark.parametrize("where", ["decoded", "off"])
@pytest.mark.parametrize("duplicates", ["accept", "merge"])
@pytest.mark.parametrize("limit", [None, 33])
def test_parts_are_the_records_that_are_read_at_once(config, monkeypatch, tmp_path, where, duplicates, limit):
    asked = dataclasses.replace(config, duplicates=duplicates, limit=limit, cache=where)
    whole = data.load(dataclasses.replace(asked, home=str(tmp_path / "elsewhere")), "train")
    in_parts_of(monkeypatch, 7)
    monkeypatch.setattr(folder, "read", lambda *arguments: pytest.fail("all at once"))
    found = data.load(asked, "train")
    assert same(found, whole)
    assert data.fingerprint(asked, "train") == whole.fingerprint
    assert len(found.images) == (33 if limit else 50) - (0 if duplicates == "accept" else data.repeats(
        dataclasses.replace(asked, duplicates="accept"), "train").records // 2)  # fmt: skip


def test_images_are_a_part_of_the_file_and_cannot_be_written_to(config):
    for _ in range(2):
        images = data.load(config, "train").images
        assert isinstance(images.base, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            images[0] = 0


def test_a_copy_in_which_one_pixel_changed_is_made_again(config):
    before = data.load(config, "train")
    expected = before.images.copy()
    (kept,) = Path(config.home, "decoded").iterdir()
    content = bytearray(kept.read_bytes())
    content[20_000] ^= 1
    kept.write_bytes(content)
    assert np.array_equal(data.load(config, "train").images, expected)


def test_nothing_is_left_where_no_copies_are_kept(config, monkeypatch):
    in_parts_of(monkeypatch, 7)
    found = data.load(dataclasses.replace(config, cache="off"), "train")
    assert isinstance(found.images.base, np.memmap)
    assert list(Path(config.home).iterdir()) == []


@pytest.mark.parametrize("where", ["decoded", "off"])
def test_a_disk_that_is_too_small_is_refused_before_anything_is_decoded(config, monkeypatch, where):
    in_parts_of(monkeypatch, 7)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=30_000))
    monkeypatch.setattr(folder, "_decode", lambda *arguments: pytest.fail("decoded"))
    with pytest.raises(UserError, match=r"50 (decoded )?images of folder take 0.0 GB of the disk of .* 0.0 GB free"):
        data.fingerprint(dataclasses.replace(config, cache=where), "train")


def test_the_disk_that_a_large_set_takes_is_said(config, monkeypatch, caplog):
    data.load(config, "test")
    assert "of the disk" not in caplog.text
    in_parts_of(monkeypatch, 7)
    data.load(config, "train")
    assert "decoded copies of 50 images of folder take 0.0 GB of the disk of" in caplog.text


def test_a_home_that_cannot_be_written_costs_memory_only(config, monkeypatch, tmp_path, caplog):
    whole = data.load(config, "train")
    in_parts_of(monkeypatch, 7)
    (tmp_path / "file").write_text("")
    for where in ("decoded", "off"):
        assert same(data.load(dataclasses.replace(config, home=str(tmp_path / "file"), cache=where), "train"), whole)
    assert "held in memory" in caplog.text


def test_a_broken_picture_in_a_later_part_is_named_and_leaves_nothing(config, monkeypatch, tmp_path):
    in_parts_of(monkeypatch, 7)
    last = data.record_files(config, "train")[-1]
    last.write_bytes(last.read_bytes()[:60])
    with pytest.raises(UserError, match=str(last)):
        data.load(config, "train")
    assert list(Path(config.home, "decoded").iterdir()) == []


def test_a_source_that_picks_needs_no_more(config, monkeypatch):
    """Those in other packages may have `pick` alone."""
    whole, asked = data.load(config, "train"), []

    def pick(config, split, places):
        asked.append(len(places))
        return folder.picker(config, split)(places)

    names = ("shape", "classes", "count", "has_captions", "files")
    source = types.SimpleNamespace(**{name: getattr(folder, name) for name in names}, read=None, pick=pick)
    in_parts_of(monkeypatch, 20)
    monkeypatch.setitem(data.SOURCES, "folder", source)
    assert same(data.load(dataclasses.replace(config, cache="off"), "train"), whole)
    assert asked == [20, 20, 10]


# --- decoded files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(config, tmp_path) -> DataConfig:
    file = tmp_path / f"copy{decoded.SUFFIX}"
    export.export_decoded(config, file)
    return dataclasses.replace(config, name="decoded", path=str(file))


def test_a_decoded_file_is_written_and_read_in_parts(config, copy, monkeypatch, tmp_path):
    written, whole = Path(copy.path).read_bytes(), data.load(copy, "train")
    in_parts_of(monkeypatch, 7)
    monkeypatch.setattr(decoded, "read", lambda *arguments: pytest.fail("all at once"))
    assert same(data.load(copy, "train"), whole)
    assert same(data.load(dataclasses.replace(copy, cache="off"), "train"), whole)
    limited = data.load(dataclasses.replace(copy, limit=20), "train")
    assert np.array_equal(limited.images, whole.images[:20])
    export.export_decoded(config, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == written


def test_other_images_than_the_file_records_are_refused_in_parts_too(copy, monkeypatch, tmp_path):
    with np.load(copy.path) as arrays:
        content = dict(arrays)
    content["images_train"] = content["images_train"][::-1]
    np.savez_compressed(copy.path, **content)
    in_parts_of(monkeypatch, 7)
    with pytest.raises(UserError, match="are not those it was written with"):
        data.load(copy, "train")


def test_an_export_that_changes_nothing_leaves_the_file(config, copy):
    before = Path(copy.path).stat().st_ino
    export.export_decoded(config, Path(copy.path))
    assert Path(copy.path).stat().st_ino == before


# --- what is made of the images ---------------------------------------------------------------------------------------


def test_marks_and_sketches_do_not_depend_on_the_parts(monkeypatch):
    images = RANDOM.integers(0, 256, (30, *SHAPE)).astype(np.uint8)
    images[4] = 9
    others = np.concatenate([images[20:22, :, :, ::-1], RANDOM.integers(0, 256, (5, *SHAPE)).astype(np.uint8)])

    def found():
        return records.pixel_hashes(images), records.plain(images).tolist(), records.alike(images, others)

    whole = found()
    assert whole[1].index(True) == 4
    assert whole[2] == [(20, 0), (21, 1)]
    in_parts_of(monkeypatch, 7)
    monkeypatch.setattr(records, "CHUNK", 8)
    assert found() == whole


@pytest.mark.parametrize("level", [0, 1, 2])
def test_coarse_images_in_a_file_are_the_same_bits(config, monkeypatch, tmp_path, level):
    loaded = data.load(config, "train")
    whole = coarse(torch.tensor(loaded.images).float() / 255, level)
    in_parts_of(monkeypatch, 7)
    monkeypatch.setattr(mapped, "HELD", 1000)
    (tmp_path / "work").mkdir()
    found = stages._coarse_images(loaded, level, tmp_path / "work")
    assert torch.equal(found, whole)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_tensor_on_disk_is_written_and_indexed_like_any(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "HELD", 1000)
    found = mapped.empty((50, 1, 4, 4), tmp_path)
    assert found.sum() == 0
    found[7:9] = 2
    assert found[torch.tensor([8, 3])].sum(dim=(1, 2, 3)).tolist() == [32, 0]


def test_a_full_disk_is_refused_before_the_work(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(mapped, "HELD", 1000)
    monkeypatch.setattr(mapped.os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"50 images of 1×4×4 float32 take 0.0 GB.*No space left"):
        mapped.empty((50, 1, 4, 4), tmp_path)


def test_drawn_images_are_those_of_draw():
    images = torch.from_numpy(RANDOM.integers(0, 256, (30, *SHAPE)).astype(np.uint8))
    for count, skip in ((None, 0), (12, 0), (20, 12)):
        whole, lazy = draw(images, count)[skip:], drawn(images, count, skip)
        assert (len(lazy), lazy.shape, lazy.dtype, lazy.ndim) == (len(whole), tuple(whole.shape), whole.dtype, 4)
        assert torch.equal(lazy[2:9], whole[2:9])
        assert torch.equal(lazy[torch.tensor([3, 1])], whole[[3, 1]])

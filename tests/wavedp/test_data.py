"""Datasets: real Fashion-MNIST, Open Clip Art's loader on small PNGs, computed and folder sets, downloads, the cache.

Fashion-MNIST is looked for in $WAVEDP_DATA, then in .wavedp/data; `python -m wavedp.data.get fashion_mnist` fetches it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.client
import http.server
import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wavedp.data
from wavedp.config import DataConfig
from wavedp.data import (
    cache,
    content_fingerprint,
    dataset,
    debian,
    fashion_mnist,
    folder,
    get,
    openclipart,
    picture,
    procedural,
    records,
)
from wavedp.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def fashion_home() -> str:
    home = Path(os.environ.get("WAVEDP_DATA", ROOT / ".wavedp" / "data"))
    if problem := fashion_mnist.damaged(home / "fashion_mnist"):
        pytest.fail(f"fashion_mnist in {home}: {problem}: run `python -m wavedp.data.get fashion_mnist --home {home}`.")
    return str(home)


def save(path: Path, pixels, mode: str | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels))
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def plain(value, size=(8, 8)) -> np.ndarray:
    return np.broadcast_to(np.array(value, np.uint8), (*size, *np.shape(value))).copy()


# --- the protocol -----------------------------------------------------------------------------------------------------


def test_import_loads_neither_torch_nor_decoders_nor_network():
    code = "import sys, wavedp.data; print({'torch', 'PIL.Image', 'urllib.request', 'ray'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout == "set()\n"


@pytest.mark.parametrize(
    ("config", "split", "message"),
    [
        (DataConfig(name="cifar"), "train", "'cifar' is not a dataset: did you mean cifar10"),
        (DataConfig(name="procedural", split="dpimagebench"), "train", "not defined for procedural"),
        (DataConfig(name="procedural"), "validation", "split='validation' is not offered: use one of train, val, test"),
        (DataConfig(name="procedural", limit=2049), "train", "limit=2049 is outside the 2048 train records"),
        (DataConfig(name="procedural", limit=0), "train", "limit=0 is outside"),
        (DataConfig(name="procedural", n_records=3), "train", "n_records=3"),
        (DataConfig(name="procedural", channels=2), "train", "channels=2"),
        (DataConfig(name="procedural", size=3), "train", "size=3"),
        (DataConfig(channels=3), "train", "fashion_mnist is grey and 28x28"),
        (DataConfig(size=64), "train", "or size=32 for a black frame"),
        (DataConfig(), "val", "no official val split"),
        (DataConfig(name="openclipart"), "val", "openclipart has no val split"),
        (DataConfig(name="folder"), "train", "data.name=folder needs data.path"),
        (DataConfig(name="folder", path="/no/such"), "train", "data.path=/no/such is not a folder"),
    ],
)
def test_what_is_not_offered_is_refused_with_a_remedy(config, split, message, fashion_home):
    config = DataConfig(**{**config.__dict__, "home": fashion_home})
    for call in (wavedp.data.load, wavedp.data.fingerprint):
        with pytest.raises(UserError, match=message.replace("(", r"\(")):
            call(config, split)


def test_fingerprint_sees_pixels_shape_order_labels_and_captions():
    images = np.arange(32, dtype=np.uint8).reshape(2, 1, 4, 4)
    labels = np.array([0, 1])
    variants = [
        (images, labels, None),
        (images[::-1], labels[::-1], None),
        (images, labels[::-1], None),
        (images.reshape(2, 1, 2, 8), labels, None),
        (images ^ (np.arange(32).reshape(images.shape) == 31), labels, None),
        (images, labels, ("ab", "c")),
        (images, labels, ("a", "bc")),
        (images, labels, ("", "")),
    ]
    assert len({content_fingerprint(*variant) for variant in variants}) == len(variants)
    assert content_fingerprint(images[:, :, ::-1][:, :, ::-1], labels.astype(np.int32), None) == content_fingerprint(
        images, labels, None
    )


# --- Fashion-MNIST ----------------------------------------------------------------------------------------------------


def test_fashion_mnist_is_the_published_set(fashion_home):
    config = DataConfig(home=fashion_home)
    train, test = (wavedp.data.load(config, split) for split in ("train", "test"))
    assert train.images.shape == (60_000, 1, 28, 28)
    assert test.images.shape == (10_000, 1, 28, 28)
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int64)
    assert np.bincount(train.labels).tolist() == [6000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert train.classes[train.labels[0]] == "Ankle boot"
    assert train.captions is None
    # The normalisation constants that are published everywhere for this set.
    assert train.images.mean() / 255 == pytest.approx(0.2860, abs=5e-5)
    assert train.images.std() / 255 == pytest.approx(0.3530, abs=5e-5)


def test_fashion_mnist_checksums_lead_back_to_the_publishers(fashion_home):
    """The publisher states the md5 of each .gz, whose header holds a name and a date that Debian's copies drop."""
    published = {
        "train-images-idx3-ubyte": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", 1504176606),
        "train-labels-idx1-ubyte": ("25c81989df183df01b3e8a0aad5dffbe", 1504176606),
        "t10k-images-idx3-ubyte": ("bef4ecab320f06d8554ea6380940ec79", 1504176627),
        "t10k-labels-idx1-ubyte": ("bb300cfdad3c16e7a12a480ee83cd310", 1504176627),
    }
    for name, (md5, date) in published.items():
        data = Path(fashion_home, "fashion_mnist", f"{name}.gz").read_bytes()
        if not data[3] & 8:  # no name in the header
            head = b"\x1f\x8b\x08\x08" + date.to_bytes(4, "little") + data[8:10] + name.encode() + b"\0"
            data = head + data[10:]
        assert hashlib.md5(data).hexdigest() == md5


def test_fashion_mnist_fingerprint_is_frozen(fashion_home):
    # Stage keys hold it: were it to change, every published result would be computed again.
    expected = "0eb2de1fe6d4"
    assert wavedp.data.fingerprint(DataConfig(home=fashion_home), "test").startswith(expected)


def test_fashion_mnist_padding_is_a_black_frame(fashion_home):
    config = DataConfig(home=fashion_home, size=32, limit=100)
    padded = wavedp.data.load(config, "test").images
    assert wavedp.data.shape(config) == padded.shape[1:] == (1, 32, 32)
    original = wavedp.data.load(DataConfig(home=fashion_home, limit=100), "test").images
    assert np.array_equal(padded[:, :, 2:30, 2:30], original)
    assert padded.sum(dtype=int) == original.sum(dtype=int)


def test_dpimagebench_split_is_the_one_torch_draws(fashion_home):
    import torch

    torch.manual_seed(0)
    drawn = torch.utils.data.random_split(range(60_000), [55_000, 5_000])
    config = DataConfig(home=fashion_home, split="dpimagebench")
    whole = wavedp.data.load(DataConfig(home=fashion_home), "train")
    for split, subset in zip(("train", "val"), drawn, strict=True):
        part = wavedp.data.load(config, split)
        assert wavedp.data.n_records(config, split) == len(subset) == len(part.labels)
        assert np.array_equal(part.labels, whole.labels[subset.indices])
        assert np.array_equal(part.images[-500:], whole.images[subset.indices[-500:]])
    assert wavedp.data.n_records(config, "test") == 10_000


def test_fashion_mnist_missing_or_damaged_names_the_command(fashion_home, tmp_path, monkeypatch):
    config = DataConfig(home=str(tmp_path))
    command = f"run `python -m wavedp.data.get fashion_mnist --home {tmp_path}`"
    with pytest.raises(UserError, match=f"is not in {tmp_path}: {command}"):
        wavedp.data.load(config, "train")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"get fashion_mnist`\.$"):
        wavedp.data.fingerprint(DataConfig(), "train")
    shutil.copytree(Path(fashion_home, "fashion_mnist"), tmp_path / "fashion_mnist")
    labels = tmp_path / "fashion_mnist" / "t10k-labels-idx1-ubyte.gz"
    for content in (labels.read_bytes()[:-100], labels.with_name("train-labels-idx1-ubyte.gz").read_bytes(), b"html"):
        labels.write_bytes(content)
        with pytest.raises(UserError, match=rf"damaged \({labels.name} is not .*{command}"):
            wavedp.data.load(config, "test")


# --- cache ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path) -> DataConfig:
    """Sixty grey images in two classes, each of one value."""
    for i in range(60):
        save(tmp_path / "pictures" / "ab"[i % 2] / f"{i}.bmp", plain(4 * i))
    return DataConfig(name="folder", path=str(tmp_path / "pictures"), home=str(tmp_path / "home"), size=8)


def test_second_look_decodes_nothing_and_is_equal(pictures, monkeypatch):
    first = wavedp.data.load(pictures, "train")
    monkeypatch.setattr(folder, "read", lambda *arguments: pytest.fail("decoded again"))
    again = wavedp.data.load(pictures, "train")
    assert wavedp.data.fingerprint(pictures, "train") == first.fingerprint == again.fingerprint
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.labels, again.labels)
    assert (first.name, first.split, first.classes, first.captions) == (
        again.name,
        again.split,
        again.classes,
        again.captions,
    )
    assert content_fingerprint(again.images, again.labels, again.captions) == again.fingerprint
    assert [path.suffix for path in Path(pictures.home, "decoded").iterdir()] == [".npz"]


def test_cache_is_not_stale_after_an_edit_that_hides_itself(pictures):
    before = wavedp.data.load(pictures, "train")
    victim = Path(pictures.path or "") / "a" / "0.bmp"
    old = victim.stat()
    save(victim, plain(255))
    os.utime(victim, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert (victim.stat().st_size, victim.stat().st_mtime_ns) == (old.st_size, old.st_mtime_ns)
    assert wavedp.data.fingerprint(pictures, "train") != before.fingerprint


def test_cache_knows_config_split_and_code(pictures, monkeypatch, tmp_path):
    def name(config=pictures, split="train"):
        return cache.path(config, split, folder)

    plain_name = name()
    changed = DataConfig(**{**pictures.__dict__, "limit": 3})
    assert len({plain_name, name(changed), name(split="test")}) == 3
    monkeypatch.chdir(tmp_path)
    assert name(DataConfig(**{**pictures.__dict__, "path": "pictures"})) == plain_name
    edited = tmp_path / "edited.py"
    edited.write_text("# another text")
    assert {Path(module.__file__) for module in (dataset, picture, records)} <= set(cache.HERE)
    for where, value in ((folder, ("__file__", str(edited))), (cache, ("HERE", (*cache.HERE[1:], edited)))):
        with monkeypatch.context() as patch:
            patch.setattr(where, *value)
            assert name() != plain_name
    monkeypatch.setattr("PIL.__version__", "0")
    assert name() != plain_name


def test_damaged_cache_is_decoded_again(pictures):
    first = wavedp.data.load(pictures, "train")
    (kept,) = Path(pictures.home, "decoded").iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    assert wavedp.data.fingerprint(pictures, "train") == first.fingerprint
    assert wavedp.data.load(pictures, "train").fingerprint == first.fingerprint
    assert kept.stat().st_size > 1000


def test_copies_are_their_owners_alone_in_the_place_that_is_named(pictures, tmp_path, caplog):
    place = tmp_path / "encrypted"
    cache._tell.cache_clear()
    for split in ("train", "test"):
        wavedp.data.load(dataclasses.replace(pictures, cache=str(place)), split)
    assert not Path(pictures.home).exists()
    assert place.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in place.iterdir()] == [0o600] * 2
    assert caplog.text.count(f"Decoded copies of the images are kept in {place}") == 1


def test_home_that_cannot_be_written_only_costs_time(pictures, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    config = DataConfig(**{**pictures.__dict__, "home": str(tmp_path / "file")})
    assert wavedp.data.load(config, "train").fingerprint == wavedp.data.fingerprint(pictures, "train")
    assert "not kept" in caplog.text


# --- Open Clip Art ----------------------------------------------------------------------------------------------------


@pytest.fixture
def clipart(tmp_path) -> DataConfig:
    """Two categories with 200 squares of many greys, and a link that must not count."""
    root = tmp_path / "openclipart"
    for i in range(200):
        category = ("animals/birds", "tools")[i % 2]
        save(root / category / f"square_{i}_ann_artist_01.png", plain((i, i, i, 255)))
    (root / "animals" / "again.png").symlink_to(root / "tools" / "square_1_ann_artist_01.png")
    return DataConfig(name="openclipart", home=str(tmp_path), size=8)


def test_openclipart_labels_captions_and_split(clipart):
    train, test = (wavedp.data.load(clipart, split) for split in ("train", "test"))
    assert len(train.labels) + len(test.labels) == 200
    assert 2 <= len(test.labels) <= 20  # five in a hundred, by hash
    assert train.classes == test.classes == ("animals", "tools")
    assert wavedp.data.n_classes(clipart) == 2
    assert not set(train.captions) & set(test.captions)
    for data in (train, test):
        for image, label, caption in zip(data.images, data.labels, data.captions, strict=True):
            place, _, number, *artist = caption.split()
            value = int(number)
            assert (place, label) == (("birds:", 0), ("tools:", 1))[value % 2]
            assert artist == ["ann", "artist"]
            assert np.ptp(image) == 0
            assert abs(int(image[0, 0, 0]) - max(value, 255 - value)) <= 1  # dark ones inverted
    save(Path(clipart.home, "openclipart", "tools", "new.png"), plain((9, 9, 9, 255)))
    assert set(train.captions) <= {*wavedp.data.load(clipart, "train").captions}


def test_openclipart_whose_links_were_copied_as_files_is_refused(clipart, monkeypatch):
    n = len(openclipart.files(clipart))
    monkeypatch.setattr(openclipart, "DRAWINGS", n)
    assert len(openclipart.files(clipart)) == n
    save(Path(clipart.home, "openclipart", "tools", "copy.png"), plain((9, 9, 9, 255)))
    with pytest.raises(UserError, match=rf"holds {n + 1} drawings where the package has {n}"):
        openclipart.files(clipart)


@pytest.fixture
def photos(tmp_path) -> DataConfig:
    """Two JPEGs, one of the test split: left half dark and right half bright, 70×40."""
    pixels = np.full((40, 70, 3), 40, np.uint8)
    pixels[:, 35:] = 200
    for name in ("FreshFlower", "Dune"):
        (tmp_path / "photographs").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photographs" / f"{name}.jpg", quality=95)
    return DataConfig(name="photographs", home=str(tmp_path), size=8, channels=3)


def test_photographs_are_cut_into_reduced_squares_and_split_by_photograph(photos):
    train, test = (wavedp.data.load(photos, split) for split in ("train", "test"))
    assert train.images.shape == test.images.shape == (8, 3, 8, 8)  # 2 × 4 squares of 16 pixels
    assert train.classes == ("Dune", "FreshFlower")
    assert (set(train.labels), set(train.captions)) == ({1}, {"fresh flower"})
    assert (set(test.labels), set(test.captions)) == ({0}, {"dune"})
    means = sorted(train.images.mean((1, 2, 3)).round(-1))
    assert means == [40, 40, 40, 40, 170, 170, 200, 200]  # columns 32 to 47 hold 3 dark and 13 bright ones
    one = wavedp.data.load(dataclasses.replace(photos, limit=1, channels=1), "train")
    assert one.images.shape == (1, 1, 8, 8)


def test_photographs_that_are_not_there_or_too_small(photos, tmp_path):
    with pytest.raises(UserError, match=r"data\.size=32 is more than half the side of every photograph"):
        wavedp.data.n_records(dataclasses.replace(photos, size=32), "train")
    with pytest.raises(UserError, match=r"run `python -m wavedp.data.get photographs"):
        wavedp.data.n_records(dataclasses.replace(photos, home=str(tmp_path / "none")), "train")
    with pytest.raises(UserError, match="photographs has no val split"):
        wavedp.data.n_records(photos, "val")


def test_openclipart_limit_is_a_mixed_sample(clipart):
    few = wavedp.data.load(DataConfig(**{**clipart.__dict__, "limit": 20}), "train")
    assert np.array_equal(few.images, wavedp.data.load(clipart, "train").images[:20])
    assert set(few.labels) == {0, 1}


def rendered(pixels, size=8, channels=1, **options) -> np.ndarray:
    buffer = io.BytesIO()
    save_to = Image.fromarray(np.asarray(pixels, np.uint8))
    save_to.save(buffer, "png", **options)
    return openclipart.render(Image.open(buffer), size, channels)


def test_dark_lines_on_transparency_become_bright_on_black():
    art = plain((0, 0, 0, 0))
    art[0], art[7], art[:, 0], art[:, 7] = ((0, 0, 0, 255),) * 4
    drawn = rendered(art)[0]
    assert (drawn[0] == 255).all()
    assert (drawn[1:7, 1:7] == 0).all()


def test_bright_drawing_stays_and_dark_one_keeps_its_hue():
    assert rendered(plain((250, 240, 20, 255)), channels=3)[:, 4, 4].tolist() == [250, 240, 20]
    dark = np.array([60, 70, 110])
    shift = np.unique(rendered(plain((*dark, 255)), channels=3)[:, 4, 4] - dark)
    luma = dark @ [0.299, 0.587, 0.114]
    assert shift.tolist() == [round(255 - 2 * luma)]  # the same for red, green and blue


def test_drawing_is_cropped_to_what_is_visible_and_fitted_with_its_aspect():
    art = plain((77, 0, 0, 0), (40, 60))  # colour under full transparency must not show
    art[5:15, 30:50] = (255, 255, 255, 255)  # 10 high, 20 wide
    drawn = rendered(art, size=16)[0]
    assert (drawn[4:12] == 255).all()
    assert drawn.sum() == 255 * 16 * 8
    assert rendered(plain((77, 0, 0, 0))).sum() == 0


def test_half_transparent_edge_is_the_mean_of_drawing_and_black():
    assert rendered(plain((200, 200, 200, 128))).max() == pytest.approx(200 * 128 / 255, abs=1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_openclipart_reads_every_mode(mode, tmp_path):
    image = Image.fromarray(plain((255, 255, 255, 255), (20, 20)))
    image = Image.fromarray(np.full((20, 20), 65535, np.uint16)) if mode == "I;16" else image.convert(mode)
    path = tmp_path / "openclipart" / "tools" / "a.png"
    path.parent.mkdir(parents=True)
    image.save(path)
    config = DataConfig(name="openclipart", home=str(tmp_path), size=8)
    assert (openclipart.read(config, "train", 1)[0] == 255).all()


def test_openclipart_reads_what_pil_takes_for_a_bomb_and_thinning_changes_nothing(clipart, monkeypatch):
    root = Path(clipart.home, "openclipart")
    shutil.rmtree(root)
    noise = np.random.default_rng(0).integers(0, 256, (50, 90, 4), np.uint8)
    for i in range(4):
        save(root / "tools" / f"{i}.png", noise[i:], mode=("RGBA", "P", "LA", "RGB")[i])
    monkeypatch.setattr(openclipart, "THIN_TO", 24)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # PIL refuses twice as many
    with pytest.raises(Image.DecompressionBombError):
        Image.open(root / "tools" / "0.png")
    before = wavedp.data.load(clipart, "train")
    assert before.images.std() > 10
    openclipart.thin(root)
    monkeypatch.undo()
    assert max(max(Image.open(path).size) for path in root.rglob("*.png")) == 24
    assert wavedp.data.load(clipart, "train").fingerprint == before.fingerprint


def test_openclipart_names_an_unreadable_file_and_a_missing_set(clipart, tmp_path):
    noise = save(tmp_path / "noise.png", np.random.default_rng(0).integers(0, 256, (50, 50), np.uint8))
    for content in (b"not a png", noise.read_bytes()[:1000]):
        broken = Path(clipart.home, "openclipart", "tools", "broken.png")
        broken.write_bytes(content)
        with pytest.raises(UserError, match=r"broken.png cannot be read .*: remove or replace it"):
            wavedp.data.load(clipart, "train")
    with pytest.raises(UserError, match="python -m wavedp.data.get openclipart --home".replace(".", r"\.")):
        wavedp.data.n_records(DataConfig(name="openclipart", home=str(tmp_path / "empty")), "train")


def test_openclipart_caption():
    assert openclipart.caption("animals/mammals/dog_02_drawn_with_strai_01.png") == "mammals: dog 02 drawn with strai"
    assert openclipart.caption("tools/a__b_.png") == "tools: a b"


# --- procedural -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (64, 3), (9, 3)])
def test_procedural_is_a_function_of_split_and_index(size, channels):
    config = DataConfig(name="procedural", size=size, channels=channels, n_records=600)
    train = wavedp.data.load(config, "train")
    assert train.images.shape == (600, channels, size, size)
    assert train.fingerprint == wavedp.data.fingerprint(config, "train")
    longer = wavedp.data.load(DataConfig(**{**config.__dict__, "n_records": 1200}), "train")
    assert np.array_equal(longer.images[:600], train.images)
    assert longer.captions[:600] == train.captions
    val, test = (wavedp.data.load(config, split) for split in ("val", "test"))
    assert len(val.labels) == len(test.labels) == 150
    first = [data.images[:150].tobytes() for data in (train, val, test)]
    assert len(set(first)) == 3
    assert len({image.tobytes() for image in longer.images}) == 1200


def test_procedural_classes_can_be_learned():
    """A ridge regression on spectra, which ignore place, is far above the 10 % of chance."""
    config = DataConfig(name="procedural", n_records=2000)

    def features(images):
        return np.log1p(np.abs(np.fft.fft2(images[:, 0] / 255.0))).reshape(len(images), -1)

    train, test = (wavedp.data.load(config, split) for split in ("train", "test"))
    x = features(train.images)
    weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ np.eye(10)[train.labels])
    assert (np.argmax(features(test.images) @ weights, 1) == test.labels).mean() > 0.6


def test_procedural_captions_tell_the_truth():
    grey = wavedp.data.load(DataConfig(name="procedural", n_records=400), "train")
    assert {grey.captions[i].split()[-1] for i in range(0, 400, 10)} == {"disk"}
    disks = {
        word: [i for i in range(0, 400, 10) if word in grey.captions[i]] for word in ("small", "large", "dim", "bright")
    }
    top = grey.images.reshape(400, -1).max(1)
    assert top[disks["dim"]].max() < top[disks["bright"]].min()
    area = (grey.images > grey.images.reshape(400, -1).max(1)[:, None, None, None] / 2).reshape(400, -1).sum(1)
    assert area[disks["small"]].max() < area[disks["large"]].min()
    assert grey.captions[5] in {f"{a} {b} stripes" for a in ("small", "large") for b in ("dim", "bright")}
    colour = wavedp.data.load(DataConfig(name="procedural", n_records=400, channels=3), "train")
    reds = [i for i, caption in enumerate(colour.captions) if " red " in caption and "bright" in caption]
    peak = colour.images[reds].reshape(len(reds), 3, -1).max(2).astype(int)
    assert len(reds) > 10
    assert (peak[:, 0] > 2 * peak[:, 1]).all()


def test_uniforms_are_splitmix64():
    # The first two outputs of the reference generator for seed 0: e220a8397b1dcdaf, 6e789e6aa1b965f4.
    expected = [0xE220A8397B1DCDAF >> 11, 0x6E789E6AA1B965F4 >> 11]
    assert (procedural.uniforms(0, 1, 2)[0] * 2**53).tolist() == expected
    draws = procedural.uniforms(1, 10_000, 8)
    assert np.abs(draws.mean(0) - 0.5).max() < 0.02
    assert np.abs(np.corrcoef(draws.T) - np.eye(8)).max() < 0.05


def test_procedural_fingerprints_are_frozen():
    """They are equal on CPUs with and without AVX2, AVX-512 and FMA, although sines differ there in the last bit."""
    for size, channels, expected in ((28, 1, "73403c9ac8e7420e"), (32, 3, "9f6a32a52930178c")):
        config = DataConfig(name="procedural", size=size, channels=channels)
        assert wavedp.data.fingerprint(config, "train").startswith(expected)


# --- folder -----------------------------------------------------------------------------------------------------------


def folder_config(path: Path, **options) -> DataConfig:
    return DataConfig(**{"name": "folder", "path": str(path), "home": str(path.parent / "home"), "size": 8, **options})


def test_folder_with_splits_and_classes(tmp_path):
    root = tmp_path / "set"
    for split, n in (("train", 6), ("val", 4), ("test", 2)):
        for i in range(n):
            save(root / split / ("cat", "dog")[i % 2] / "deeper" / f"{i}.PNG", plain(100 * (i % 2) + i), format="png")
    save(root / "train" / "cat" / ".hidden.png", plain(0))
    (root / "train" / "notes.md").write_text("not an image")
    for split, n in (("train", 6), ("val", 4), ("test", 2)):
        data = wavedp.data.load(folder_config(root), split)
        assert data.classes == ("cat", "dog")
        assert sorted(data.images[:, 0, 0, 0].tolist()) == sorted(100 * (i % 2) + i for i in range(n))
        assert np.array_equal(data.labels, data.images[:, 0, 0, 0] >= 100)
        assert data.captions is None
    save(root / "test" / "fox" / "0.png", plain(0))
    with pytest.raises(UserError, match="is of class 'fox'"):
        wavedp.data.load(folder_config(root), "test")
    shutil.rmtree(root / "val")
    with pytest.raises(UserError, match="has no val split: use train or test"):
        wavedp.data.n_records(folder_config(root), "val")


def test_folder_without_splits_is_divided_by_name(pictures):
    train, test = (wavedp.data.load(pictures, split) for split in ("train", "test"))
    values = [set(data.images[:, 0, 0, 0].tolist()) for data in (train, test)]
    assert not values[0] & values[1]
    assert values[0] | values[1] == {4 * i for i in range(60)}
    assert 1 <= len(values[1]) <= 15
    assert np.array_equal(train.labels, train.images[:, 0, 0, 0] // 4 % 2)
    save(Path(pictures.path or "") / "a" / "new.png", plain(255))
    again = wavedp.data.load(pictures, "test").images[:, 0, 0, 0].tolist()
    assert values[1] == set(again) - {255}
    with pytest.raises(UserError, match="has no val split"):
        wavedp.data.load(pictures, "val")


def test_folder_without_classes_and_with_captions(tmp_path):
    root = tmp_path / "set"
    for i in range(5):
        save(root / "train" / f"{i}.png", plain(i))
        (root / "train" / f"{i}.txt").write_text(f"number {i}\n\n  größe {i} \n", encoding="utf-8")
    data = wavedp.data.load(folder_config(root), "train")
    assert data.classes == ("image",)
    assert set(data.labels) == {0}
    assert list(data.captions) == [f"number {i}\ngröße {i}" for i in data.images[:, 0, 0, 0]]
    (root / "train" / "3.txt").write_text("other")
    assert wavedp.data.fingerprint(folder_config(root), "train") != data.fingerprint
    (root / "train" / "3.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"3\.txt is not UTF-8"):
        wavedp.data.load(folder_config(root), "train")
    (root / "train" / "3.txt").unlink()
    with pytest.raises(UserError, match=r"3\.txt is missing, yet other images have captions"):
        wavedp.data.load(folder_config(root), "train")
    (root / "train" / "3.txt").write_text("there again", encoding="utf-8")
    (root / "train" / "5.txt").write_text("of no image", encoding="utf-8")
    with pytest.raises(UserError, match=r"5\.txt has captions and no image beside it: add the image, or remove"):
        wavedp.data.load(folder_config(root), "train")
    (root / "train" / "5.txt").unlink()
    save(root / "train" / "class" / "x.png", plain(0))
    with pytest.raises(UserError, match="lies beside class folders"):
        wavedp.data.load(folder_config(root), "train")


def decoded(path: Path, **options) -> np.ndarray:
    """One file in a folder of its own, decoded."""
    return wavedp.data.load(folder_config(path.parent, **options), "train").images[0]


def test_folder_modes(tmp_path):
    grey16 = save(tmp_path / "a" / "train" / "x.png", np.full((8, 8), 0x8000, np.uint16))
    assert (decoded(grey16.parent.parent / "x") == 128).all()
    clear = save(tmp_path / "b" / "train" / "x.png", plain((9, 9, 9, 0)))
    assert (decoded(clear.parent.parent / "x", channels=3) == 255).all()
    palette = save(tmp_path / "c" / "train" / "x.gif", plain((255, 0, 0)), mode="P")
    assert decoded(palette.parent.parent / "x", channels=3)[:, 0, 0].tolist() == [255, 0, 0]
    colour = save(tmp_path / "d" / "train" / "x.png", plain((0, 255, 0)))
    assert (decoded(colour.parent.parent / "x") == 150).all()  # 0.587 * 255
    real = save(tmp_path / "e" / "train" / "x.tif", np.zeros((8, 8), np.float32))
    with pytest.raises(UserError, match=r"x\.tif cannot be read \(floating-point"):
        decoded(real.parent.parent / "x")


def test_folder_turns_by_exif_and_crops_the_centre(tmp_path):
    pixels = plain(0, (16, 48))
    pixels[:, 16:32] = 200
    wide = decoded(save(tmp_path / "wide" / "train" / "x.png", pixels).parent.parent / "x")
    assert np.abs(wide.astype(int) - 200).max() <= 15  # the filter reaches a little over the edge
    half = plain(0, (32, 32))
    half[:, 16:] = 240  # the right half is bright
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise: the right half comes to the bottom
    turned = decoded(save(tmp_path / "turned" / "train" / "x.jpg", half, exif=exif, quality=95).parent.parent / "x")[0]
    assert turned[:3].max() < 40
    assert turned[-3:].min() > 200


def test_folder_shrinks_with_antialiasing(tmp_path):
    board = (np.indices((640, 640)).sum(0) % 2 * 255).astype(np.uint8)
    for suffix in ("png", "jpg"):
        path = save(tmp_path / suffix / "train" / f"x.{suffix}", board)
        assert np.abs(decoded(path.parent.parent / "x").astype(int) - 127).max() <= 3


def test_folder_names_what_it_cannot_read(pictures):
    victim = Path(pictures.path or "") / "a" / "2.jpg"
    noise = save(victim, np.random.default_rng(0).integers(0, 256, (50, 50), np.uint8)).read_bytes()
    for content in (b"", b"not an image", noise[:1000]):
        victim.write_bytes(content)
        with pytest.raises(UserError, match=r"2\.jpg cannot be read .*: remove or replace it"):
            wavedp.data.load(pictures, "train")
    shutil.rmtree(pictures.path or "")
    Path(pictures.path or "").mkdir()
    with pytest.raises(UserError, match="holds no images for train"):
        wavedp.data.load(pictures, "train")


# --- download ---------------------------------------------------------------------------------------------------------


def build_deb(path: Path, files: dict[str, bytes], compression: str = "xz") -> Path:
    """A Debian package written by hand: an ar archive of a version, a control archive and the files."""

    def archive(members: dict[str, bytes], mode: str) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=f"w:{mode}") as tar:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, io.BytesIO(content))
        return buffer.getvalue()

    control = b"Package: small-set\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": archive({"./control": control}, "xz"),
        "odd": b"odd",  # an ar member of odd length, which is padded
        f"data.tar.{compression}": archive(files, compression),
    }
    if files.get("no data"):
        del members[f"data.tar.{compression}"]
    if shutil.which("dpkg-deb"):
        del members["odd"]  # dpkg-deb refuses members it does not know
    with open(path, "wb") as out:
        out.write(b"!<arch>\n")
        for name, content in members.items():
            out.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode())
            out.write(content + b"\n" * (len(content) % 2))
    return path


@pytest.fixture(params=["dpkg-deb", "python"])
def unpacker(request, monkeypatch) -> str:
    if request.param == "python":
        monkeypatch.setattr(debian.shutil, "which", lambda name: None)
    elif not shutil.which("dpkg-deb"):
        pytest.skip("dpkg-deb is not installed")
    return request.param


@pytest.mark.parametrize("compression", ["xz", "gz"])
def test_unpack_a_debian_package(unpacker, compression, tmp_path):
    files = {"./usr/share/set/a.bin": bytes(range(256)) * 100, "./usr/share/set/b.txt": b"b"}
    deb = build_deb(tmp_path / "x.deb", files, compression)
    debian.unpack(deb, tmp_path / "out")
    found = {
        f"./{path.relative_to(tmp_path / 'out')}": path for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    assert {name: path.read_bytes() for name, path in found.items()} == files


def test_unpack_refuses_what_is_no_package(unpacker, tmp_path):
    (tmp_path / "x.deb").write_bytes(b"<html>no such file</html>")
    with pytest.raises(OSError, match=r"x\.deb"):
        debian.unpack(tmp_path / "x.deb", tmp_path / "out")
    cut = build_deb(tmp_path / "cut.deb", {"./a": os.urandom(5000)})
    cut.write_bytes(cut.read_bytes()[:-3000])
    with pytest.raises(OSError, match=r"."):
        debian.unpack(cut, tmp_path / "out")
    with pytest.raises(OSError, match=r"no data\.tar member|has premature member|unexpected end"):
        debian.unpack(build_deb(tmp_path / "none.deb", {"no data": b"x"}), tmp_path / "out")


def test_unpack_stays_inside_its_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(debian.shutil, "which", lambda name: None)
    deb = build_deb(tmp_path / "x.deb", {"../escaped": b"x"})
    with pytest.raises(OSError, match="outside"):
        debian.unpack(deb, tmp_path / "out")
    assert not (tmp_path / "escaped").exists()


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A local package repository that the real apt-get uses instead of the machine's sources."""
    if not shutil.which("apt-get"):
        pytest.skip("apt-get is not installed")
    place = tmp_path / "repository"
    place.mkdir()
    deb = build_deb(place / "small-set_1_all.deb", {"./usr/share/set/a.png": b"a"})
    entry = f"Package: small-set\nVersion: 1\nArchitecture: all\nFilename: ./{deb.name}\nSize: {deb.stat().st_size}\n"
    (place / "Packages").write_text(f"{entry}SHA256: {hashlib.sha256(deb.read_bytes()).hexdigest()}\n\n")
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] file:{place} ./\n")
    settings = f'Dir::Etc::SourceList "{tmp_path}/sources.list";\nDir::Etc::SourceParts "/dev/null";\n'
    (tmp_path / "apt.conf").write_text(settings)
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    return place


def test_apt_download(repository, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    deb = debian.apt_download("small-set", tmp_path / "work")
    assert deb.read_bytes() == (repository / deb.name).read_bytes()
    (tmp_path / "other").mkdir()
    with pytest.raises(OSError, match="Unable to locate package no-such-set"):
        debian.apt_download("no-such-set", tmp_path / "other")
    (tmp_path / "sources.list").write_text("deb [trusted=yes] http://127.0.0.1:9/ ./\n")
    (tmp_path / "gone").mkdir()
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:9"):
        debian.apt_download("small-set", tmp_path / "gone")
    monkeypatch.setattr(debian.shutil, "which", lambda name: None)
    with pytest.raises(OSError, match="apt-get is not installed"):
        debian.apt_download("small-set", tmp_path / "gone")


@pytest.fixture
def server(tmp_path):
    """(address, folder) of a web server on this machine."""
    place = tmp_path / "www"
    place.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(place))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/", place
        running.shutdown()
        thread.join()


def test_get_fashion_mnist_from_a_mirror(server, fashion_home, tmp_path, monkeypatch, capsys):
    address, place = server
    for name in fashion_mnist.SHA256:
        shutil.copy(Path(fashion_home, "fashion_mnist", name), place)
    monkeypatch.setattr(get, "MIRROR", address)
    home = tmp_path / "home"
    damaged = home / "fashion_mnist" / "train-labels-idx1-ubyte.gz"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half a file")
    assert get.main(["fashion_mnist", "--home", str(home)]) == 0
    assert fashion_mnist.damaged(home / "fashion_mnist") is None
    assert [path.name for path in home.iterdir()] == ["fashion_mnist"]
    assert "train-images-idx3-ubyte.gz: 26.4 of 26.4 MB" in capsys.readouterr().out
    shutil.rmtree(place)
    assert get.main(["fashion_mnist", "--home", str(home)]) == 0
    assert "is there already" in capsys.readouterr().out


def test_get_tries_every_source_and_then_says_why_each_failed(server, tmp_path, monkeypatch, capsys):
    address, place = server
    for name in fashion_mnist.SHA256:
        (place / name).write_bytes(b"altered")
    monkeypatch.setattr(get, "MIRROR", address)
    package = get.Package("no-such-set", f"{address}absent.deb", "0" * 64, "usr")
    job = get.Download(
        (("mirror", get._from_mirror), ("closed", lambda work: get.download("http://127.0.0.1:9/x", work / "x"))),
        fashion_mnist.damaged,
        lambda path: pytest.fail("finished a failed download"),
        "the files",
    )
    job = get.Download((*job.sources, ("pool", package.by_url)), job.wrong, job.finish, job.contents)
    monkeypatch.setitem(get.DOWNLOADS, "fashion_mnist", job)
    assert get.main(["fashion_mnist", "--home", str(tmp_path / "home")]) == 2
    error = capsys.readouterr().err
    assert "mirror (train-images-idx3-ubyte.gz is not a whole gzip file)" in error
    assert "closed ([Errno 111] Connection refused)" in error
    assert "pool (File not found)" in error or "pool (Not Found)" in error
    assert f"put the files into {tmp_path}/home/fashion_mnist" in error
    assert list((tmp_path / "home").iterdir()) == []


def test_package_by_url_checks_before_it_unpacks(server, tmp_path, monkeypatch):
    address, place = server
    content = build_deb(place / "x.deb", {"./usr/share/set/c/a.png": b"a"}).read_bytes()
    right = get.Package("x", f"{address}x.deb", hashlib.sha256(content).hexdigest(), "usr/share/set")
    (tmp_path / "right").mkdir()
    folder = right.by_url(tmp_path / "right")
    assert (folder / "c" / "a.png").read_bytes() == b"a"
    assert get._no_drawings(folder) is None
    assert get._no_drawings(folder / "c") is not None
    job = get.Download((("pool", right.by_url),), get._no_drawings, lambda path: (path / "done").touch(), "pictures")
    monkeypatch.setitem(get.DOWNLOADS, "set", job)
    assert {path.name for path in get.get("set", tmp_path / "home").iterdir()} == {"c", "done"}
    (tmp_path / "wrong").mkdir()
    with pytest.raises(OSError, match="instead of 000"):
        get.Package("x", right.pool, "0" * 64, right.inside).by_url(tmp_path / "wrong")
    assert not (tmp_path / "wrong" / "files").exists()


def test_download_notices_a_connection_that_ends_early(tmp_path, monkeypatch):
    class Short(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Short) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        with pytest.raises((OSError, http.client.HTTPException), match=r"10 of 1000|IncompleteRead"):
            get.download(f"http://127.0.0.1:{running.server_port}/x", tmp_path / "x")
        running.shutdown()


def test_drawings_are_the_same_bits_on_every_processor():
    """The luma is a fused sum in the published order. Other BLAS kernels sum in another order and give other bits."""
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.float32)
    luma = openclipart.luma_of(rgb)
    assert luma.shape == (64, 64, 1)
    assert luma.dtype == np.float32
    assert hashlib.sha256(luma.tobytes()).hexdigest()[:16] == "2b4d086af1a21b08"
    plain = (rgb * openclipart.LUMA).sum(-1, keepdims=True, dtype=np.float32)
    assert np.abs(luma - plain).max() <= 3.1e-5
    assert (luma != plain).any()

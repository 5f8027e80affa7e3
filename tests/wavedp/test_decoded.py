"""Datasets from arrays, decoded files that stand in for a dataset, and datasets of other packages."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import wavedp.data
from wavedp.config import DataConfig, TrialConfig
from wavedp.data import cache, decoded, export, fashion_mnist, from_arrays, procedural, source_of
from wavedp.errors import UserError

N = 60


def grey(n: int = N, size: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size), np.uint8)


def colour(n: int = N, size: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 3, size, size), np.uint8)


# --- from arrays ------------------------------------------------------------------------------------------------------


def test_layouts_and_types_of_the_same_images_are_the_same_dataset(tmp_path):
    images = colour()
    expected = from_arrays(images, home=tmp_path)
    same = [
        images.transpose(0, 2, 3, 1),
        images / 255,
        (images / 255).astype(np.float32),
        (images / 255).astype(np.float16),
        torch.tensor(images),
        torch.tensor(images.transpose(0, 2, 3, 1)).float() / 255,
        np.asfortranarray(images),
    ]
    for other in same:
        assert from_arrays(other, home=tmp_path) == expected
    assert (expected.size, expected.channels, expected.name) == (12, 3, "decoded")
    assert [str(path) for path in tmp_path.iterdir()] == [expected.path]
    flat = grey()
    one = from_arrays(flat, home=tmp_path)
    assert one == from_arrays(flat[:, None], home=tmp_path) == from_arrays(flat[..., None], home=tmp_path)
    assert one.channels == 1
    half = torch.tensor(np.round(flat / 255 * 4) / 4).to(torch.bfloat16)
    assert from_arrays(half, home=tmp_path) == from_arrays(half.float(), home=tmp_path)


def test_records_keep_their_order_and_are_divided_by_content(tmp_path):
    images, labels = grey(200), np.arange(200) % 3
    captions = [f"picture {i}" for i in range(200)]
    config = from_arrays(images, labels, captions, classes=["cat", "dog", "fox"], home=tmp_path)
    train, test = (wavedp.data.load(config, split) for split in ("train", "test"))
    assert len(train.labels) + len(test.labels) == 200
    assert 5 <= len(test.labels) <= 40
    place = {image.tobytes(): i for i, image in enumerate(images)}
    for part in (train, test):
        order = [place[image.tobytes()] for image in part.images]
        assert order == sorted(order)
        assert part.labels.tolist() == [i % 3 for i in order]
        assert list(part.captions) == [f"picture {i}" for i in order]
        assert part.classes == ("cat", "dog", "fox")
    # An image stays where it is when others come, go or move, and its copy joins it.
    more = from_arrays(np.concatenate([images[::-1][:150], grey(30, 12)[:5], images[:50]]), home=tmp_path)
    held_out = {image.tobytes() for image in test.images}
    again = {image.tobytes() for image in wavedp.data.load(more, "test").images}
    assert again <= held_out
    assert not {image.tobytes() for image in wavedp.data.load(more, "train").images} & held_out


def test_a_test_set_is_taken_as_it_is(tmp_path):
    config = from_arrays(
        grey(6),
        [0, 1, 0, 1, 0, 1],
        list("abcdef"),
        test_images=grey(4),
        test_labels=[2, 0, 0, 0],
        test_captions=list("wxyz"),
        home=tmp_path,
    )
    train, test = (wavedp.data.load(config, split) for split in ("train", "test"))
    assert np.array_equal(train.images[:, 0], grey(6))
    assert np.array_equal(test.images[:, 0], grey(4))
    assert test.labels.tolist() == [2, 0, 0, 0]
    assert test.captions == ("w", "x", "y", "z")
    assert train.classes == ("0", "1", "2")
    with pytest.raises(UserError, match=r"has no val split: use train or test\."):
        wavedp.data.load(config, "val")


def test_content_names_the_file(tmp_path):
    images = grey()
    first = from_arrays(images, np.arange(N) % 2, home=tmp_path)
    stamp = Path(first.path).stat()
    assert from_arrays(images.copy(), np.arange(N) % 2, home=tmp_path) == first
    assert Path(first.path).stat() == stamp  # kept, so that the cache of limited sets stays valid
    others = [
        from_arrays(images, home=tmp_path),
        from_arrays(images, np.arange(N) % 2, ["x"] * N, home=tmp_path),
        from_arrays(images, np.arange(N) % 2, classes=["a", "b"], home=tmp_path),
        from_arrays(images[::-1], np.arange(N) % 2, home=tmp_path),
    ]
    assert len({config.path for config in [first, *others]}) == 5
    Path(first.path).write_bytes(b"damaged")
    assert wavedp.data.load(from_arrays(images, np.arange(N) % 2, home=tmp_path), "train").classes == ("0", "1")


NAN = grey() / 255.0
NAN[3, 4, 5] = np.nan


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": grey() / 254.0}, r"images are float64 from 0\.0 to 1\.00.*: give values in \[0, 1\], or uint8"),
        ({"images": grey() / 255.0 - 0.1}, "give values in"),
        ({"images": NAN}, "from nan to nan: give values in"),
        ({"images": grey().astype(np.int64)}, "images are int64: give uint8, or float"),
        ({"images": grey() > 9}, "images are bool: give uint8"),
        ({"images": np.zeros((9, 3, 3, 3), np.uint8)}, "can be read as B C H W or B H W C"),
        ({"images": np.zeros((9, 8, 9), np.uint8)}, r"have shape \(9, 8, 9\): give square images"),
        ({"images": np.zeros((9, 2, 8, 8), np.uint8)}, "give square images"),
        ({"images": np.zeros((9, 4, 8, 8), np.uint8)}, "give square images"),
        ({"images": np.zeros((8, 8), np.uint8)}, "give square images"),
        ({"images": np.zeros((0, 8, 8), np.uint8)}, "give square images"),
        ({"images": np.zeros((30, 2, 2), np.uint8), "test_images": np.zeros((3, 2, 2), np.uint8)}, r"data\.size=2"),
        ({"images": grey(), "labels": np.zeros(N)}, r"labels are float64 \(60,\) for 60 images"),
        ({"images": grey(), "labels": np.zeros(N - 1, int)}, r"labels are int64 \(59,\) for 60 images"),
        ({"images": grey(), "labels": np.zeros((N, 1), int)}, r"labels are int64 \(60, 1\)"),
        ({"images": grey(), "labels": np.full(N, -1)}, "one integer from 0"),
        ({"images": grey(), "labels": np.full(N, 2), "classes": ["a", "b"]}, "label 2 has no name among the 2 classes"),
        ({"images": grey(), "captions": ["x"]}, "60 images have 1 captions"),
        ({"images": grey(), "captions": "x" * N}, "captions are not strings"),
        ({"images": grey(), "captions": [1] * N}, "captions are not strings"),
        ({"images": grey(1)}, "1 images leave (test|train) empty"),
        ({"images": grey(), "test_labels": [1]}, "came without test_images"),
        ({"images": grey(), "test_images": grey(), "test_labels": [0] * N}, "train and test differ in labels"),
        ({"images": grey(), "captions": ["x"] * N, "test_images": grey()}, "differ in labels or captions"),
        ({"images": grey(), "test_images": colour()}, "images of 2 shapes"),
        ({"images": grey(), "home": "/dev/null/home"}, "cannot be written .*: give another home"),
    ],
)
def test_arrays_that_are_no_dataset_are_refused(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        from_arrays(**{"home": tmp_path, **arguments})
    assert list(tmp_path.iterdir()) == []


# --- decoded files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path) -> DataConfig:
    """A folder dataset with captions."""
    for i in range(N):
        path = tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey()[i]).save(path)
        path.with_suffix(".txt").write_text(f"größe {i}")
    return DataConfig(name="folder", path=str(tmp_path / "pictures"), home=str(tmp_path / "home"), size=8)


def answers(config: DataConfig) -> list:
    """All that stage keys and stages ask of a dataset."""
    found: list = [wavedp.data.shape(config), wavedp.data.n_classes(config), wavedp.data.has_captions(config)]
    for split in ("train", "test"):
        for limit in (None, 3):
            asked = dataclasses.replace(config, limit=limit)
            loaded = wavedp.data.load(asked, split)
            found += [wavedp.data.n_records(asked, split), wavedp.data.fingerprint(asked, split)]
            found += [loaded.fingerprint, loaded.classes, loaded.captions, loaded.name, loaded.labels.tolist()]
    return found


def test_a_decoded_file_stands_in_where_the_source_is_missing(pictures, tmp_path, capsys):
    file = tmp_path / "carried" / "any name.decoded.npz"
    arguments = ["folder", "--decoded", str(file), "--size", "8", "--path", pictures.path, "--home", pictures.home]
    assert export.main(arguments) == 0
    assert f"images are now in {file}" in capsys.readouterr().out
    expected = answers(pictures)
    elsewhere = dataclasses.replace(pictures, path="/enclave/pictures", home=str(file.parent))
    assert answers(elsewhere) == expected
    direct = dataclasses.replace(pictures, name="decoded", path=str(file))
    assert answers(direct) == [value if value != "folder" else "decoded" for value in expected]
    with pytest.raises(UserError, match=r"any name.decoded.npz has no val split"):
        wavedp.data.load(elsewhere, "val")
    with pytest.raises(UserError, match=r"limit=1000 is outside"):
        wavedp.data.n_records(dataclasses.replace(elsewhere, limit=1000), "train")


def test_stage_keys_are_those_at_home(pictures, tmp_path):
    from wavedp.chain import keys

    export.export_decoded(pictures, tmp_path / "away" / "x.decoded.npz")
    for limit in (None, 7):
        here = TrialConfig(data=dataclasses.replace(pictures, limit=limit), public=None)
        there = dataclasses.replace(here.data, path="/enclave/pictures", home=str(tmp_path / "away"))
        direct = dataclasses.replace(there, name="decoded", path=str(tmp_path / "away" / "x.decoded.npz"))
        assert keys(here) == keys(dataclasses.replace(here, data=there)) == keys(dataclasses.replace(here, data=direct))


def test_a_file_of_another_identity_is_not_taken(pictures, tmp_path):
    file = tmp_path / "away" / "x.decoded.npz"
    export.export_decoded(pictures, file)
    missing = dataclasses.replace(pictures, path="/enclave/pictures", home=str(file.parent))
    for change in ({"size": 9}, {"channels": 3}, {"n_records": 9}, {"path": "/enclave/others"}):
        with pytest.raises(UserError, match="is not a folder: give the folder that holds the images"):
            wavedp.data.load(dataclasses.replace(missing, **change), "train")
    (file.parent / "noise.decoded.npz").write_bytes(b"noise")
    assert wavedp.data.n_classes(missing) == 2
    with pytest.raises(UserError, match=r"is not in .*: run `python -m wavedp.data.get fashion_mnist"):
        wavedp.data.load(DataConfig(home=str(file.parent)), "train")


def test_two_files_of_different_content_are_refused(pictures, tmp_path):
    away = tmp_path / "away"
    for name in ("a", "copy of a"):
        export.export_decoded(pictures, away / f"{name}.decoded.npz")
    missing = dataclasses.replace(pictures, path="/enclave/pictures", home=str(away))
    assert wavedp.data.n_classes(missing) == 2
    gone = next(Path(pictures.path, "a").glob("*.png"))
    gone.unlink()
    gone.with_suffix(".txt").unlink()
    export.export_decoded(pictures, away / "b.decoded.npz")
    with pytest.raises(UserError, match=r"a\.decoded\.npz and .*b\.decoded\.npz both stand for data\.name=folder"):
        wavedp.data.load(missing, "train")


def test_the_source_is_preferred_while_it_is_there(pictures, tmp_path, monkeypatch):
    export.export_decoded(pictures, Path(pictures.home, "x.decoded.npz"))
    monkeypatch.setattr(decoded, "read", lambda *arguments: pytest.fail("read the copy"))
    monkeypatch.setattr(decoded, "find", lambda *arguments: pytest.fail("looked for a copy"))
    wavedp.data.load(pictures, "train")
    with pytest.raises(UserError, match="has no val split: use train or test"):
        wavedp.data.load(pictures, "val")
    for picture in Path(pictures.path, "a").glob("*.png"):
        picture.write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be read"):
        wavedp.data.load(pictures, "train")


def rewritten(file: Path, **changes) -> None:
    """The same .npz with other arrays: its checksums are right, its content is not."""
    with np.load(file) as arrays:
        content = dict(arrays)
    np.savez(file, **{**content, **changes})


def test_a_damaged_file_is_one_sentence(tmp_path):
    config = from_arrays(grey(), np.arange(N) % 2, ["x"] * N, home=tmp_path)
    file = Path(config.path)
    content = file.read_bytes()
    with np.load(file) as arrays:
        whole = dict(arrays)
    pixels = whole["images_train"].copy()
    pixels[-1, 0, 0, 0] ^= 1
    changes: list[dict] = [
        {"images_train": pixels},
        {"images_train": whole["images_train"][:-1]},
        {"images_train": whole["images_train"].astype(np.float32)},
        {"labels_train": 1 - whole["labels_train"]},
        {"labels_train": whole["labels_train"].astype(np.int32)},
        {"captions_train": np.frombuffer(b'["y"]', np.uint8)},
        {"captions_train": np.frombuffer(b"[", np.uint8)},
    ]
    for change in changes:
        rewritten(file, **change)
        with pytest.raises(UserError, match=r"\.decoded\.npz is damaged \(.*\): copy or write it again\."):
            wavedp.data.load(config, "train")
        file.write_bytes(content)
    plain = io.BytesIO()
    np.save(plain, np.zeros(3))
    pickled = io.BytesIO()
    np.savez(pickled, about=np.array([{"format": 1}], dtype=object))
    other = io.BytesIO()
    np.savez(other, images=np.zeros(3))
    for bad in (b"", b"noise", content[:-200], content[:1000], plain.getvalue(), pickled.getvalue(), other.getvalue()):
        file.write_bytes(bad)
        for ask in (wavedp.data.load, wavedp.data.fingerprint, wavedp.data.n_records):
            with pytest.raises(UserError, match=r"\.decoded\.npz is damaged \("):
                ask(config, "train")
    for place in range(200, len(content) - 400, 997):  # in compressed content: zip's checksums notice, with a limit too
        file.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(UserError, match=r"\.decoded\.npz is damaged \("):
            [wavedp.data.load(dataclasses.replace(config, limit=2), split) for split in ("train", "test")]


def test_format_and_config_that_do_not_fit(tmp_path):
    config = from_arrays(grey(), home=tmp_path)
    file = Path(config.path)
    for change, message in (
        ({"size": 28}, r"has other images than data\.size=28 and data\.channels=1: use size=12 and channels=1\."),
        ({"channels": 3}, "use size=12 and channels=1"),
        ({"path": None}, r"data\.name=decoded needs data\.path"),
        ({"path": "/no/such.npz", "home": "/none"}, r"data\.path=/no/such\.npz is not a file"),
        ({"split": "dpimagebench"}, "not defined for decoded"),
    ):
        with pytest.raises(UserError, match=message):
            wavedp.data.fingerprint(dataclasses.replace(config, **change), "train")
    about = json.loads(np.load(file)["about"].tobytes())
    rewritten(file, about=np.frombuffer(json.dumps({**about, "format": 2}).encode(), np.uint8))
    with pytest.raises(UserError, match="has format 2, which is unknown here: update wavedp"):
        wavedp.data.load(config, "train")


def test_a_whole_decoded_file_is_not_copied_into_the_cache(tmp_path):
    config = from_arrays(grey(), home=tmp_path)
    wavedp.data.load(config, "train")
    assert not (tmp_path / "decoded").exists()
    few = dataclasses.replace(config, limit=5)
    value = wavedp.data.fingerprint(few, "train")
    assert [path.suffix for path in (tmp_path / "decoded").iterdir()] == [".npz"]
    assert wavedp.data.fingerprint(few, "train") == value


def test_export_command_refuses_what_it_cannot_do(tmp_path, capsys):
    for arguments in (
        ["procedural"],
        ["procedural", "test"],
        ["procedural", "test", str(tmp_path / "x"), "--decoded", str(tmp_path / "y.decoded.npz")],
        ["procedural", "--decoded", str(tmp_path / "y.decoded.npz"), "--count", "3"],
    ):
        with pytest.raises(SystemExit) as stopped:
            export.main(arguments)
        assert stopped.value.code == 2
    missing = ["fashion_mnist", "--decoded", str(tmp_path / "y.decoded.npz"), "--home", str(tmp_path)]
    assert export.main(missing) == 2
    assert "run `python -m wavedp.data.get fashion_mnist" in capsys.readouterr().err
    assert export.main(["cifar", "test", str(tmp_path / "x")]) == 2
    assert "'cifar' is not a dataset" in capsys.readouterr().err
    arguments = ["procedural", "--decoded", "/dev/null/x", "--n-records", "40", "--home", str(tmp_path)]
    assert export.main(arguments) == 2
    assert "the export failed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    arguments = ["procedural", "--decoded", str(tmp_path / "x.npz"), "--n-records", "40", "--home", str(tmp_path)]
    assert export.main(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith("40 train, 10 val, 10 test images are now in ")
    assert "its name must end in .decoded.npz" in out
    with pytest.raises(UserError, match="n_records=3 leaves val and test empty"):
        export.export_decoded(DataConfig(name="procedural", n_records=3), tmp_path / "z.npz")


def test_limit_is_no_part_of_a_decoded_file(pictures, tmp_path):
    whole = export.export_decoded(pictures, tmp_path / "a.decoded.npz")
    limited = export.export_decoded(dataclasses.replace(pictures, limit=2), tmp_path / "b.decoded.npz")
    assert limited == whole
    assert "limit" not in whole.identity


def test_fashion_mnist_from_a_decoded_file(tmp_path, monkeypatch):
    """With idx files of a few made-up garments: the real ones are too many to pack in every test run."""
    made = {
        "train-images-idx3-ubyte.gz": bytes(16) + grey(50, 28).tobytes(),
        "train-labels-idx1-ubyte.gz": bytes(8) + bytes(i % 10 for i in range(50)),
        "t10k-images-idx3-ubyte.gz": bytes(16) + grey(20, 28)[::-1].tobytes(),
        "t10k-labels-idx1-ubyte.gz": bytes(8) + bytes(i % 10 for i in range(20)),
    }
    monkeypatch.setattr(fashion_mnist, "_content", lambda path: made[path.name])
    counts = {"official": {"train": 50, "test": 20}, "dpimagebench": {"train": 40, "val": 10, "test": 20}}
    monkeypatch.setattr(fashion_mnist, "COUNTS", counts)
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "fashion_mnist").mkdir(parents=True)
    for name in made:
        (here / "fashion_mnist" / name).write_bytes(b"")
    home = DataConfig(home=str(here))
    expected = answers(home)
    assert export.main(["fashion_mnist", "--decoded", str(there / "f.decoded.npz"), "--home", str(here)]) == 0
    assert answers(dataclasses.replace(home, home=str(there))) == expected
    benchmark = dataclasses.replace(home, split="dpimagebench")
    with pytest.raises(UserError, match="is not in"):
        wavedp.data.load(dataclasses.replace(benchmark, home=str(there)), "val")
    arguments = ["--decoded", str(there / "d.decoded.npz"), "--home", str(here), "--division", "dpimagebench"]
    assert export.main(["fashion_mnist", *arguments]) == 0
    assert answers(dataclasses.replace(benchmark, home=str(there))) == answers(benchmark)
    away = wavedp.data.load(dataclasses.replace(benchmark, home=str(there)), "val")
    assert away.fingerprint == wavedp.data.load(benchmark, "val").fingerprint


# --- datasets of other packages ---------------------------------------------------------------------------------------

MODULE = """
from pathlib import Path
import numpy as np
from wavedp.data.dataset import square_shape
from wavedp.errors import UserError

class Satellites:
    shape = staticmethod(square_shape)

    def classes(self, config):
        return ("land", "sea")

    def has_captions(self, config):
        return False

    def count(self, config, split):
        return 6

    def files(self, config):
        if not Path(config.path).is_file():
            raise UserError(f"{config.path} is missing: make it.")
        return [Path(config.path)]

    def read(self, config, split, n):
        value = int(Path(config.path).read_text())
        images = np.full((n, config.channels, config.size, config.size), value, np.uint8)
        return images, np.arange(n) % 2, None

satellites = Satellites()
shape, classes, has_captions = satellites.shape, satellites.classes, satellites.has_captions
count, files, read = satellites.count, satellites.files, satellites.read

class Half:
    def shape(self, config):
        return (1, 4, 4)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package `orbit` with a source as a module, a class and an object."""
    site = tmp_path / "site"
    (site / "orbit-1.0.dist-info").mkdir(parents=True)
    (site / "orbit.py").write_text(MODULE)
    (site / "orbit-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: orbit\nVersion: 1.0\n")
    (site / "orbit-1.0.dist-info" / "entry_points.txt").write_text(
        "[wavedp.datasets]\nsatellites = orbit:satellites\nwhole_module = orbit\n"
        "procedural = orbit\ngone = orbit:Gone\n"
    )
    monkeypatch.syspath_prepend(str(site))
    wavedp.data._entry_points.cache_clear()
    wavedp.data._imported.cache_clear()
    yield "orbit"
    sys.modules.pop("orbit", None)
    wavedp.data._entry_points.cache_clear()
    wavedp.data._imported.cache_clear()


@pytest.mark.parametrize("name", ["satellites", "whole_module", "orbit:Satellites", "orbit:satellites"])
def test_a_dataset_of_another_package(name, package, tmp_path):
    (tmp_path / "value").write_text("7")
    config = DataConfig(name=name, size=8, path=str(tmp_path / "value"), home=str(tmp_path / "home"))
    loaded = wavedp.data.load(config, "train")
    assert (loaded.images == 7).all()
    assert (loaded.name, loaded.classes) == (name, ("land", "sea"))
    assert source_of(name) is source_of(name)
    (kept,) = Path(config.home, "decoded").iterdir()
    assert ":" not in kept.name
    (tmp_path / "value").write_text("8")
    assert wavedp.data.fingerprint(config, "train") != loaded.fingerprint
    with pytest.raises(UserError, match="not defined for"):
        wavedp.data.load(dataclasses.replace(config, split="dpimagebench"), "train")
    export.export_decoded(config, tmp_path / "home" / "x.decoded.npz")
    value = wavedp.data.fingerprint(config, "train")
    (tmp_path / "value").unlink()
    with pytest.raises(UserError, match="value is missing: make it"):
        wavedp.data.load(dataclasses.replace(config, size=9), "train")
    assert wavedp.data.fingerprint(config, "train") == value


def test_a_decoded_file_stands_in_for_a_package_that_is_not_installed(package, tmp_path, monkeypatch):
    (tmp_path / "value").write_text("7")
    config = DataConfig(name="satellites", size=8, path=str(tmp_path / "value"), home=str(tmp_path / "home"))
    expected = answers(config)
    export.export_decoded(config, tmp_path / "home" / "x.decoded.npz")
    with monkeypatch.context() as patch:
        patch.setattr(wavedp.data, "_entry_points", dict)
        with pytest.raises(UserError, match="'satellites' is not a dataset"):
            source_of("satellites")
        assert answers(config) == expected


def test_the_cache_of_an_object_knows_its_code(package, tmp_path):
    (tmp_path / "value").write_text("7")
    config = DataConfig(name="orbit:Satellites", size=8, path=str(tmp_path / "value"), home=str(tmp_path / "home"))
    before = cache.path(config, "train", source_of(config.name))
    module = Path(sys.modules["orbit"].__file__)
    module.write_text(MODULE + "# edited", encoding="utf-8")
    assert cache.path(config, "train", source_of(config.name)) != before
    unsaved = type("Unsaved", (), {"__module__": "a notebook", "files": lambda self, config: [tmp_path / "value"]})()
    assert cache.path(config, "train", unsaved) is None


def test_names_that_lead_nowhere(package):
    known = "use one of avatars, .*chosen, .*decoded, .*folder, .*gone, .*mixture, .*satellites"
    for name, message in (
        ("none_such", f"'none_such' is not a dataset: {known}.*, or package.module:Object"),
        ("gone", "dataset orbit:Gone cannot be imported .*Gone"),
        ("no.such.module:Object", "cannot be imported .*No module named 'no'"),
        (":Object", "cannot be imported"),
        ("orbit:Half", "lacks classes, count, has_captions, files, read: give it the methods of wavedp.data.Source"),
    ):
        with pytest.raises(UserError, match=message):
            source_of(name)
    assert source_of("procedural") is procedural  # a built-in name can't be taken
    assert isinstance(source_of("whole_module"), types.ModuleType)

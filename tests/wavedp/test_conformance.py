"""The conformance suites of wavedp.testing, on the built-in datasets and stores; and that they notice what is wrong."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import types
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from wavedp.config import DataConfig
from wavedp.data import from_arrays, openclipart, photographs, procedural
from wavedp.store import MANIFEST, Artifact, Store, sha256
from wavedp.testing.datasets import DatasetSuite
from wavedp.testing.stores import StoreSuite


def pictures(n: int, size: int = 12, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, channels), np.uint8)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


class TestProcedural(DatasetSuite):
    source = procedural

    def config(self, tmp_path):
        return DataConfig(name="procedural", size=16, channels=3, n_records=40, home=str(tmp_path / "home"))


class TestFolder(DatasetSuite):
    def config(self, tmp_path):
        for i, pixels in enumerate(pictures(60)):
            write(tmp_path / "set" / "ab"[i % 2] / f"{i}.png", pixels)
        return DataConfig(name="folder", size=8, path=str(tmp_path / "set"), home=str(tmp_path / "home"))


class TestFolderWithSplitsAndCaptions(DatasetSuite):
    def config(self, tmp_path):
        for i, pixels in enumerate(pictures(12)):
            path = tmp_path / "set" / ("train", "val", "test")[i % 3] / "ab"[i // 3 % 2] / f"{i}.png"
            write(path, pixels)
            path.with_suffix(".txt").write_text(f"picture {i}\nanother caption")
        return DataConfig(name="folder", size=8, channels=3, path=str(tmp_path / "set"), home=str(tmp_path / "home"))


class TestArrays(DatasetSuite):
    def config(self, tmp_path):
        captions = [f"picture {i}" for i in range(60)]
        return from_arrays(pictures(60), np.arange(60) % 3, captions, home=tmp_path / "home")


class TestOpenClipart(DatasetSuite):
    source = openclipart

    def config(self, tmp_path):
        for i, pixels in enumerate(pictures(200, channels=4)):
            write(tmp_path / "openclipart" / ("animals", "tools")[i % 2] / f"drawing_{i}_01.png", pixels)
        return DataConfig(name="openclipart", size=8, home=str(tmp_path))


class TestPhotographs(DatasetSuite):
    source = photographs

    def config(self, tmp_path):
        for name, pixels in zip(("FreshFlower", "Dune"), pictures(2, size=40), strict=True):
            write(tmp_path / "photographs" / f"{name}.jpg", pixels)
        return DataConfig(name="photographs", size=8, channels=3, home=str(tmp_path))


class TestLocalStore(StoreSuite):
    def make_store(self, tmp_path):
        return Store(str(tmp_path / "store"))


class TestMemoryStore(StoreSuite):
    def make_store(self, tmp_path):
        return Store(f"memory://{tmp_path.name}")

    @pytest.fixture(autouse=True)
    def _empty(self):
        yield
        fsspec.filesystem("memory").store.clear()


class TestS3Store(StoreSuite):
    """The API of S3, as moto speaks it on this machine; for whoever has `pip install s3fs "moto[server]"`."""

    def make_store(self, tmp_path):
        return Store(f"s3://bucket/{tmp_path.parent.name}-{tmp_path.name}")

    @pytest.fixture(scope="class", autouse=True)
    def _bucket(self):
        s3fs, server = pytest.importorskip("s3fs"), pytest.importorskip("moto.server")
        served = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
        served.start()
        place = f"http://127.0.0.1:{served.get_host_and_port()[1]}"
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {
                "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": place,
            }.items():  # fmt: skip
                patch.setenv(name, value)
            s3fs.S3FileSystem.clear_instance_cache()
            s3fs.S3FileSystem().mkdir("bucket")
            yield
        s3fs.S3FileSystem.clear_instance_cache()
        served.stop()


# --- a suite that cannot fail tests nothing ---------------------------------------------------------------------------


def failures(suite, tmp_path: Path, monkeypatch) -> set[str]:
    """The names of the suite's tests that fail."""
    found = set()
    for name in (name for name in dir(suite) if name.startswith("test_")):
        test = getattr(suite, name)
        arguments = {"tmp_path": tmp_path / name}
        (tmp_path / name).mkdir(parents=True)
        if "monkeypatch" in test.__code__.co_varnames[: test.__code__.co_argcount]:
            arguments["monkeypatch"] = monkeypatch
        try:
            test(**arguments)
        except Exception:
            found.add(name)
    return found


def broken(**changes):
    """The procedural source with some functions replaced."""
    source = types.SimpleNamespace(**{name: getattr(procedural, name) for name in dir(procedural) if name[0] != "_"})
    return types.SimpleNamespace(**{**vars(source), **changes})


def shuffled(config, split, n):
    images, labels, captions = procedural.read(config, split, n)
    order = np.random.default_rng().permutation(n)
    return images[order], labels[order], tuple(captions[i] for i in order)


def last_ones(config, split, n):
    total = procedural.count(config, split)
    images, labels, captions = procedural.read(config, split, total)
    return images[-n:], labels[-n:], captions[-n:]


def with_label_beyond(config, split, n):
    images, labels, captions = procedural.read(config, split, n)
    return images, labels + 1, captions


def some_captions(config, split, n):
    images, labels, captions = procedural.read(config, split, n)
    return images, labels, captions[:-1]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (broken(), set()),
        (broken(read=shuffled), {"test_fingerprint_is_that_of_the_content_and_stable", "test_limit_is_a_prefix"}),
        (broken(read=last_ones), {"test_limit_is_a_prefix"}),
        (broken(read=with_label_beyond), {"test_shapes_types_and_label_range"}),
        (broken(read=some_captions), {"test_captions_are_there_for_all_records_or_for_none"}),
        (broken(has_captions=lambda config: False), {"test_captions_are_there_for_all_records_or_for_none"}),
        (broken(shape=lambda config: (3, 16, 16)), {"test_impossible_size_is_refused"}),
        (broken(files=lambda config: ["no/file"]), {"test_source_is_found_by_its_name"}),
    ],
)
def test_dataset_suite_notices(source, expected, tmp_path, monkeypatch):
    source_under_test = source

    class Suite(DatasetSuite):
        source = source_under_test

        def config(self, tmp_path):
            config = TestProcedural().config(tmp_path)
            return dataclasses.replace(config, name="broken")

    found = failures(Suite(), tmp_path, monkeypatch)
    assert found >= expected
    assert bool(found) == bool(expected)


class Rewriting(Store):
    def publish(self, stage, key, draft):
        folder = f"{self.path}/{stage}/{key}"
        if self.fs.exists(folder):
            self.fs.rm(folder, recursive=True)
        return super().publish(stage, key, draft)


class Trusting(Store):
    def open(self, stage, key):
        folder = f"{self.path}/{stage}/{key}"
        if not self.has(stage, key):
            return None
        names = [path.rsplit("/", 1)[-1] for path in self.fs.ls(folder, detail=False)]
        return Artifact(key, {name: self.fs.cat_file(f"{folder}/{name}") for name in names if name != MANIFEST})


class ManifestFirst(Store):
    def publish(self, stage, key, draft):
        published = self.open(stage, key)
        if published is not None:
            return published
        folder = Path(self.path, stage, key)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).write_text(json.dumps({name: sha256(data) for name, data in draft.files.items()}))
        for name, data in draft.files.items():
            self.fs.pipe_file(str(folder / name), data)
        return Artifact(key, dict(draft.files))


class Unlocked(Store):
    def lock(self, stage, key):
        return super().lock(stage, str(np.random.default_rng().integers(1 << 30)))


class OwnLocks(Store):
    """Its locks reach one machine."""

    def _work(self):
        return Path(tempfile.gettempdir()) / "work"


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (Store, set()),
        (Rewriting, {"test_the_first_artifact_wins"}),
        (Trusting, {"test_a_corrupted_artifact_is_not_served"}),
        (
            ManifestFirst,
            {
                "test_publishing_that_is_interrupted_leaves_nothing",
                "test_of_two_that_publish_at_once_one_stays_whole",
            },
        ),
        (Unlocked, {"test_the_lock_excludes", "test_the_lock_reaches_other_machines"}),
        (OwnLocks, {"test_the_lock_reaches_other_machines"}),
    ],
)
def test_store_suite_notices(cls, expected, tmp_path, monkeypatch):
    class Suite(StoreSuite):
        def make_store(self, tmp_path):
            return cls(str(tmp_path / "store"))

    assert failures(Suite(), tmp_path, monkeypatch) == expected

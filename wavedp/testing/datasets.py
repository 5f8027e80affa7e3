"""Tests that every dataset must pass. For one of your own:

    class TestSatellites(DatasetSuite):
        source = satellites                      # a module or an object; leave it out if `config` names it already

        def config(self, tmp_path):
            return DataConfig(name="satellites", size=32, channels=3, home=str(tmp_path))

pytest then runs every test of the suite on it.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np

from wavedp import data
from wavedp.config import DataConfig
from wavedp.data import decoded
from wavedp.data.dataset import Dataset, Split, content_fingerprint
from wavedp.data.export import export_decoded
from wavedp.errors import UserError


class DatasetSuite:
    """Subclass it, and give `config(tmp_path)`: a config without `limit` and with at least two records in each split.

    source: a module or object with the methods of `wavedp.data.Source`, for a dataset that `config(...).name`
    does not lead to (`wavedp.data.source_of`).
    """

    source: ClassVar[Any] = None

    def config(self, tmp_path: Path) -> DataConfig:
        """The dataset under test; a test may call this once, to write files below `tmp_path`."""
        raise NotImplementedError("give config(tmp_path) in your subclass")

    def test_source_is_found_by_its_name(self, tmp_path: Path, monkeypatch: Any) -> None:
        config = self._config(tmp_path, monkeypatch)
        source = data.source_of(config.name)
        assert self.source is None or source is self.source
        assert all(isinstance(file, Path) and file.is_file() for file in source.files(config)), "files() lists files"

    def test_shapes_types_and_label_range(self, tmp_path: Path, monkeypatch: Any) -> None:
        config = self._config(tmp_path, monkeypatch)
        names = data.source_of(config.name).classes(config)
        assert names, "a dataset has at least one class"
        assert len(set(names)) == len(names), "class names differ"
        assert data.n_classes(config) == len(names)
        assert data.shape(config) == (config.channels, config.size, config.size)
        for split, loaded in _splits(config):
            n = data.n_records(config, split)
            assert n >= 2, f"{split} has {n} records: the suite needs two"
            assert (loaded.images.dtype, loaded.labels.dtype) == (np.uint8, np.int64)
            assert loaded.images.shape == (n, *data.shape(config))
            assert loaded.labels.shape == (n,)
            assert loaded.labels.min() >= 0
            assert loaded.labels.max() < len(names), "labels are indices into classes()"
            assert (loaded.name, loaded.split, loaded.classes) == (config.name, split, tuple(names))
        assert data.n_records(config, "train"), "a dataset has a train split"

    def test_fingerprint_is_that_of_the_content_and_stable(self, tmp_path: Path, monkeypatch: Any) -> None:
        config = self._config(tmp_path, monkeypatch)
        for split, first in _splits(config):
            assert first.fingerprint == content_fingerprint(first.images, first.labels, first.captions)
            assert data.fingerprint(config, split) == first.fingerprint
            again = data.load(config, split)
            assert np.array_equal(again.images, first.images), "loading twice gives the same images"
            shutil.rmtree(Path(config.home, "decoded"), ignore_errors=True)
            assert data.load(config, split).fingerprint == first.fingerprint, "decoding twice gives the same records"

    def test_limit_is_a_prefix(self, tmp_path: Path, monkeypatch: Any) -> None:
        config = self._config(tmp_path, monkeypatch)
        for split, whole in _splits(config):
            k = len(whole.labels) // 2
            limited = dataclasses.replace(config, limit=k)
            part = data.load(limited, split)
            assert data.n_records(limited, split) == k
            assert np.array_equal(part.images, whole.images[:k])
            assert np.array_equal(part.labels, whole.labels[:k])
            assert part.captions == (None if whole.captions is None else whole.captions[:k])
            assert part.classes == whole.classes, "a limit leaves the classes as they are"
            value = content_fingerprint(part.images, part.labels, part.captions)
            assert data.fingerprint(limited, split) == part.fingerprint == value
            for limit in (0, len(whole.labels) + 1):
                outside = dataclasses.replace(config, limit=limit)
                for ask in (data.load, data.fingerprint, data.n_records):
                    _assert_refused(ask, outside, split)

    def test_captions_are_there_for_all_records_or_for_none(self, tmp_path: Path, monkeypatch: Any) -> None:
        config = self._config(tmp_path, monkeypatch)
        for _, loaded in _splits(config):
            assert (loaded.captions is not None) == data.has_captions(config), "has_captions() says what load() gives"
            if loaded.captions is not None:
                assert len(loaded.captions) == len(loaded.labels)
                assert all(isinstance(caption, str) for caption in loaded.captions)

    def test_unknown_and_absent_splits_are_refused(self, tmp_path: Path, monkeypatch: Any) -> None:
        config = self._config(tmp_path, monkeypatch)
        present = {split for split, _ in _splits(config)}
        for split in {*get_args(Split), "validation"} - present:
            for ask in (data.load, data.fingerprint, data.n_records):
                _assert_refused(ask, config, split)

    def test_impossible_size_is_refused(self, tmp_path: Path, monkeypatch: Any) -> None:
        config = self._config(tmp_path, monkeypatch)
        _assert_refused(data.load, dataclasses.replace(config, size=0), "train")

    def test_decoded_file_has_the_same_fingerprints(self, tmp_path: Path, monkeypatch: Any) -> None:
        config = self._config(tmp_path, monkeypatch)
        file = tmp_path / "elsewhere" / f"copy{decoded.SUFFIX}"
        export_decoded(config, file)
        copy = dataclasses.replace(config, name="decoded", split="official", path=str(file))
        for split, original in _splits(config):
            assert data.fingerprint(copy, split) == original.fingerprint
            assert data.load(copy, split).captions == original.captions

    def _config(self, tmp_path: Path, monkeypatch: Any) -> DataConfig:
        config = self.config(tmp_path)
        if self.source is not None:
            monkeypatch.setitem(data.SOURCES, config.name, self.source)
        lacking = [name for name in data.ANSWERS if not callable(getattr(data.source_of(config.name), name, None))]
        assert not lacking, f"the source lacks {', '.join(lacking)}"
        return config


def _splits(config: DataConfig) -> Iterator[tuple[Split, Dataset]]:
    """Every split that the dataset has."""
    for split in get_args(Split):
        try:
            data.n_records(config, split)
        except UserError:
            continue
        yield split, data.load(config, split)


def _assert_refused(ask: Callable[..., Any], *arguments: Any) -> None:
    try:
        answer = ask(*arguments)
    except UserError as error:
        if str(error).strip():
            return
        raise AssertionError(f"{ask.__name__}{arguments} was refused without a word") from error
    raise AssertionError(f"{ask.__name__}{arguments} gave {answer!r} where a UserError was due")

"""Datasets made of others: order, labels, captions, files, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_config import composed

from wavedp import checks, data
from wavedp.config import DataConfig, PrivacyConfig, TrialConfig, from_dict, to_dict
from wavedp.data import decoded, mixture, overlap
from wavedp.data.export import export_decoded
from wavedp.errors import UserError
from wavedp.fields import identity, without_infinity
from wavedp.testing.datasets import DatasetSuite


def numbered(home: Path, n: int = 40, seed: int = 0) -> str:
    """The path of a decoded file of n images in two classes, with captions."""
    images = np.random.default_rng(seed).integers(0, 256, (n, 8, 8), np.uint8)
    captions = [f"picture {i}" for i in range(n)]
    labels = np.arange(n) % 2
    return data.from_arrays(images, labels, captions, classes=("even", "odd"), home=home / "made").path


def folder(root: Path, n: int = 10, seed: int = 5) -> str:
    """The path of a folder of n pictures in each split, one class, no captions."""
    for split in ("train", "test"):
        for i, pixels in enumerate(np.random.default_rng([seed, len(split)]).integers(0, 256, (n, 8, 8), np.uint8)):
            file = root / split / "thing" / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    return str(root)


def mixed(tmp_path: Path, parts, **more) -> DataConfig:
    return DataConfig(**{"name": "mixture", "size": 8, "parts": parts, "home": str(tmp_path / "home"), **more})


class TestMixture(DatasetSuite):
    def config(self, tmp_path):
        return mixed(tmp_path, {numbered(tmp_path): 20, "procedural": 30, folder(tmp_path / "drawings"): None})


class TestMixtureByShares(DatasetSuite):
    def config(self, tmp_path):
        return mixed(tmp_path, {"procedural": 0.5, folder(tmp_path / "drawings"): 0.25})


def test_labels_captions_files_and_licences_are_those_of_the_parts(tmp_path):
    file, root = numbered(tmp_path), folder(tmp_path / "drawings")
    config = mixed(tmp_path, {file: 20, "procedural": 30, root: None})
    made, label = data.load(config, "train"), Path(file).name.removesuffix(decoded.SUFFIX)
    assert made.classes[:3] == (f"{label}/even", f"{label}/odd", "procedural/disk")
    assert made.classes[-1] == "drawings"
    alone = data.load(mixed(tmp_path, (), name="decoded", path=file, limit=20), "train")
    rows = np.flatnonzero(made.labels < 2)
    assert np.array_equal(made.images[rows], alone.images)
    assert np.array_equal(made.labels[rows], alone.labels)
    assert tuple(made.captions[i] for i in rows) == alone.captions
    own = np.flatnonzero(made.labels == len(made.classes) - 1)
    assert {made.captions[i] for i in own} == {"thing"}, "a record without caption has its class's name"
    files = data.record_files(config, "train")
    assert [i for i, each in enumerate(files) if each] == own.tolist()
    assert [each for each in files if each] == data.record_files(mixed(tmp_path, (), name="folder", path=root), "train")
    said = {"procedural": "Apache-2.0 (this code computes them)"}
    parts = [f"{name}: {said.get(name, 'not stated')}" for name in (label, "procedural", "drawings")]
    assert data.licence(config) == "; ".join(parts)
    assert data.licences(config, "train")[own[0]] == "not stated"
    assert data.licences(config, "train").count(said["procedural"]) == 30


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_every_prefix_has_its_share_of_each_part(lengths):
    order = mixture.interleaved(lengths)
    assert sorted(map(tuple, order.tolist())) == [(k, i) for k, n in enumerate(lengths) for i in range(n)]
    for k, n in enumerate(lengths):
        assert order[order[:, 0] == k, 1].tolist() == list(range(n)), "a part's records keep their order"
        so_far = np.cumsum(order[:, 0] == k)
        fair = np.arange(1, len(order) + 1) * n / len(order)
        assert np.abs(so_far - fair).max() <= 1 + len(lengths) / 2


def test_numbers_are_of_the_train_split_and_shares_of_the_mixture(tmp_path):
    file = numbered(tmp_path, n=100)
    whole = mixed(tmp_path, (), name="decoded", path=file)
    train, test = data.n_records(whole, "train"), data.n_records(whole, "test")
    assert train > 4 * test > 0
    half = mixed(tmp_path, {file: train // 2, "procedural": 512})
    assert mixture.counts(half, "train") == [train // 2, 512]
    assert mixture.counts(half, "test") == [round(test * (train // 2) / train), 128]
    assert mixture.counts(mixed(tmp_path, {file: None, "procedural": None}), "test") == [test, 512]
    shares = mixed(tmp_path, {file: 0.25, "procedural": 0.25}, n_records=40)
    assert mixture.counts(shares, "train") == [40, 40]


def test_parts_are_read_from_every_form_and_are_part_of_the_identity():
    wanted = (("openclipart", 5), ("icons", 0.5), ("emoji", None))
    for given_ in (dict(wanted), wanted, [list(pair) for pair in wanted], {**dict(wanted), "photographs": 0}):
        assert DataConfig(name="mixture", parts=given_).parts == wanted
        assert from_dict(TrialConfig, {"public": {"name": "mixture", "parts": given_}}).public.parts == wanted
    config = DataConfig(name="mixture", parts=wanted)
    assert from_dict(DataConfig, json.loads(json.dumps(without_infinity(to_dict(config))))) == config
    assert hash(config) == hash(DataConfig(name="mixture", parts=dict(wanted)))
    assert identity(config)["parts"] == [["openclipart", 5], ["icons", 0.5], ["emoji", None]]
    assert not {"parts", "names", "per_name", "named_share"} & set(identity(DataConfig())), "in no key of older studies"
    values = composed("data@public=mixture", "++public.parts.photographs=0", "++public.parts.procedural=7")["public"]
    assert dict(from_dict(DataConfig, values).parts) == {"openclipart": None, "procedural": 7}


@pytest.mark.parametrize("parts", [5, "icons", ["icons"], {"icons": -1}, {"icons": True}, {"icons": 1.5}, {3: 1}])
def test_what_are_no_parts_is_refused(parts):
    with pytest.raises(UserError, match=r"public\.parts=.* are no parts: write \{dataset: number\}"):
        from_dict(TrialConfig, {"public": {"name": "mixture", "parts": parts}})


@pytest.mark.parametrize(
    ("parts", "more", "words"),
    [
        ((), {}, "data.name=mixture has no parts: name some"),
        ({"photographs": 5}, {}, "photographs is not in .*: run `python -m wavedp.data.get photographs --home"),
        ({"procedural": 2049}, {}, "2049 records of procedural, whose train split has 2048: use up to 2048, or null"),
        ({"procedural": 5, "folder": 0.5}, {"path": "x"}, "has shares and numbers of records"),
        ({"some/folder": 5}, {}, "the part some/folder is no whole path: write it from the root"),
        ({"no_such": 5}, {}, "data.name='no_such' is not a dataset"),
        ({"fashion_mnist": 5}, {"channels": 3}, "fashion_mnist is grey and 28x28"),
        ({"procedural": 5}, {"name": "openclipart"}, "data.parts is not read by openclipart: use mixture or chosen"),
    ],
)
def test_bad_parts_get_one_sentence(parts, more, words, tmp_path):
    config = mixed(tmp_path, dict(parts), **more)
    if "folder" in dict(parts):
        config = mixed(tmp_path, {"procedural": 5, folder(tmp_path / "drawings"): 0.5})
    for ask in (data.load, data.fingerprint):
        with pytest.raises(UserError, match=words):
            ask(config, "train")


def test_a_split_that_a_part_lacks_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no val split"):
        data.load(mixed(tmp_path, {"procedural": 5, folder(tmp_path / "drawings"): None}), "val")


def test_two_parts_of_one_name_are_refused(tmp_path):
    one, other = (folder(tmp_path / place / "drawings", seed=i) for i, place in enumerate("ab"))
    with pytest.raises(UserError, match="two parts of the mixture have a class drawings: rename one"):
        data.load(mixed(tmp_path, {one: None, other: None}), "train")


def test_the_kept_copy_follows_the_parts(tmp_path):
    config = mixed(tmp_path, {"procedural": 5, folder(tmp_path / "drawings"): None})
    before = data.load(config, "train")
    assert data.fingerprint(config, "train") == before.fingerprint
    folder(tmp_path / "drawings", seed=6)
    after = data.load(config, "train")
    assert data.fingerprint(config, "train") == after.fingerprint != before.fingerprint
    own = after.labels == len(after.classes) - 1
    assert np.array_equal(before.images[~own], after.images[~own])


def test_a_decoded_file_stands_in_for_a_mixture_whose_parts_are_not_there(tmp_path):
    root = folder(tmp_path / "drawings")
    config = mixed(tmp_path, {"procedural": 5, root: None})
    wanted = data.fingerprint(config, "train")
    export_decoded(config, tmp_path / "home" / f"any{decoded.SUFFIX}")
    shutil.rmtree(root)
    assert data.fingerprint(config, "train") == wanted


def test_a_sensitive_record_in_a_part_is_refused(tmp_path):
    """By its pixels, and by its file whatever it is decoded to; a part without files does not shift the others'."""
    root = folder(tmp_path / "drawings")
    sensitive = DataConfig(name="folder", size=8, channels=1, path=folder(tmp_path / "own", seed=9), home=str(tmp_path))
    public = mixed(tmp_path, {"procedural": 30, root: None})
    overlap.refuse_shared(sensitive, [(dataclasses.replace(public, cache="before"), "train")])
    shutil.copy(tmp_path / "own" / "train" / "thing" / "3.png", tmp_path / "drawings" / "train" / "thing" / "x.png")
    words = r"1 of 41 public images \(mixture, train\) .*drawings/train/thing/x\.png = .*own/train/thing/3\.png"
    with pytest.raises(UserError, match=words):
        checks.check(
            TrialConfig(data=sensitive, public=public, upscaler="bicubic", privacy=PrivacyConfig(batch_size=2))
        )

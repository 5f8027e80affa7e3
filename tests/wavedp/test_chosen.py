"""Public images chosen by the names of the private classes, and generators that keep what they learned of these."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_config import composed

from wavedp import chain, checks, data, methods
from wavedp.config import DataConfig, TrialConfig, configure, from_dict
from wavedp.data import nearest
from wavedp.errors import UserError
from wavedp.generators.conditions import forget_classes, keep_classes
from wavedp.generators.spectral_ar.model import SpectralARModel
from wavedp.progress import silent
from wavedp.testing.datasets import DatasetSuite
from wavedp.tokenizers import untrained

NAMES = ("Apple/pear", "Car")
CAPTIONS = ["red apple", "a pear", "icon: green apples", "old car", "a sports car", "icon: truck", "logo: apple"]
OTHERS = ["thunderstorm", "mathematics", "a violin", "the moon", "democracy", "a staircase"]


def pictures(home, n=40) -> str:
    """The path of a decoded file: the pictures of CAPTIONS, then n others; test has one of each caption."""
    captions = CAPTIONS + [OTHERS[i % len(OTHERS)] for i in range(n)]
    images = np.random.default_rng(0).integers(0, 256, (len(captions), 8, 8), np.uint8)
    test = CAPTIONS + OTHERS
    tests = np.random.default_rng(1).integers(0, 256, (len(test), 8, 8), np.uint8)
    labels, test_labels = (np.arange(len(each)) % 2 for each in (captions, test))
    return data.from_arrays(
        images,
        labels,
        captions,
        test_images=tests,
        test_labels=test_labels,
        test_captions=test,
        classes=("even", "odd"),
        home=home / "made",
    ).path


def config(tmp_path, **more) -> DataConfig:
    values = {"parts": {pictures(tmp_path): None}, "names": NAMES, "per_name": 3, **more}
    return DataConfig(**{"name": "chosen", "size": 8, "home": str(tmp_path / "home"), **values})


class TestChosen(DatasetSuite):
    def config(self, tmp_path):
        return config(tmp_path)


@pytest.fixture
def few(monkeypatch):
    """Classes of fewer than LEAST say get one record, so that small sets are like large ones."""
    monkeypatch.setattr(nearest, "FEWEST", 1)


def test_the_nearest_captions_bear_the_names_and_the_rest_keep_their_labels(tmp_path, few):
    made = data.load(config(tmp_path), "train")
    whole = data.load(dataclasses.replace(config(tmp_path), name="mixture", names=()), "train")
    assert made.classes[:2] == NAMES
    assert made.classes[2:] == whole.classes
    named = made.labels < 2
    said = [{made.captions[i] for i in np.flatnonzero(made.labels == k)} for k in range(2)]
    assert said == [{"red apple", "a pear", "icon: green apples"}, {"old car", "a sports car", "icon: truck"}]
    place = {image.tobytes(): i for i, image in enumerate(whole.images)}
    for i in range(len(made.labels)):
        before = place[made.images[i].tobytes()]
        assert made.captions[i] == whole.captions[before]
        assert named[i] or made.labels[i] == whole.labels[before] + 2
    others = [place[image.tobytes()] for image in made.images[~named]]
    assert len(set(others)) == len(others) == len(whole.labels) - 6, "all others once, and none of those chosen"
    assert CAPTIONS[6] in [made.captions[i] for i in np.flatnonzero(~named)], "a logo shows no apple"


def test_other_words_are_sought_in_place_of_a_name(tmp_path, few):
    asked = config(tmp_path, names=("Xyzzy", "Car"), words={"Xyzzy": "apple/pear", "Boat": "ship"})
    usual = data.load(config(tmp_path), "train")
    made = data.load(asked, "train")
    assert made.classes[0] == "Xyzzy"
    assert np.array_equal(made.labels, usual.labels)
    assert np.array_equal(made.images, usual.images)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_named_images_are_the_given_share_of_any_prefix(share, tmp_path, few):
    asked = config(tmp_path, named_share=share)
    made = data.load(asked, "train")
    unnamed = dataclasses.replace(asked, names=())
    assert len(made.labels) == round(47 / (1 - share)) == data.n_records(unnamed, "train")
    named = made.labels < 2
    assert named.sum() == round(47 / (1 - share)) - 41, "all others are kept"
    counts = np.bincount(made.labels[named])
    assert counts.max() - counts.min() <= 1, "the classes in equal parts"
    half = named[: len(named) // 2]
    assert abs(half.mean() - named.mean()) <= 2 / len(half)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 30), st.integers(1, 9), st.integers(0, 5))
def test_no_record_is_given_to_two_names_and_none_to_a_farther_one(n_names, n_records, per_name, seed):
    cosines = np.random.default_rng(seed).uniform(0.2, 1, (n_names, n_records)).astype(np.float32)
    found = nearest.assigned(cosines, per_name)
    taken = [record for group in found for record in group]
    assert len(set(taken)) == len(taken)
    for name, group in enumerate(found):
        assert group == sorted(group)
        assert len(group) <= per_name
        near = [record for record in group if cosines[name, record] >= nearest.LEAST]
        assert len(group) <= max(len(near), nearest.FEWEST)
        left = set(range(n_records)) - set(taken)
        if len(group) < min(per_name, nearest.FEWEST):
            assert not left, "a name with too few has left nothing"
        if left and group:
            assert max(cosines[name, i] for i in left) <= min(cosines[name, i] for i in group) or len(group) < per_name


def test_words_of_names_and_captions():
    assert nearest.words_of("T-shirt/top") == ["t shirt", "top"]
    assert nearest.words_of("7") == ["7"]
    assert nearest.shown_by("icon: T-shirt_02\nanother") == "t shirt"
    assert nearest.shown_by("a red apple, half") == "a red apple half"
    assert nearest.shown_by("icon: 24") == "icon"
    assert nearest.shown_by("logo: boots") == nearest.shown_by("logos: boots") == ""
    assert nearest.shown_by("logical operator") == "logical operator"


def test_repetitions_are_other_variants_and_only_wanted_pictures_are_drawn(tmp_path, monkeypatch, few):
    drawn: list[int] = []

    def pick(config, split, places):
        drawn.extend(places)
        images = np.array(places)[:, None, None, None] * np.ones((1, 8, 8))
        return images.astype(np.uint8), np.zeros(len(places), np.int64), None

    captions = [*CAPTIONS, *OTHERS]
    source = SimpleNamespace(
        __name__=__name__,
        shape=lambda config: (1, 8, 8),
        classes=lambda config: ("thing",),
        count=lambda config, split: len(captions) * config.variants,
        has_captions=lambda config: True,
        files=lambda config: [tmp_path / "file"],
        captions=lambda config, split: captions * config.variants,
        read=lambda config, split, n: pytest.fail("nothing else is drawn"),
        pick=pick,
    )
    (tmp_path / "file").touch()
    monkeypatch.setitem(data.SOURCES, "variable", source)
    asked = config(tmp_path, parts={"variable": 4}, variants=3, named_share=0.9)
    made = data.load(asked, "train")
    assert len(made.labels) == 40
    places = made.images[:, 0, 0, 0]
    apples = places[made.labels == 0]
    assert set(apples) == {place + 13 * variant for place in (0, 1, 2) for variant in range(3)}
    assert np.bincount(apples)[[0, 13, 26]].max() - np.bincount(apples)[[0, 13, 26]].min() <= 1
    assert set(places[made.labels == 2]) <= {0, 1, 2, 3}, "the mixture takes four, beyond them only what is named"
    assert set(drawn) == set(places.tolist())


def sensitive(n=40) -> SimpleNamespace:
    """A data set of the names whose images nobody may see."""
    return SimpleNamespace(
        __name__=__name__,
        shape=lambda config: (1, 8, 8),
        classes=lambda config: NAMES,
        count=lambda config, split: n,
        has_captions=lambda config: False,
        files=lambda config: [],
        read=lambda *_: pytest.fail("a sensitive image was read"),
    )


def test_the_names_are_those_of_the_trials_data_and_no_sensitive_image_is_read(tmp_path, monkeypatch, few):
    monkeypatch.setitem(data.SOURCES, "secret", sensitive())
    trial = TrialConfig(
        data=DataConfig(name="secret", size=8), public=config(tmp_path, names=()), upscaler="bicubic", level=1
    )
    ready = methods.canonical(trial)
    assert ready.public == config(tmp_path)
    assert methods.canonical(ready) is ready
    assert chain.public_reads(trial) == [(ready.public, "train")]
    assert data.load(ready.public, "train").classes[:2] == NAMES
    assert methods.unread(trial) == []
    keeping = dataclasses.replace(trial, generator=configure("generator", "public", public_classes="keep"))
    assert methods.generator(keeping).check(keeping) == []


def test_names_that_are_given_stay(tmp_path):
    trial = TrialConfig(data=DataConfig(name="procedural", size=8), public=config(tmp_path), upscaler="bicubic")
    assert methods.canonical(trial).public.names == NAMES


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"names": ()}, "data.name=chosen has no names to choose by: give data.names, or use it as a trial's public"),
        ({"duplicates": "merge"}, "data.duplicates=merge would take out what public=chosen repeats"),
        ({"name": "procedural", "parts": ()}, "data.names is not read by procedural: use chosen, or leave it out"),
    ],
)
def test_bad_inputs_get_one_sentence(more, words, tmp_path):
    with pytest.raises(UserError, match=words):
        data.load(config(tmp_path, **more), "train")


def test_parts_without_captions_and_names_that_are_classes_already_are_refused(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8)
    plain = data.from_arrays(images, home=tmp_path / "made").path
    with pytest.raises(UserError, match="no part of public=chosen has captions"):
        data.load(config(tmp_path, parts={plain: None}), "train")
    with pytest.raises(UserError, match="procedural/disk is a name to choose by and a class of the mixture"):
        data.load(config(tmp_path, parts={"procedural": 20}, names=("procedural/disk",)), "train")
    for names in ("Bag", ["Bag", "Bag"], ["Bag", 3], [" "]):
        with pytest.raises(UserError, match=r"public\.names=.* are no names of classes: write a list"):
            from_dict(TrialConfig, {"public": {"name": "chosen", "names": names}})
    for words in ("sweater", {"Pullover": 3}, ["Pullover"]):
        with pytest.raises(UserError, match=r"public\.words=.* are no words: write"):
            from_dict(TrialConfig, {"public": {"name": "chosen", "words": words}})


def test_the_shipped_files_are_read():
    public = from_dict(DataConfig, composed("data@public=chosen")["public"])
    assert dict(public.words)["Pullover"] == "sweater/cardigan/long sleeve shirt"
    parts = {"openclipart": None, "icons": 40000, "emoji": None}
    assert dataclasses.replace(public, words=()) == DataConfig(name="chosen", parts=parts, per_name=50)


# --- a generator that keeps what it learned of the named classes ------------------------------------------------------


def trained(keep: bool, steps: int = 3):
    """(weights, as adapted; n of private classes 2) of a model that saw five public classes."""
    settings = {"width": 16, "depth": 1, "heads": 2, "pretrain_steps": steps, "pretrain_batch": 8}
    generator = configure("generator", "spectral_ar", public_classes="keep" if keep else "forget", **settings)
    tokenizer = untrained(configure("tokenizer", "scalar"), (1, 8, 8), 0)
    model = SpectralARModel(generator, tokenizer, tokenizer, 2, "cpu")
    torch.manual_seed(0)
    return model.fit_public(torch.rand(30, 1, 8, 8), torch.arange(30) % 5, 0, silent)


def test_the_named_classes_keep_their_embeddings():
    table = torch.arange(12.0).view(6, 2)  # five classes and none
    weights = {"condition.table.weight": table, "other": torch.ones(1)}
    kept = keep_classes(weights, 2)
    assert torch.equal(kept["condition.table.weight"], table[[0, 1, 5]])
    assert kept["other"] is weights["other"]
    forgotten, named = trained(keep=False), trained(keep=True)
    rows, mean = named["condition.table.weight"], forgotten["condition.table.weight"]
    assert rows.shape == mean.shape == (3, 16)
    assert torch.equal(mean[0], mean[1])
    assert not torch.equal(rows[0], rows[1])
    for name in set(named) - {"condition.table.weight"}:
        assert torch.equal(named[name], forgotten[name]), "both learn the same"
    assert torch.equal(forget_classes(weights, 2)["condition.table.weight"][0], table[:5].mean(0))


def with_generator(public, **values) -> TrialConfig:
    return TrialConfig(
        data=DataConfig(name="procedural", size=8, n_records=200),
        public=public,
        generator=configure("generator", "spectral_ar", public_classes="keep", **values),
        upscaler="bicubic",
    )


@pytest.mark.parametrize(
    ("public", "values", "words"),
    [
        (None, {}, "public=null has none"),
        (DataConfig(name="procedural", size=8, split="public"), {"pretrain_steps": 0}, "pretrain_steps=0 has none"),
        (
            DataConfig(name="procedural", size=8, split="public"),
            {"conditioning": "text"},
            "generator.conditioning=text has none",
        ),
        (
            DataConfig(name="mixture", size=8, split="public", parts={"procedural": 40}),
            {},
            r"classes that begin with those of procedural \(disk, square, triangle, …\), and mixture begins with "
            "procedural/disk, .*: use public=chosen, or public_classes=forget",
        ),
    ],
)
def test_keep_is_refused_where_there_is_nothing_to_keep(public, values, words):
    trial = with_generator(public, **values)
    with pytest.raises(UserError, match=words):
        methods.generator(trial).check(trial)


def test_keep_is_taken_where_the_classes_are_the_private_ones():
    public = DataConfig(name="procedural", size=8, split="public")
    assert checks.check(with_generator(public)) is not None
    keys = chain.keys(with_generator(public))
    forgetting = dataclasses.replace(with_generator(public), generator="spectral_ar")
    assert chain.keys(forgetting)["pretrain"] != keys["pretrain"]
    assert chain.keys(forgetting)["tokenizer"] == keys["tokenizer"]

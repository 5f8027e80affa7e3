"""Metrics as methods: what a trial asks for beyond the usual, and what that changes in keys, ledger and results."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_metrics import Brightness
from PIL import Image

from wavedp import chain, metrics, registry, stages
from wavedp.config import DataConfig, MetricsConfig, SamplingConfig, TrialConfig, configure, from_dict, to_dict
from wavedp.errors import UserError
from wavedp.metrics import Given, features, suite
from wavedp.metrics import __main__ as command
from wavedp.metrics import check as check_metrics
from wavedp.metrics.frechet import frechet_distance_of
from wavedp.metrics.memorisation import memorisation
from wavedp.metrics.views import draw
from wavedp.store import Store
from wavedp.testing.metrics import see_patches

OWN = "odd_metrics:Brightness"
SMALL = MetricsConfig(fid_samples=10, reference_samples=110, kid=False, floor=False, downstream_steps=0)
COUNTS = {"train": 400, "val": 150, "test": 150}


def trial(**changes):
    """Resampled real images of a computed set, measured by `metrics` with changes."""
    return TrialConfig(
        level=0,
        data=DataConfig("procedural", n_records=1200, size=16),
        public=None,
        generator="real",
        sampling=SamplingConfig(n=24),
        upscaler="identity",
        metrics=dataclasses.replace(SMALL, **changes),
    )


def given(**changes):
    """What a trial of 60 samples would have."""
    return Given(dataclasses.replace(SMALL, **changes), COUNTS.__getitem__, 60)


@pytest.fixture
def patches(monkeypatch):
    see_patches(monkeypatch)
    return features.extract


# Asking


def test_a_trial_asks_by_name_by_section_and_by_place():
    asked = ["prdc", {"name": "prdc", "k": 3}, {"name": OWN}]
    config = from_dict(MetricsConfig, {"also": asked})
    assert [type(own).__name__ for own in config.also] == ["PRDCConfig", "PRDCConfig", "BrightnessConfig"]
    assert from_dict(MetricsConfig, to_dict(config)) == config == MetricsConfig(also=config.also)
    assert [metric.name for metric in metrics.asked(config)] == [
        "fid",
        "kid",
        "floor",
        "acc",
        "prdc",
        "prdc",
        "brightness",
    ]
    with pytest.raises(UserError, match=r"metric\.k is not read by metric=spectrum: prdc reads it"):
        configure("metric", "spectrum", k=3)


def test_a_section_for_a_usual_metric_takes_its_place():
    config = MetricsConfig(also=(configure("metric", "kid", subsets=7), "prdc"))
    assert [metric.name for metric in metrics.asked(config)] == ["fid", "kid", "floor", "acc", "prdc"]
    assert metrics.chosen(config)[1][1].subsets == 7


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"also": ("prdc", "prdc")}, "asks twice for precision_clean_10_test110"),
        ({"also": ("memorised",), "reference_split": "train"}, "reference_split=train: use test"),
        ({"also": ("memorised",), "reference_samples": 99}, "needs 100 held-out images, and 99"),
        ({"also": ("fd",)}, r"set metrics\.second_network"),
        ({"also": ("acc",)}, "needs a classifier"),
        ({"also": ("text",)}, "needs a CLIP model"),
        ({"also": (configure("metric", "prdc", k=10),)}, "k=10 and 10 images has no neighbours: use k from 1 to 9"),
        ({"also": ("diversity",), "fid_samples": 3}, "3 images have no two pairs"),
        (
            {"also": (configure("metric", "diversity", real=True),), "reference_samples": 3},
            "3 images have no two pairs",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before(patches, changes, words):
    check_metrics(given())
    with pytest.raises(UserError, match=words):
        check_metrics(given(**changes))


# Keys


def test_keys_hold_what_is_asked_and_only_where_it_is_read():
    plain = chain.keys(trial())
    real_ones = {
        name: chain.keys(trial(also=(name,))) for name in ("prdc", "spectrum", "memorised", "fid_infinity", OWN)
    }
    blind = chain.keys(trial(also=("diversity",)))
    for name, keys in real_ones.items():
        assert {stage for stage in keys if keys[stage] != plain[stage]} == {"reference", "evaluate"}, name
    assert {stage for stage in blind if blind[stage] != plain[stage]} == {"evaluate"}, "it sees no real image"
    assert len({keys["reference"] for keys in real_ones.values()}) == len(real_ones)
    three = chain.keys(trial(also=(configure("metric", "prdc", k=3),)))
    assert three["evaluate"] != real_ones["prdc"]["evaluate"]


def test_the_content_of_files_is_in_the_key_and_paths_are_not(tmp_path):
    for folder, weights in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.safetensors").write_bytes(weights)

    def keys(folder, texts):
        (tmp_path / "texts").write_text(texts)
        text = configure("metric", "text", clip=str(tmp_path / folder), texts=str(tmp_path / "texts"))
        return chain.keys(trial(also=(text,)))

    one, same, other, told = keys("a", "x"), keys("b", "x"), keys("c", "x"), keys("a", "yy")
    assert one == same
    assert len({found["evaluate"] for found in (one, other, told)}) == 3
    assert one["reference"] == other["reference"] == chain.keys(trial())["reference"], "it sees no real image"


def test_texts_are_those_of_a_file_or_of_prompts(monkeypatch, tmp_path, patches):
    monkeypatch.setattr("wavedp.metrics.alignment.load", lambda folder, device: None)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "texts").write_text("a\n" * 59)
    from_prompts = given(also=(configure("metric", "text", clip=str(tmp_path)),))
    check_metrics(dataclasses.replace(from_prompts, described=True))
    with pytest.raises(UserError, match="not sampled from prompts"):
        check_metrics(from_prompts)
    from_file = configure("metric", "text", clip=str(tmp_path), texts=str(tmp_path / "texts"))
    with pytest.raises(UserError, match="60 images and 59 texts"):
        check_metrics(given(also=(from_file,)))
    (tmp_path / "texts").write_text("a\n" * 60)
    check_metrics(given(also=(from_file,)))


def test_a_metrics_data_are_in_the_key(monkeypatch):
    """Other training images, another reference of memorised: and of no other metric."""
    before = {name: chain.keys(trial(also=(name,)))["reference"] for name in ("memorised", "prdc")}
    ask = chain.fingerprint
    monkeypatch.setattr(chain, "fingerprint", lambda config, split: f"{ask(config, split)}{split == 'train'}")
    monkeypatch.setattr(chain, "n_records", lambda config, split: 1200)
    after = {name: chain.keys(trial(also=(name,)))["reference"] for name in ("memorised", "prdc")}
    assert metrics.reference_data(trial(also=("memorised",))) == [(trial().data, "test"), (trial().data, "train")]
    assert metrics.reference_data(trial(also=("prdc",))) == [(trial().data, "test")]
    assert after["memorised"] != before["memorised"]


def test_a_raised_version_makes_only_that_metric_again(monkeypatch):
    before = chain.keys(trial(also=("diversity",))), chain.keys(trial(also=("prdc",)))
    monkeypatch.setattr(type(registry.find("metric", "diversity")), "version", 2)
    diverse, others = chain.keys(trial(also=("diversity",))), chain.keys(trial(also=("prdc",)))
    assert others == before[1]
    assert {stage for stage in diverse if diverse[stage] != before[0][stage]} == {"evaluate"}


def test_chain_stages_and_sweeps_know_no_metric_by_name():
    root = Path(chain.__file__).parents[1]
    names = "|".join([*registry.BUILT_IN["metric"], "cnn", "dpimagebench"])
    for path in (root / "wavedp/chain.py", root / "wavedp/stages.py", root / "sweeps/study.py"):
        source = re.sub(r'"text"', "", path.read_text())  # what a generator is conditioned on
        assert not re.findall(rf'"({names})"', source), path


# Ledger


@pytest.mark.parametrize("kid", [True, False])
@pytest.mark.parametrize("steps", [400, 0])
@pytest.mark.parametrize("second", [None, "effnetlite0"])
def test_the_usual_look_is_said_as_ever(kid, steps, second):
    config = MetricsConfig(kid=kid, downstream_steps=steps, second_network=second, reference_split="val")
    said = "evaluation on the val split (FID and KID statistics, downstream test)"
    assert metrics.looks(config) == [(said, "val")]
    assert metrics.looks(dataclasses.replace(config, also=("diversity",))) == [(said, "val")]
    elsewhere = "evaluation on the val split (FID and KID statistics, downstream test on the test split)"
    assert metrics.looks(dataclasses.replace(config, downstream="light")) == [(elsewhere, "val")]


def test_further_looks_are_named_and_another_split_has_its_line():
    config = MetricsConfig(also=("spectrum", configure("metric", "diversity", real=True), "memorised", OWN))
    assert metrics.looks(config) == [
        (
            "evaluation on the test split (FID and KID statistics, downstream test, power spectrum, diversity, nearest "
            "training images, mean pixel)",
            "test",
        ),
        ("evaluation on the train split (nearest training images)", "train"),
    ]


# A trial


def test_a_trial_measures_what_it_asks_for_and_its_ledger_says_so(patches, tmp_path):
    also = ("prdc", "spectrum", configure("metric", "memorised", train_samples=300), OWN, "fid_infinity")
    asked, store, told = trial(also=also), Store(str(tmp_path / "store")), []
    artifact, _ = stages.make("evaluate", asked, store, "cpu", lambda *progress: told.append(progress))
    values = artifact.json("metrics")
    assert set(values) == {
        "fid_clean_10_test110",
        *(f"{share}_clean_10_test110" for share in ("precision", "recall", "density", "coverage")),
        *("spectrum_10_test110", "memorised_clean_10_test110_train300", "brightness_10_test110"),
        "fid_infinity_clean_10_test110",
    }
    assert all(type(value) is float for value in values.values())

    keys = chain.keys(asked)
    reference = store.open("reference", keys["reference"])
    kept = reference.tensors("reference")
    assert set(kept) == {"features", "spectrum.powers", "memorised.train300", "brightness.mean"}
    samples = store.open("upscale", keys["upscale"]).tensors("samples")["images"]
    seen = patches(draw(samples, 10))
    assert values["fid_clean_10_test110"] == pytest.approx(frechet_distance_of(seen, kept["features"]))
    found = memorisation(seen, kept["memorised.train300"], kept["features"])
    assert values["memorised_clean_10_test110_train300"] == found.share

    lines = reference.json("ledger")
    assert [line["purpose"] for line in lines] == [look for look, _ in metrics.looks(asked.metrics)]
    assert [line["n_records"] for line in lines] == [chain.n_records(asked.data, split) for split in ("test", "train")]
    assert [line["dataset"] for line in lines] == [chain.fingerprint(asked.data, split) for split in ("test", "train")]
    assert {line["kind"] for line in lines} == {"nonprivate"}

    plain, _ = stages.make("evaluate", trial(), store, "cpu")
    assert plain.json("metrics") == {"fid_clean_10_test110": values["fid_clean_10_test110"]}
    usual = store.open("reference", chain.keys(trial())["reference"])
    assert set(usual.tensors("reference")) == {"features"}
    assert [line["purpose"] for line in usual.json("ledger")] == [
        "evaluation on the test split (FID and KID statistics, downstream test)"
    ]


def test_features_are_taken_once_for_all_metrics(patches, monkeypatch):
    taken = []

    def extract(images, *rest):
        taken.append(len(images))
        return patches(images)

    monkeypatch.setattr(features, "extract", extract)
    config = dataclasses.replace(SMALL, kid=True, floor=True, also=("prdc", "fid_infinity", "memorised"))
    real = {split: torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8) for split, n in COUNTS.items()}

    def load(split):
        return real[split], None

    told: list[tuple[int, int]] = []
    reference = suite.make_reference(load, config, report=lambda *progress: told.append(progress))
    assert sorted(taken) == [10, 110, 400], "the floor's, the reference's, the training images'"
    assert told[-1] == (520, 520)
    suite.evaluate(real["val"], None, reference, load, COUNTS.__getitem__, config, 0)
    assert sorted(taken) == [10, 10, 110, 400]


class Peeking(Brightness):
    """Looks where it has not said that it would."""

    def look(self, own):
        return ""

    def measure(self, own, sets, reference):
        assert reference == {}
        sets.split("test")


def test_a_metric_sees_what_it_has_named_only(patches, monkeypatch):
    images = torch.randint(0, 256, (150, 1, 8, 8), dtype=torch.uint8)
    own = configure("metric", OWN)
    monkeypatch.setattr(metrics.registry, "find", lambda kind, name: Peeking() if name == OWN else find(kind, name))
    config = dataclasses.replace(SMALL, also=(own,))
    reference = suite.make_reference(lambda split: (images, None), config)
    assert set(reference) == {"features"}
    with pytest.raises(RuntimeError, match="name it in test_splits"):
        suite.evaluate(images, None, reference, lambda split: (images, None), COUNTS.__getitem__, config, 0)


find = registry.find


def test_two_metrics_cannot_keep_two_things_under_one_name(patches, monkeypatch):
    images = torch.randint(0, 256, (150, 1, 8, 8), dtype=torch.uint8)
    monkeypatch.setattr(Brightness, "reference", lambda *_: {"features": torch.zeros(2)})
    with pytest.raises(UserError, match="brightness keeps another tensor 'features'"):
        suite.make_reference(lambda split: (images, None), dataclasses.replace(SMALL, also=(OWN,)))


def test_prompts_are_the_texts_of_samples(patches, monkeypatch):
    """In the order of sampling; drawn samples keep their own."""
    images, seen = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8), {}

    def measure(self, own, sets, reference):
        seen.update(
            everything=sets.everything.texts, samples=list(zip(sets.samples.texts, sets.samples.pixels, strict=True))
        )
        return {}

    monkeypatch.setattr(Brightness, "measure", measure)
    config = dataclasses.replace(SMALL, also=(OWN,))
    texts = [str(number) for number in range(60)]
    reference = suite.make_reference(lambda split: (images, None), config)
    load = {"train": 60, "val": 60, "test": 60}.__getitem__
    suite.evaluate(images, None, reference, lambda split: (images, None), load, config, 0, texts=texts)
    assert seen["everything"] == texts
    assert len(seen["samples"]) == 10
    assert all(torch.equal(images[int(text)], image) for text, image in seen["samples"])


def test_a_search_minimises_the_fid_beside_its_like():
    from sweeps.execute import _objectives, _primary

    asked = dataclasses.replace(trial(also=("fid_infinity",)).metrics, mode="pytorch")
    row = {"metrics": {"fid_infinity_pytorch_10_test110": 3.0, "fid_pytorch_10_test110": 7.0}, "epsilon": 1}
    primary = _primary(dataclasses.replace(trial(), metrics=asked))
    assert _objectives(row, primary) == (7.0, 1.0)
    assert _objectives({"metrics": {}, "epsilon": "inf"}, primary) == (float("inf"), float("inf"))


# The command


def test_the_command_takes_a_metric_of_ones_own(patches, tmp_path, capsys):
    for name, value in (("real", 100), ("made", 90)):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / name / f"{number}.png")
    both = [str(tmp_path / "real"), str(tmp_path / "made"), "--json", str(tmp_path / "rows.jsonl"), "--metrics"]
    assert command.main([*both, OWN, "fid"]) == 0, capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["metric"] for row in rows] == ["fid_clean_4_4", "brightness_4_4"]
    assert rows[1]["value"] == 10
    for name in ("acc", "nothing"):
        assert command.main([*both, name]) == 2
        assert (
            f"{name} is not a metric of this command: use one of clip_score, closer_to_train" in capsys.readouterr().err
        )


def test_texts_of_files_of_several_sizes_are_refused(tmp_path):
    from wavedp.metrics.text import _pairs
    from wavedp.metrics.views import Looking

    for number, side in enumerate((8, 9)):
        Image.fromarray(np.zeros((side, side), np.uint8)).save(tmp_path / f"{number}.png")
    view = command.FileView(tmp_path, Looking(MetricsConfig()), None, drawn=False)
    with pytest.raises(UserError, match="needs all in one size"):
        list(_pairs(view, ["a", "b"]))

"""A released private model in one file: packed with its ledger lines or not at all, found by key where it is loaded."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml
from test_zoo import TINY, draw, said

from sweeps.plan import PlannedTrial
from sweeps.records import Records
from wavedp import chain, entries, stages
from wavedp.config import DataConfig, PrivacyConfig, TrialConfig, configure, settings_of
from wavedp.entries import Zoo, behind
from wavedp.finished import open_trial
from wavedp.privacy import ledger
from wavedp.store import Store
from wavedp.zoo import adding, released


def study(folder: Path, trial: TrialConfig, store: Store, name: str = "one") -> Path:
    """The records of a study with this trial, its private fit made."""
    keys = chain.keys(trial)
    lines = [{**line, "trials": [name]} for line in store.json("private_fit", keys["private_fit"], "ledger") or []]
    row = {"trial": name, "status": "done", "keys": keys, "settings": settings_of(trial), "commit": "c0ffee"}
    runs = folder / "runs" / "tiny"
    runs.mkdir(parents=True, exist_ok=True)
    (runs / "study.yaml").write_text(yaml.safe_dump({"study": "tiny", "command": "python -m sweeps.run +sweep=tiny"}))
    (runs / "trials.jsonl").write_text(json.dumps(row) + "\n")
    (runs / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return runs


@pytest.fixture(scope="module")
def private(tmp_path_factory) -> Path:
    """A finished private fit on folders of pictures, in runs/tiny and store; its public model is one of a zoo."""
    root = tmp_path_factory.mktemp("private")
    for name, seed in (("sensitive", 3), ("public", 4)):
        draw(root / name / "train" / "a", 12, seed=seed)
        draw(root / name / "train" / "b", 12, seed=seed + 10)
        draw(root / name / "test" / "a", 2, seed=seed + 20)
    stages.make("pretrain", trial_in(root), Store(str(root / "first"), behind=()), "cpu")
    adding.add("drawn", trial_in(root), "pretrain", Store(str(root / "first")), root / "zoo", command="x")
    store = Store(str(root / "store"), behind(Zoo(path=str(root / "zoo"))))
    stages.make("private_fit", trial_in(root), store, "cpu")
    study(root, trial_in(root), store)
    released.pack(open_trial(root / "runs" / "tiny", "one"), store, root / "one.zip")
    return root


def trial_in(root: Path, **changes) -> TrialConfig:
    """The trial whose folders are in this one."""
    home = str(root / "home")
    data, public = (DataConfig("folder", size=8, path=str(root / name), home=home) for name in ("sensitive", "public"))
    generator = dataclasses.replace(TINY.generator, pretrain_batch=4)
    privacy = PrivacyConfig(epsilon=4.0, batch_size=4, steps=2, delta=1e-3)
    return dataclasses.replace(TINY, data=data, public=public, generator=generator, privacy=privacy, **changes)


def test_one_file_holds_weights_lines_and_public_inputs(private):
    about, _ = released.read(private / "one.zip")
    assert (about["private"], about["trial"], about["study"]) == (True, "one", "tiny")
    assert 3.9 < about["epsilon"] <= 4.0
    assert set(about["keys"]) == {"tokenizer", "pretrain", "private_fit"}
    assert [line["kind"] for line in about["ledger"]] == ["dp_sgd"]
    assert about["settings"]["data"]["path"] == "sensitive"  # nothing of this machine
    assert str(private) not in json.dumps(about)
    store = Store(str(private / "store"), behind(Zoo(path=str(private / "zoo"))))
    released.pack(open_trial(private / "runs" / "tiny", "one"), store, private / "again.zip")
    assert (private / "again.zip").read_bytes() == (private / "one.zip").read_bytes()


def test_a_loaded_model_is_found_by_key_with_its_ledger_lines(private, tmp_path, monkeypatch):
    """On a machine with the sensitive images and without the public ones."""
    shutil.copytree(private / "sensitive", tmp_path / "sensitive")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(entries, "_known", {})  # nor has it the zoo with their facts
    trial, store = trial_in(tmp_path), Store(str(tmp_path / "store"), behind=())
    moved = released.trial_at(released.read(private / "one.zip")[0]["settings"], str(tmp_path / "home"))
    assert moved.data.path == "sensitive"
    found = released.load(private / "one.zip", store, str(tmp_path / "home"))
    assert (found.new, found.present, found.checked) == (3, 0, True)
    assert chain.keys(trial) == chain.keys(trial_in(private))  # by facts in the home
    fit = store.open("private_fit", chain.keys(trial)["private_fit"])
    assert fit == Store(str(private / "store")).open("private_fit", fit.key)
    planned = PlannedTrial("mine", {}, trial, chain.keys(trial))
    ((lines, users),) = Records(tmp_path / "runs" / "mine").find_releases([planned], store)
    assert ([line["stage_key"] for line in lines], users) == ([fit.key], ["mine"])
    assert stages.make("coarse_samples", trial, store, "cpu")[0].tensors("samples")["images"].shape == (12, 1, 4, 4)
    assert released.load(private / "one.zip", store, str(tmp_path / "home")).present == 3


def test_without_the_sensitive_images_it_is_loaded_and_said(private, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    printed = said(capsys, "load", str(private / "one.zip"), "--store", "store", "--home", str(tmp_path / "home"))
    assert "3 artifacts of one are new in store" in printed
    assert "(folder) are not here, so it was not checked" in printed
    assert "+sweep=tiny" in printed


def copied(private: Path, folder: Path, about=None, tar=None) -> Path:
    """The file with another release.json or artifacts.tar."""
    with zipfile.ZipFile(private / "one.zip") as old, zipfile.ZipFile(folder / "one.zip", "w") as new:
        said = json.loads(old.read("release.json"))
        new.writestr("release.json", json.dumps(about(said) if about else said))
        new.writestr("artifacts.tar", tar(old.read("artifacts.tar")) if tar else old.read("artifacts.tar"))
    return folder / "one.zip"


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_a_truncated_file_is_not_loaded(private, tmp_path, capsys, share):
    content = (private / "one.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: int(len(content) * share)])
    assert "cut.zip is not a whole release" in said(
        capsys, "load", str(tmp_path / "cut.zip"), "--store", str(tmp_path / "store"), status=2
    )
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("where", [0.1, 0.4, 0.7])
def test_a_flipped_byte_is_noticed(private, tmp_path, capsys, where):
    content = bytearray((private / "one.zip").read_bytes())
    content[int(len(content) * where)] ^= 1
    (tmp_path / "one.zip").write_bytes(content)
    said(capsys, "load", str(tmp_path / "one.zip"), "--store", str(tmp_path / "store"), status=2)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("about", "tar", "words"),
    [
        (lambda about: about | {"format": 2}, None, "has format 2 and this version reads 1: update wavedp"),
        (lambda about: about | {"ledger": []}, None, "its private fit carries other ledger lines than it states"),
        (None, lambda tar: tar[:-1] + b"x", "artifacts.tar differs from its sha256"),
        (
            lambda about: about | {"keys": about["keys"] | {"pretrain": "00" * 32}},
            None,
            "holds pretrain 000000000000 and",
        ),
        (lambda about: {name: value for name, value in about.items() if name != "keys"}, None, "not a whole release"),
    ],
)
def test_a_changed_file_is_not_loaded(private, tmp_path, capsys, monkeypatch, about, tar, words):
    shutil.copytree(private / "sensitive", tmp_path / "sensitive")
    monkeypatch.chdir(tmp_path)
    file = copied(private, tmp_path, about, tar)
    assert words in said(capsys, "load", str(file), "--store", "store", "--home", str(tmp_path / "home"), status=2)
    assert not (tmp_path / "store").exists()
    assert not list((tmp_path / "home").glob("*.json"))


def test_other_sensitive_images_are_said(private, tmp_path, capsys, monkeypatch):
    draw(tmp_path / "sensitive" / "train" / "a", 12, seed=8)
    draw(tmp_path / "sensitive" / "train" / "b", 12, seed=9)
    monkeypatch.chdir(tmp_path)
    printed = said(capsys, "load", str(private / "one.zip"), "--store", "store", "--home", str(tmp_path), status=2)
    assert "was fitted to other images (folder" in printed
    assert "no study here would find it" in printed
    assert "none.zip is not there" in said(capsys, "load", "none.zip", "--store", "store", status=2)


# --- what is not packed ---------------------------------------------------------


def test_a_fit_that_no_ledger_accounts_for_is_not_packed(private, tmp_path, capsys):
    runs = tmp_path / "tiny"
    shutil.copytree(private / "runs" / "tiny", runs)
    arguments = ("pack", str(runs), "--trial", "one", "--store", str(private / "store"), "--out", str(tmp_path / "f"))
    assert "has no pretrain" in said(capsys, *arguments, status=2)  # it came from another zoo
    (line,) = ledger.read(runs / "ledger.jsonl")
    for changed in ({"noise_multiplier": line["noise_multiplier"] * 2}, {"release": "another"}, {"epsilon": 1.0}):
        (runs / "ledger.jsonl").write_text(json.dumps(line | changed) + "\n")
        assert "does not account for the private fit of one" in said(capsys, *arguments, status=2)
    (runs / "ledger.jsonl").unlink()
    assert "has no line of the private fit of one, so that its ε is not known" in said(capsys, *arguments, status=2)
    assert not (tmp_path / "f").exists()
    assert "has no trial 'two'" in said(capsys, *arguments[:3], "two", *arguments[4:], status=2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"privacy": PrivacyConfig(epsilon=0.0)}, "one used no sensitive image: there is nothing private to pack"),
        ({"generator": configure("generator", "real")}, "keeps the sensitive images themselves"),
    ],
)
def test_what_is_no_private_model_is_not_packed(tmp_path, capsys, changes, words):
    store = Store(str(tmp_path / "store"), behind=())
    trial = dataclasses.replace(TINY, **changes)
    stages.make("private_fit", trial, store, "cpu")
    arguments = ("pack", str(study(tmp_path, trial, store)), "--trial", "one", "--store", store.root)
    assert words in said(capsys, *arguments, "--out", str(tmp_path / "f"), "--non-private", status=2)


def test_a_fit_without_noise_is_packed_when_it_is_said_and_called_so(tmp_path, capsys):
    store = Store(str(tmp_path / "store"), behind=())
    trial = dataclasses.replace(TINY, privacy=dataclasses.replace(TINY.privacy, epsilon=math.inf))
    stages.make("private_fit", trial, store, "cpu")
    file = str(tmp_path / "inf.zip")
    arguments = ("pack", str(study(tmp_path, trial, store)), "--trial", "one", "--store", store.root, "--out", file)
    assert "was fitted without noise, so its weights are not private: add --non-private" in said(
        capsys, *arguments, status=2
    )
    assert "not private (no noise)" in said(capsys, *arguments, "--non-private")
    assert released.read(Path(file))[0]["private"] is False
    assert "no ε: it was fitted without noise" in said(capsys, "load", file, "--store", str(tmp_path / "there"))

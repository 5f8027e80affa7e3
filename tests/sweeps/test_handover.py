"""The whole synthetic set of a trial, and more images of its release, in files that say how private they are."""

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from sweeps import export
from sweeps.plan import PlannedTrial
from sweeps.records import Records
from sweeps.row import blank_row
from wavedp import chain, sample, stages
from wavedp.config import DataConfig, MetricsConfig, PrivacyConfig, SamplingConfig, TrialConfig, to_dict
from wavedp.methods import canonical
from wavedp.privacy import ledger
from wavedp.store import Store, write_jsonl

PUBLIC = DataConfig(name="procedural", split="public", n_records=32, limit=32)
BASE = TrialConfig(
    data=DataConfig(name="procedural", n_records=96),
    public=PUBLIC,
    generator={"name": "spectral_ar", "width": 16, "depth": 1, "heads": 2, "pretrain_steps": 2, "pretrain_batch": 8},
    privacy=PrivacyConfig(epsilon=4.0, batch_size=16, steps=2),
    sampling=SamplingConfig(n=130),
    upscaler="bicubic",
    metrics=MetricsConfig(fid_samples=8, downstream_steps=0),
)
TRIALS = {
    "dp": BASE,
    "stricter": dataclasses.replace(BASE, privacy=dataclasses.replace(BASE.privacy, epsilon=2.0)),
    "infinite": dataclasses.replace(BASE, privacy=dataclasses.replace(BASE.privacy, epsilon=math.inf)),
    "public": dataclasses.replace(BASE, privacy=dataclasses.replace(BASE.privacy, epsilon=0.0)),
    "real": dataclasses.replace(BASE, generator="real"),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study as sweeps.run leaves it, with every kind of fit, and its store beside it."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    folder.mkdir()
    store, records = Store(str(folder.parent / "store")), Records(folder)
    meta = {"study": "tiny", "command": "python -m sweeps.run +sweep=tiny", "config": to_dict(BASE), "axes": {}}
    (folder / "study.yaml").write_text(yaml.safe_dump(meta))
    for name, config in TRIALS.items():
        config = canonical(config)
        stages.make("upscale", config, store, "cpu")
        trial = PlannedTrial(name, {"case": name}, config, chain.keys(config))
        records.put_trial(blank_row(trial, "c0ffee") | {"status": "done"})
        fit = store.open("private_fit", trial.keys["private_fit"])
        records.put_ledger(fit.json("ledger"), [name])
    records.put_trial(blank_row(trial, "c0ffee") | {"trial": "failed", "reason": "out of memory"})
    return folder


def exported(study, trial, folder, *arguments):
    """What the command leaves: its exit status and the card."""
    typed = [str(study), "--trial", trial, "--to", str(folder), "--store", str(study.parent / "store"), *arguments]
    status = export.main(typed)
    return status, (folder / "README.md").read_text(encoding="utf-8") if status == 0 else ""


def drawn(study, trial, folder, *arguments):
    typed = [str(study), "--trial", trial, "--to", str(folder), "--store", str(study.parent / "store"), *arguments]
    status = sample.main([*typed, "--device", "cpu", "--format", "npz"])
    with np.load(folder / "images.npz") as read:
        return status, read["images"], (folder / "README.md").read_text(encoding="utf-8")


def row(study, trial):
    rows = [json.loads(line) for line in (study / "trials.jsonl").read_text().splitlines()]
    return next(each for each in rows if each["trial"] == trial)


@pytest.mark.parametrize("form", ["png", "npz", "hf"])
def test_every_image_is_handed_over_with_its_class(form, study, tmp_path):
    assert exported(study, "dp", tmp_path / "set", "--format", form)[0] == 0
    made = Store(str(study.parent / "store")).open("upscale", row(study, "dp")["keys"]["upscale"]).tensors("samples")
    if form == "npz":
        with np.load(tmp_path / "set" / "images.npz") as read:
            assert (read["images"].transpose(0, 3, 1, 2) == made["images"].numpy()).all()
            assert (read["labels"] == made["labels"].numpy()).all()
    else:
        pictures = list((tmp_path / "set").rglob("*.png"))
        assert len(pictures) == 130
        assert sum(path.parent.name == "disk" for path in pictures) == 13


def test_the_card_says_what_it_cost_and_how_it_was_made(study, tmp_path):
    _, card = exported(study, "dp", tmp_path / "set")
    lines = ledger.read(study / "ledger.jsonl")
    (mine,) = [line for line in lines if line["trials"] == ["dp"]]
    private = [line for line in lines if line["kind"] == "dp_sgd"]
    facts = dict(re.findall(r"^\| (.+?) \| (.+) \|$", card, re.MULTILINE))
    assert mine["epsilon"] <= float(facts["ε of these images"]) < mine["epsilon"] + 0.002
    assert float(facts["δ"]) == pytest.approx(mine["delta"], rel=1e-9)
    (together,) = ledger.composed_epsilon(private).values()
    assert together > mine["epsilon"]
    said = facts["all releases of the study composed"]
    assert together <= float(said.split()[2].rstrip(",")) < together + 0.002
    assert "2 private releases" in said
    assert facts["protected unit"].startswith("one image")
    assert f"dp_sgd: q = {16 / 96:.4g}, σ = {mine['noise_multiplier']:g}, 2 steps" in facts["release: private_fit"]
    assert facts["study's command"] == "`python -m sweeps.run +sweep=tiny`"
    assert facts["commit"] == "c0ffee"
    assert {name: facts[name] for name in row(study, "dp")["keys"]} == row(study, "dp")["keys"]
    assert facts["upscaler: bicubic, trained on nothing"].startswith("Apache-2.0")
    assert facts["sensitive images: procedural"].startswith("Apache-2.0")
    assert "NOT PRIVATE" not in card
    assert "came from a seed" in card  # noise that whoever has the records can compute


def test_the_header_of_a_hub_set_is_yaml(study, tmp_path):
    _, card = exported(study, "dp", tmp_path / "set", "--format", "hf")
    _, header, body = card.split("---\n", 2)
    said = yaml.safe_load(header)
    assert said["license"] == "other"
    assert said["privacy"]["epsilon"] >= row(study, "dp")["epsilon"] - 0.1
    assert said["size_categories"] == ["n<1K"]
    assert said["configs"][0]["data_files"] == [{"split": "train", "path": "train/**"}]
    assert body.lstrip().startswith("# 130 synthetic images")


def test_without_noise_the_card_begins_with_a_warning(study, tmp_path):
    _, card = exported(study, "infinite", tmp_path / "set", "--format", "hf")
    title, warning = card.split("---\n", 2)[2].strip().split("\n\n")[:2]
    assert title.endswith("at ε = ∞")
    assert warning.startswith("> **NOT PRIVATE (ε = ∞)")
    assert "not-private" in card
    assert "- differential-privacy" not in card


def test_a_public_model_costs_nothing(study, tmp_path):
    _, card = exported(study, "public", tmp_path / "set")
    assert "| ε of these images | 0 |" in card
    assert "No sensitive image was used" in card


def test_sensitive_images_need_a_word(study, tmp_path, capsys):
    assert exported(study, "real", tmp_path / "set")[0] == 2
    assert "the images of real are the sensitive ones themselves" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
    status, card = exported(study, "real", tmp_path / "set", "--not-private")
    assert status == 0
    assert card.split("\n\n")[1].startswith("> **NOT PRIVATE: these are sensitive images")


@pytest.mark.parametrize(
    ("trial", "arguments", "sentence"),
    [
        ("strcter", (), "has no trial 'strcter': did you mean stricter?"),
        ("failed", (), "the trial failed is failed (out of memory)"),
        ("dp", ("--store", "nowhere"), "has no upscale "),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(trial, arguments, sentence, study, tmp_path, capsys):
    assert exported(study, trial, tmp_path / "set", *arguments)[0] == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_no_epsilon_is_stated_without_its_ledger_line(study, tmp_path, capsys):
    copy = tmp_path / "tiny"
    copy.mkdir()
    for name in ("study.yaml", "trials.jsonl"):
        (copy / name).write_bytes((study / name).read_bytes())
    typed = [str(copy), "--trial", "dp", "--to", str(tmp_path / "set"), "--store", str(study.parent / "store")]
    assert export.main(typed) == 2
    assert "ledger.jsonl has no line of the private fit of dp" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_copies_of_one_image_have_an_epsilon_of_their_own(study, tmp_path):
    copy = Path(shutil.copytree(study, tmp_path / "tiny"))
    lines = [{**line, "copies": 3} for line in ledger.read(copy / "ledger.jsonl")]
    write_jsonl(copy / "ledger.jsonl", lines)
    typed = [str(copy), "--trial", "dp", "--to", str(tmp_path / "set"), "--store", str(study.parent / "store")]
    assert export.main(typed) == 0
    card = (tmp_path / "set" / "README.md").read_text(encoding="utf-8")
    alone, together = (
        float(re.search(rf"^\| ε of {whose} \| (.+) \|$", card, re.MULTILINE)[1])
        for whose in ("these images", "an image that the set holds 3 times")
    )
    assert together > 3 * alone


def test_more_images_cost_no_release(study, tmp_path):
    fits = set((study.parent / "store" / "private_fit").iterdir())
    before = (study / "ledger.jsonl").read_bytes()
    status, images, card = drawn(study, "dp", tmp_path / "set", "--n", "40", "--seed", "7")
    assert status == 0
    assert images.shape == (40, 28, 28, 1)
    assert set((study.parent / "store" / "private_fit").iterdir()) == fits
    assert (study / "ledger.jsonl").read_bytes() == before
    _, own = exported(study, "dp", tmp_path / "own", "--format", "npz")
    cost = [line for line in card.splitlines() if line.startswith(("| ε of", "| δ", "| release", "| private_fit"))]
    assert len(cost) == 4
    assert set(cost) <= set(own.splitlines())
    assert "sampling.seed = 7" in card
    with np.load(tmp_path / "own" / "images.npz") as read:
        known = {image.tobytes() for image in read["images"]}
    assert sum(image.tobytes() not in known for image in images) > 30


def test_the_same_seed_draws_the_same_images(study, tmp_path):
    first, again, other = (
        drawn(study, "dp", tmp_path / name, "--n", "20", "--seed", seed)[1]
        for name, seed in (("a", "3"), ("b", "3"), ("c", "4"))
    )
    assert (first == again).all()
    assert (first != other).any()


def test_a_lost_model_is_not_made_again(study, tmp_path, capsys):
    """It would be another release."""
    key = row(study, "stricter")["keys"]["private_fit"]
    kept, away = study.parent / "store" / "private_fit" / key, tmp_path / "away"
    kept.rename(away)
    try:
        typed = [str(study), "--trial", "stricter", "--n", "9", "--store", str(study.parent / "store")]
        assert sample.main([*typed, "--to", str(tmp_path / "set")]) == 2
        assert f"has no private_fit {key[:12]} of the trial stricter" in capsys.readouterr().err
        assert not kept.exists()
    finally:
        away.rename(kept)


def test_sensitive_images_are_not_drawn_either(study, tmp_path, capsys):
    typed = [str(study), "--trial", "real", "--n", "9", "--store", str(study.parent / "store")]
    assert sample.main([*typed, "--to", str(tmp_path / "set")]) == 2
    assert "--not-private" in capsys.readouterr().err


@pytest.mark.parametrize("command", [export, sample])
def test_the_default_folder_is_not_seen_by_git(command, study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = [str(study), "--trial", "dp", "--store", str(study.parent / "store"), "--format", "npz"]
    assert command.main([*typed, *(["--n", "5"] if command is sample else [])]) == 0
    (made,) = Path("export", "tiny").iterdir()
    assert (made / "README.md").is_file()
    assert "/export" in (Path(__file__).parents[2] / ".gitignore").read_text().splitlines()

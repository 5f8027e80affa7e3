"""Membership inference on a trial of a study: reopened by its keys, scored, and entered in a ledger of its own."""

import dataclasses
import json

import pytest
import torch
import yaml

from wavedp import chain, data, registry, stages
from wavedp.audit import study
from wavedp.config import (
    DataConfig,
    DiffusionConfig,
    MetricsConfig,
    PrivacyConfig,
    SamplingConfig,
    TrialConfig,
    configure,
    to_dict,
)
from wavedp.errors import UserError
from wavedp.fields import fitting
from wavedp.generators import denoising
from wavedp.generators.blur_diffusion import model as blur_diffusion
from wavedp.privacy import ledger
from wavedp.store import Store

BASE = TrialConfig(
    level=2,
    data=DataConfig(name="procedural", n_records=96),
    public=DataConfig(name="procedural", split="public", n_records=32, limit=32),
    diffusion=DiffusionConfig(timesteps=20, multiplicity=1),
    privacy=PrivacyConfig(epsilon=4.0, batch_size=16, steps=2),
    sampling=SamplingConfig(n=12, diffusion_steps=2),
    metrics=MetricsConfig(fid_samples=8, downstream_steps=0),
)


SMALL = {"width": 16, "depth": 1, "heads": 2, "pretrain_steps": 2, "pretrain_batch": 8}


def small(name):
    """The generator's configuration, with those of the small sizes that it reads."""
    values = fitting("generator", {"name": name, **SMALL})
    return configure("generator", values.pop("name"), **values)


def make_study(folder, generator="spectral_ar"):
    """Two trials of one study, of which the first's stages are made; its axis is ε."""
    base = dataclasses.replace(BASE, level=1 if generator == "blur_diffusion" else 2, generator=small(generator))
    asked = dataclasses.replace(base, privacy=dataclasses.replace(base.privacy, epsilon=8.0))
    store = Store(str(folder / "store"))
    stages.make("coarse_samples", asked, store, "cpu")
    (folder / "study.yaml").write_text(yaml.safe_dump({"study": "tiny", "config": to_dict(base)}))
    rows = [
        {
            "trial": name, "status": status, "axes": {"privacy.epsilon": epsilon, "upscaler": "bicubic", "seed": 0},
            "keys": chain.keys(asked),
        }
        for name, status, epsilon in (("a", "done", 8.0), ("b", "failed", 8.0), ("moved", "done", 2.0))
    ]  # fmt: skip
    (folder / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return asked


def run(folder, *arguments):
    return study.main([str(folder), "--store", str(folder / "store"), "--records", "40", *arguments])


@pytest.mark.parametrize("generator", ["spectral_ar", "blur_diffusion"])
def test_a_trial_is_scored_by_its_own_weights(generator, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(denoising, "SCORE_NOISES", 2)
    asked = make_study(tmp_path, generator)
    assert run(tmp_path, "--trial", "a") == 0
    assert "no evidence of privacy" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "membership.jsonl").read_text().splitlines()]
    assert [row.get("score") for row in rows] == ["loss", "guidance", "calibrated", None]
    assert [(row["members"], row["others"]) for row in rows[:3]] == [(40, 24)] * 3
    assert rows[3]["samples"] == 12
    (line,) = ledger.read(tmp_path / "membership_ledger.jsonl")
    assert (line["kind"], line["stage_key"], line["trials"]) == (
        "nonprivate", chain.keys(asked)["private_fit"], ["a"]
    )  # fmt: skip
    assert line["dataset"] == data.fingerprint(asked.data, "train")
    assert run(tmp_path, "--trial", "a") == 0  # again: the same rows, the same line
    assert [json.loads(line) for line in (tmp_path / "membership.jsonl").read_text().splitlines()] == rows
    assert len(ledger.read(tmp_path / "membership_ledger.jsonl")) == 1


def test_all_records_of_a_diffusion_model_meet_the_same_noise(tmp_path):
    made = blur_diffusion.BlurDiffusionModel(small("blur_diffusion"), BASE.diffusion, "none", (1, 8, 8), 4, "cpu")
    torch.manual_seed(0)
    weights = {name: value + 0.02 * torch.randn_like(value) for name, value in made.network(4).state_dict().items()}
    images, labels = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2])
    own, without = made.log_likelihoods(weights, images, labels)
    alone, _ = made.log_likelihoods(weights, images[1:2], labels[1:2])
    assert own[1] == pytest.approx(alone[0], rel=1e-4)
    assert (own != without).all()


def test_what_cannot_be_reopened_is_a_sentence(tmp_path, capsys):
    def said(*arguments, folder=tmp_path):
        assert run(folder, *arguments) == 2
        return capsys.readouterr().err

    assert "is not a study: it has no study.yaml" in said("--trial", "a")
    make_study(tmp_path)
    assert "no trial 'c': use one of a, b, moved" in said("--trial", "c")
    assert "the trial b is failed: name a finished one" in said("--trial", "b")
    assert "stage private_fit of moved has another key" in said("--trial", "moved")
    assert "records=3 are too few" in said("--trial", "a", "--records", "3")
    assert study.main([str(tmp_path), "--trial", "a", "--store", str(tmp_path / "empty")]) == 2
    assert "has no tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "membership_ledger.jsonl").exists()


def test_a_study_recorded_before_methods_had_rooms_is_reopened(tmp_path):
    """Its study.yaml has one section for all generators: what this one does not read is left out."""
    make_study(tmp_path, "blur_diffusion")
    meta = yaml.safe_load((tmp_path / "study.yaml").read_text())
    old = {"width": 64, "depth": 2, "heads": 4, "pretrain_level": None}  # of other generators
    meta["config"]["generator"] = {**old, **meta["config"]["generator"]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(meta))
    assert run(tmp_path, "--trial", "a") == 0


@pytest.mark.parametrize("generator", ["public", "real"])
def test_what_was_not_fitted_is_not_attacked(generator, tmp_path):
    made = registry.find("generator", generator)
    trial = dataclasses.replace(BASE, generator=small(generator))
    store = Store(str(tmp_path))
    artifacts = {name: stages.make(name, trial, store, "cpu")[0] for name in ("tokenizer", "pretrain", "private_fit")}
    with pytest.raises(UserError, match=f"generator.name={made.name} .* is not attacked: name a trial with classes"):
        study.measure(trial, artifacts, 20)

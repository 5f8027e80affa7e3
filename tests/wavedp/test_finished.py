"""A trial is opened again as it was: its settings, from its row or from the axes, give the keys of its row."""

import json
import math

import pytest
from published import EPS_GRID, ROOT, fingerprint, row

from wavedp import chain
from wavedp.config import DataConfig, MetricsConfig, PrivacyConfig, TrialConfig, settings_of, trial_of
from wavedp.errors import UserError
from wavedp.finished import open_trial

STUDIES = sorted(path.parent for path in ROOT.glob("results/*/trials.jsonl"))
STAGES = ("tokenizer", "pretrain", "private_fit", "coarse_samples", "upscale")


def rows(folder):
    return [json.loads(line) for line in (folder / "trials.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("study", STUDIES, ids=lambda folder: folder.name)
def test_every_published_trial_is_opened_with_its_keys(study, monkeypatch):
    monkeypatch.setattr(chain, "fingerprint", fingerprint)
    done = [row["trial"] for row in rows(study) if row["status"] == "done"]
    assert done
    for trial in done:
        open_trial(study, trial).require_same_keys(STAGES)


@pytest.mark.parametrize(
    "trial",
    [
        TrialConfig(),
        TrialConfig(public=None, upscaler="bicubic", seed=3),
        TrialConfig(data=DataConfig("folder", size=64, channels=3, path="/images"), privacy=PrivacyConfig(math.inf)),
        TrialConfig(public=DataConfig(), generator={"name": "spectral_ar", "width": 32}),
        TrialConfig(metrics=MetricsConfig(also=("prdc", {"name": "spectrum"}))),
    ],
)
def test_settings_are_read_back_through_json(trial):
    said = settings_of(trial)
    assert trial_of(json.loads(json.dumps(said, allow_nan=False))) == trial
    assert "diffusion" not in said  # what is at its default is not repeated


def test_what_has_no_settings_says_nothing():
    assert settings_of(TrialConfig()) == {}


def test_other_code_or_data_is_refused(monkeypatch):
    monkeypatch.setattr(chain, "fingerprint", lambda config, split: "another set")
    known = row(EPS_GRID, epsilon=10)
    trial = open_trial(EPS_GRID, known["trial"])
    sentence = f"stage pretrain of {known['trial']} has another key .*: check out the commit {known['commit']}"
    with pytest.raises(UserError, match=sentence):
        trial.require_same_keys(STAGES)


def test_a_field_that_came_later_is_as_it_was_before(tmp_path, monkeypatch):
    """Unless the study knew it: then what its rows leave out is the default."""
    monkeypatch.setattr(chain, "fingerprint", fingerprint)
    old = ROOT / "results" / "text_to_image_64"
    (trial, *_) = (row["trial"] for row in rows(old))
    assert open_trial(old, trial).config.generator.captions == "first"
    for name in ("trials.jsonl", "ledger.jsonl", "study.yaml"):
        (tmp_path / name).write_bytes((old / name).read_bytes())
    file = tmp_path / "study.yaml"
    known = file.read_text().replace("    conditioning: tokens\n", "    captions: first\n    conditioning: tokens\n")
    file.write_text(known)
    assert open_trial(tmp_path, trial).config.generator.captions == "drawn"

"""The keys of every published trial, as they were before methods got rooms of their own: a key that moves is a private
fit that would be made and paid for again.

`PYTHONPATH=.:tests python tests/sweeps/test_published_keys.py` writes tests/assets/published_keys.json anew; it needs
all public images (python -m wavedp.data.get openclipart, icons, emoji and photographs)."""

from __future__ import annotations

import json
import shlex

import hydra
import pytest
import yaml
from omegaconf import OmegaConf
from published import KNOWN as GOLDEN
from published import ROOT, what
from published import fingerprint as known_fingerprint

from sweeps.options import option_loader
from sweeps.plan import plan
from sweeps.run import _by_field
from wavedp import chain
from wavedp.config import TrialConfig, sections, with_absolute_paths
from wavedp.jsonl import read_jsonl

# Defaults of a study's time which today have to be said: other sample counts, no floor, one sample set, first captions.
SAID_TODAY = {
    "eps_grid_small": ["preset=small"],
    "ceilings_realsr": ["preset=small"],
    "eps_grid_2k": ["preset=small", "sampling.n=2000", "metrics.floor=false"],
    "eps_grid_detail": ["preset=small"],
    "tokenizers": ["privacy.steps=160", "sampling.n=1000", "metrics.precision=bfloat16", "metrics.floor=false"],
    "tricks": ["metrics.floor=false"],
    "blur_schedules": ["metrics.floor=false"],
    "text_to_image_64": ["generator.captions=first"],
}
STUDIES = (
    "eps_grid",
    "eps_grid_small",
    "eps_grid_2k",
    "eps_grid_detail",
    "tokenizers",
    "tricks",
    "sr_ceiling",
    "blur_schedules",
    "public_data",
    "ceilings_realsr",
    "text_to_image_64",
)


def planned(study: str):
    made = yaml.safe_load((ROOT / "results" / study / "study.yaml").read_text())
    overrides = shlex.split(made["command"])[3:] + SAID_TODAY.get(study, [])
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        values = OmegaConf.to_container(hydra.compose("config", overrides=overrides), resolve=True)
        base = with_absolute_paths({name: values[name] for name in sections(TrialConfig)})
        _by_field(values["sweep"])
        return plan(base, values["sweep"], option_loader(overrides, base))


def published(study: str):
    """{trial id: keys} of the rows; the latest of a trial counts."""
    return {row["trial"]: row["keys"] for row in read_jsonl(ROOT / "results" / study / "trials.jsonl")}


@pytest.fixture
def golden(monkeypatch):
    """Known fingerprints stand for the images, so that this runs where Open Clip Art is not installed."""
    monkeypatch.setattr(chain, "fingerprint", known_fingerprint)
    return json.loads(GOLDEN.read_text())["studies"]


@pytest.mark.parametrize("study", STUDIES)
def test_no_key_of_a_published_study_moves(study, golden):
    assert {trial.id: trial.keys for trial in planned(study)} == golden[study]


@pytest.mark.parametrize("study", STUDIES)
def test_the_golden_keys_are_those_in_results(study):
    """Every key of results/, not a copy of what this code happens to give."""
    golden = json.loads(GOLDEN.read_text())["studies"][study]
    assert published(study) == golden


def write():
    fingerprints = {}
    ask = chain.fingerprint

    def fingerprint(config, split):
        return fingerprints.setdefault(what(config, split), ask(config, split))

    chain.fingerprint = fingerprint
    studies = {study: {trial.id: trial.keys for trial in planned(study)} for study in STUDIES}
    GOLDEN.write_text(json.dumps({"fingerprints": fingerprints, "studies": studies}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write()

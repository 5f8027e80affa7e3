"""A plan in sentences: its counts and ε are the plan's, its times those of records."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest

from sweeps.explain import Times, explain
from sweeps.plan import plan
from sweeps.run import main
from wavedp import chain
from wavedp.config import DataConfig, TrialConfig, settings_of, to_dict
from wavedp.privacy import accounting
from wavedp.store import Store

PROCEDURAL = DataConfig(name="procedural", n_records=256)
BASE = to_dict(
    dataclasses.replace(TrialConfig(), data=PROCEDURAL, public=dataclasses.replace(PROCEDURAL, split="public"))
)
SWEEP = {"grid": {"epsilon": [1, 10, float("inf")], "upscaler": ["bicubic", "nearest"]}, "seeds": [0]}


@pytest.fixture(scope="module")
def trials():
    return plan(BASE, SWEEP, lambda group, option: {"name": option})


def record(folder, *rows):
    folder.mkdir(parents=True)
    (folder / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def row(trial, **seconds):
    return {"trial": trial.id, "settings": settings_of(trial.config), "keys": trial.keys, "seconds": seconds}


def told(trials, tmp_path, *folders, workers=2):
    return explain("Is it well?", trials, Store(str(tmp_path / "store")), {}, folders, workers)


def test_it_says_what_is_private_and_what_that_costs(trials, tmp_path):
    text = told(trials, tmp_path)
    assert text.startswith("Question\n  Is it well?\n")
    assert "6 trials, over epsilon: 1, 10, inf; upscaler: bicubic, nearest; seed: 0." in text
    assert "spectral_ar is fitted to the 14×14 part of procedural's 256 training images without noise (ε = ∞)" in text
    assert "with differential privacy: 320 noisy steps, each of a record with probability 0.5 (private fit)." in text
    mechanisms = [m for t in (trials[0], trials[2]) for m in chain.mechanisms(t.config).values()]
    composed = accounting.compose(mechanisms, accounting.delta(trials[0].config.privacy, 256))
    assert "2 private releases, 2 of them new" in text
    assert f"ε = 1, 10 each by itself; all 2 composed: ε = {composed:.3g}" in text
    assert "Stage two (bicubic, nearest) works on what was released: it costs no ε" in text
    assert "fid_clean_" in text.partition("What it shows")[2]


def test_times_are_those_of_the_stage_itself_or_of_its_kind(trials, tmp_path):
    mine = record(tmp_path / "a", row(trials[0], private_fit=100.0, upscale=2.0))
    other = dataclasses.replace(trials[0], keys={name: f"other {key}" for name, key in trials[0].keys.items()})
    others = record(
        tmp_path / "b", row(other, private_fit=40.0, evaluate=30.0), {"trial": "old", "seconds": {"x": 1.0}}
    )
    times = Times([mine, others, tmp_path / "none"])
    assert times.of("private_fit", trials[0]) == 100.0
    assert times.of("private_fit", trials[2]) == 70.0  # the mean of its kind
    assert times.of("evaluate", trials[2]) == 30.0
    assert times.of("pretrain", trials[0]) is None
    assert times.of("upscale", trials[1]) is None  # another upscaler
    longer = dataclasses.replace(
        trials[2],
        config=dataclasses.replace(trials[2].config, privacy=dataclasses.replace(trials[2].config.privacy, steps=9)),
    )
    assert times.of("private_fit", longer) is None
    text = told(trials, tmp_path, mine, others, workers=1)
    assert f"About {round((100 + 2 * 70 + 6 * 30 + 3 * 2) / 60)} minutes for" in text
    assert "on 1 core, by what such stages took in recorded studies" in text
    assert "No record tells how long" in text
    assert "pretrain" in text.rpartition("No record tells")[2]


def test_what_is_not_recorded_is_said(trials, tmp_path):
    text = told(trials, tmp_path, record(tmp_path / "torn", {"trial": "a"}))
    assert "About" not in text.partition("How long")[2]
    assert "No record tells how long coarse_samples, evaluate, pretrain, private_fit" in text


def test_the_command_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run", "+sweep=smoke", "explain=true"])
    assert status() == 0
    assert "4 trials, over epsilon: 10, inf; upscaler: bicubic, animevideov3_x2; seed: 0." in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
    monkeypatch.setattr(sys, "argv", ["run", "+sweep=pareto_search", "explain=true"])
    assert status() == 2
    assert "dry_run=true says what is known" in capsys.readouterr().err


def status():
    """The command's exit status, which Hydra's wrapper raises."""
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code

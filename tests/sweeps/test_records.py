"""The study's folder: whole files, one line a release, one configuration a folder."""

import dataclasses

import pytest
import yaml

from sweeps.records import Records, claim_folder, read_jsonl
from sweeps.study import identity_of
from wavedp.config import PrivacyConfig, TrialConfig, to_dict
from wavedp.errors import UserError
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.ledger import line_for_fit

STUDY = {"study": "s", "axes": {"grid": {"epsilon": [1]}}, "identity": {"privacy": {"steps": 5}}}


def ledger_line(key="k1", release="r"):
    config = PrivacyConfig(delta=1e-5)
    return line_for_fit(
        Mechanism(0.01, 1.0, 10), config, dataset="d", n_records=100, stage_key=key, trials=[], release=release
    )


def test_rows_and_lines_survive_reopening(tmp_path):
    records = Records(tmp_path)
    records.put_trial({"trial": "a", "status": "failed"})
    records.put_trial({"trial": "b", "status": "done"})
    records.put_ledger([ledger_line()], ["a"])
    again = Records(tmp_path)
    again.put_trial({"trial": "a", "status": "done"})  # a later attempt replaces the row
    assert [row["status"] for row in read_jsonl(tmp_path / "trials.jsonl")] == ["done", "done"]
    again.put_ledger([ledger_line()], ["b"])
    (line,) = read_jsonl(tmp_path / "ledger.jsonl")
    assert line["trials"] == ["a", "b"]


def test_a_release_is_one_line_and_keeps_its_first_time(tmp_path):
    records = Records(tmp_path)
    records.put_ledger([{**ledger_line(), "time": "2026-01-01T00:00:00+00:00"}], ["a"])
    records.put_ledger([{**ledger_line(), "time": "2027-01-01T00:00:00+00:00"}], ["a"])
    records.put_ledger([ledger_line("k2")], ["a"])
    lines = read_jsonl(tmp_path / "ledger.jsonl")
    assert [line["stage_key"] for line in lines] == ["k1", "k2"]
    assert lines[0]["time"].startswith("2026")


def test_a_release_made_again_with_other_noise_is_a_line_of_its_own(tmp_path):
    Records(tmp_path).put_ledger([ledger_line()], ["a"])
    records = Records(tmp_path)
    records.put_ledger([ledger_line(release="s")], ["a"])
    records.put_ledger([ledger_line()], ["b"])
    lines = read_jsonl(tmp_path / "ledger.jsonl")
    assert [(line["release"], line["trials"]) for line in lines] == [("r", ["a", "b"]), ("s", ["a"])]


def test_a_folder_belongs_to_one_configuration(tmp_path):
    claim_folder(tmp_path, STUDY, ["a"])
    claim_folder(tmp_path, {**STUDY, "created": "later"}, ["a"])
    with pytest.raises(UserError, match=r"another configuration \(privacy.steps differs\).*study=NAME"):
        claim_folder(tmp_path, {**STUDY, "identity": {"privacy": {"steps": 6}}}, ["a"])


def test_a_field_that_did_not_exist_then_is_taken_at_its_default(tmp_path):
    trial = TrialConfig()
    made = {**STUDY, "config": to_dict(trial), "identity": identity_of(trial)}
    del made["config"]["privacy"]["views"], made["identity"]["privacy"]["views"]
    claim_folder(tmp_path, made, ["a"])
    claim_folder(tmp_path, {**STUDY, "identity": identity_of(trial)}, ["a"])
    other = dataclasses.replace(trial, privacy=PrivacyConfig(views=2))
    with pytest.raises(UserError, match=r"privacy\.views differs"):
        claim_folder(tmp_path, {**STUDY, "identity": identity_of(other)}, ["a"])


def test_axes_may_grow_but_not_lose_recorded_trials(tmp_path):
    claim_folder(tmp_path, STUDY, ["a"])
    Records(tmp_path).put_trial({"trial": "a"})
    claim_folder(tmp_path, {**STUDY, "axes": {"grid": {"epsilon": [1, 2]}}}, ["a", "b"])
    assert "- 2" in (tmp_path / "study.yaml").read_text()
    with pytest.raises(UserError, match="holds the trial a"):
        claim_folder(tmp_path, STUDY, ["b"])


def test_an_axis_that_did_not_exist_then_had_one_value(tmp_path):
    claim_folder(tmp_path, STUDY, ["a-0001"])
    Records(tmp_path).put_trial({"trial": "a-0001"})
    claim_folder(tmp_path, {**STUDY, "axes": {**STUDY["axes"], "sampling_seeds": [0]}}, ["a-0002"])
    assert read_jsonl(tmp_path / "trials.superseded.jsonl") == [{"trial": "a-0001"}]


def test_rows_of_other_code_are_set_aside_and_their_releases_stay(tmp_path):
    claim_folder(tmp_path, STUDY, ["a-0001"])
    records = Records(tmp_path)
    records.put_trial({"trial": "a-0001"})
    records.put_ledger([ledger_line()], ["a-0001"])
    claim_folder(tmp_path, STUDY, ["a-0002"])  # same question, other keys
    assert read_jsonl(tmp_path / "trials.jsonl") == []
    assert read_jsonl(tmp_path / "trials.superseded.jsonl") == [{"trial": "a-0001"}]
    assert len(read_jsonl(tmp_path / "ledger.jsonl")) == 1


def test_study_yaml_names_the_code_that_made_the_rows(tmp_path):
    first = {"command": "a", "commit": "1", "created": "yesterday"}
    claim_folder(tmp_path, {**STUDY, **first}, ["a"])
    Records(tmp_path).put_trial({"trial": "a"})
    claim_folder(tmp_path, {**STUDY, "command": "b", "commit": "2", "created": "today"}, ["a"])
    made = yaml.safe_load((tmp_path / "study.yaml").read_text())
    assert (made["command"], made["commit"], made["created"]) == ("b", "2", "yesterday")

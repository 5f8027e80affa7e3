"""The study's folder: whole files, one line a release, one configuration a folder."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import fsspec
import pytest
import yaml

from sweeps.copies import Copy, copy_name
from sweeps.rebuild import rebuild
from sweeps.records import Records, as_yaml, claim_folder
from sweeps.study import identity_of
from wavedp.config import PrivacyConfig, TrialConfig, to_dict
from wavedp.errors import UserError
from wavedp.jsonl import read_jsonl
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.ledger import line_for_fit
from wavedp.store import Draft, Store

STUDY = {"study": "s", "axes": {"grid": {"epsilon": [1]}}, "identity": {"privacy": {"steps": 5}}}


def ledger_line(key="k1", release="r"):
    config = PrivacyConfig(delta=1e-5)
    return line_for_fit(
        Mechanism(0.01, 1.0, 10), config, dataset="d", n_records=100, stage_key=key, trials=[], release=release
    )


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    yield Store(str(tmp_path / "store") if request.param == "local" else "memory://records")
    fsspec.filesystem("memory").store.clear()


def test_a_lost_folder_is_rebuilt_from_the_store(store, tmp_path):
    folder, study = tmp_path / "results" / "s", {**STUDY, "versions": {"é": "1"}}
    copy = Copy(store, copy_name(study))
    claim_folder(folder, study, ["a"])
    copy.put_study(as_yaml(study))
    records = Records(folder, copy)
    records.put_ledger([ledger_line(), ledger_line("k2")], ["a"])
    records.put_ledger([ledger_line()], ["b"])
    for trial in ("b", "a"):
        records.put_trial({"trial": trial, "status": "failed"})
    records.put_trial({"trial": "a", "status": "done"})
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    assert rebuild(folder, store) == (2, 2)
    assert (folder / "study.yaml").read_bytes() == files["study.yaml"]
    assert sorted(read_jsonl(folder / "trials.jsonl"), key=str) == [
        {"trial": "a", "status": "done"}, {"trial": "b", "status": "failed"}
    ]  # fmt: skip
    for name in ("ledger.jsonl",):
        assert sorted((folder / name).read_bytes().split()) == sorted(files[name].split())
    assert rebuild(folder, store) == (2, 2)


def test_which_study_is_rebuilt_is_never_guessed(store, tmp_path):
    with pytest.raises(UserError, match=r"has no records of s: give the store"):
        rebuild(tmp_path / "s", store)
    studies = [STUDY, {**STUDY, "identity": {}}]
    for study in studies:
        Copy(store, copy_name(study)).put_study(as_yaml(study))
    names = sorted(map(copy_name, studies))
    with pytest.raises(UserError, match=f"has 2 studies called s: add --copy {' or '.join(names)}"):
        rebuild(tmp_path / "s", store)
    assert rebuild(tmp_path / "s", store, names[0]) == (0, 0)


def test_a_ledger_line_that_was_cut_off_comes_back_or_is_refused(store, tmp_path):
    copy = Copy(store, copy_name(STUDY))
    copy.put_study(as_yaml(STUDY))
    claim_folder(tmp_path / "s", STUDY, ["a"])
    Records(tmp_path / "s", copy).put_ledger([ledger_line(), ledger_line("k2")], ["a"])
    path = tmp_path / "s" / "ledger.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(UserError, match=r"line 2 of .*ledger\.jsonl was cut off, .*python -m sweeps\.rebuild"):
        Records(tmp_path / "s", copy)
    with pytest.warns(UserWarning, match="was cut off"):
        assert rebuild(tmp_path / "s", store) == (0, 2)
    assert sorted(path.read_bytes().split()) == sorted(whole.split())
    # A copy that lacks another line may lack the one that was cut off.
    path.write_bytes(json.dumps(ledger_line("k3")).encode() + b"\n" + whole[:-20])
    with pytest.warns(UserWarning, match="was cut off"), pytest.raises(UserError, match=r"line 3 of .* was cut off"):
        rebuild(tmp_path / "s", store)


def test_a_folder_without_a_ledger_begins_with_what_was_released(store, tmp_path):
    copy = Copy(store, "s-0")
    Records(tmp_path / "here", copy).put_ledger([ledger_line()], ["a"])
    assert [line["stage_key"] for line in Records(tmp_path / "there", copy).ledger.values()] == ["k1"]
    assert Records(tmp_path / "there", Copy(store, "s-1")).ledger == {}  # another configuration
    assert len(Records(tmp_path / "here", copy).ledger) == 1


def test_what_an_earlier_version_recorded_is_copied(store, tmp_path):
    records = Records(tmp_path / "s")
    records.put_ledger([ledger_line()], ["a"])
    records.put_trial({"trial": "a"})
    copy = Copy(store, "s-0")
    copy.put_missing(records.trials.values(), records.ledger.values())
    assert (copy.trials(), [line["trials"] for line in copy.ledger()]) == ([{"trial": "a"}], [["a"]])


def test_what_cannot_be_written_is_kept_and_written_later(tmp_path):
    records = Records(tmp_path)
    for name in ("trials.jsonl", "ledger.jsonl"):
        (tmp_path / name / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match=r"trials\.jsonl"):
        records.put_trial({"trial": "a"})
    with pytest.raises(OSError, match=r"ledger\.jsonl"):
        records.put_ledger([ledger_line()], ["a"])
    for name in ("trials.jsonl", "ledger.jsonl"):
        shutil.rmtree(tmp_path / name)
    records.save()
    assert read_jsonl(tmp_path / "trials.jsonl") == [{"trial": "a"}]
    assert read_jsonl(tmp_path / "ledger.jsonl")[0]["trials"] == ["a"]


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


# --- records whose store is gone --------------------------------------------------------------------------------------


class Planned(SimpleNamespace):
    def row(self, **changes):
        return {"trial": self.id, "status": "done", "keys": self.keys, **changes}


@pytest.fixture
def planned(monkeypatch):
    monkeypatch.setattr("sweeps.records.chain.fit_kinds", lambda config: config)
    keys = {"coarse_samples": "c1", "evaluate": "e1"}
    return Planned(id="a", config={"private_fit": "dp"}, keys={"private_fit": "k1", **keys})


def test_a_done_trial_is_settled_where_the_store_is_gone(planned, tmp_path, store):
    records = Records(tmp_path)
    assert records.settled([planned], store) == set()
    records.put_ledger([ledger_line()], ["a"])
    records.put_trial(planned.row())
    assert records.settled([planned], store) == {"a"}
    assert Records(tmp_path).settled([planned], store) == {"a"}


@pytest.mark.parametrize(("stage", "key"), [("private_fit", "k1"), ("evaluate", "e1")])
def test_what_the_store_still_has_is_asked_for_as_ever(planned, tmp_path, store, stage, key):
    records = Records(tmp_path)
    records.put_ledger([ledger_line()], ["a"])
    records.put_trial(planned.row())
    draft = Draft()
    draft.json("note", {})
    store.publish(stage, key, draft)
    assert records.settled([planned], store) == set()


@pytest.mark.parametrize("changes", [{"status": "failed"}, {"keys": {"private_fit": "k1", "evaluate": "e2"}}])
def test_a_trial_without_its_result_is_not_settled(planned, tmp_path, store, changes):
    records = Records(tmp_path)
    records.put_ledger([ledger_line()], ["a"])
    records.put_trial(planned.row(**changes))
    assert records.settled([planned], store) == set()


@pytest.mark.parametrize(("kind", "settled"), [("dp", set()), ("nonprivate", set()), ("public", {"a"})])
def test_a_fit_that_no_line_lists_is_not_settled(planned, tmp_path, store, kind, settled):
    planned.config["private_fit"] = kind
    records = Records(tmp_path)
    records.put_ledger([ledger_line("another")], ["a"])
    records.put_trial(planned.row())
    assert records.settled([planned], store) == settled


def test_what_a_stage_took_is_known_to_every_later_run(tmp_path):
    """A run was interrupted before the trial's row was written, and another one after it."""
    row = {"trial": "a", "keys": {"private_fit": "k2"}, "seconds": {"private_fit": 7.5}}
    (tmp_path / "trials.jsonl").write_text(json.dumps(row) + "\n")
    Records(tmp_path).put_cost("k1", 60.5, {"host": 1500})
    assert Records(tmp_path).costs == {
        "k1": {"seconds": 60.5, "memory": {"host": 1500}},
        "k2": {"seconds": 7.5, "memory": {}},
    }

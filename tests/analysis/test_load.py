"""Reading a study's folder: what is tolerated, what is refused, and how light it is."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from study_folder import build

from analysis.load import load, lower_is_better
from wavedp.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build(tmp_path / "eps_grid", epsilons=(1.0, math.inf), seeds=1)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_reads_every_record(folder: Path) -> None:
    study = load(folder)
    assert study.name == "eps_grid"
    assert [trial.trial for trial in study.trials] == [row["trial"] for row in lines(folder / "trials.jsonl")]
    assert study.ledger == lines(folder / "ledger.jsonl")
    assert len(study.done) == 4
    assert study.metrics == ["fid_clean_1k_test2k", "kid_clean_1k_test2k", "acc_cnn400_2k_test"]


def test_inf_is_a_number_and_null_is_absent(folder: Path) -> None:
    trials = {trial.trial: trial for trial in load(folder).trials}
    assert trials["epsinf-bicubic-s0"].epsilon == trials["epsinf-bicubic-s0"].epsilon_spent == math.inf
    assert trials["eps0.01-bicubic-s0"].epsilon_spent is None
    assert trials["eps0.01-bicubic-s0"].status == "infeasible"


def test_budget_is_what_was_spent_at_the_ends_and_what_was_asked_between(folder: Path) -> None:
    rows = lines(folder / "trials.jsonl")[:1] * 3
    rows = [
        dict(row, trial=str(i), epsilon=3.0, epsilon_spent=e)
        for i, (row, e) in enumerate(zip(rows, (0, 2.9, "inf"), strict=True))
    ]
    (folder / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [trial.budget for trial in load(folder).trials] == [0.0, 3.0, math.inf]


def test_torn_last_line_of_the_trials_is_said_and_one_of_the_ledger_is_refused(folder: Path) -> None:
    before = len(load(folder).trials)
    with (folder / "trials.jsonl").open("a") as file:
        file.write('{"trial": "cut o')
    with pytest.warns(UserWarning, match=r"line 7 of .*trials\.jsonl was cut off"):
        assert len(load(folder).trials) == before
    with (folder / "ledger.jsonl").open("a") as file:
        file.write('{"kind": "dp_s')
    with pytest.warns(match="trials"), pytest.raises(UserError, match=r"line 4 of .*ledger\.jsonl was cut off"):
        load(folder)


def test_broken_line_before_the_end_is_refused(folder: Path) -> None:
    path = folder / "trials.jsonl"
    path.write_text('{"trial": "cut o\n' + path.read_text())
    with pytest.raises(UserError, match=r"line 1 of .*trials\.jsonl"):
        load(folder)


def test_later_record_of_a_trial_counts(folder: Path) -> None:
    row = lines(folder / "trials.jsonl")[0]
    with (folder / "trials.jsonl").open("a") as file:
        file.write(json.dumps(row | {"metrics": {"fid_clean_1k_test2k": 1.5}}) + "\n")
    again = [trial for trial in load(folder).trials if trial.trial == row["trial"]]
    assert [trial.metrics for trial in again] == [{"fid_clean_1k_test2k": 1.5}]


def test_nan_is_no_value(folder: Path) -> None:
    row = lines(folder / "trials.jsonl")[0]
    (folder / "trials.jsonl").write_text(
        json.dumps(row | {"metrics": {"fid": math.nan, "kid": None, "acc": 0.5}}) + "\n"
    )
    assert load(folder).trials[0].metrics == {"acc": 0.5}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "trials.jsonl").unlink(), "has no trials.jsonl"),
        (lambda f: (f / "study.yaml").unlink(), "has no study.yaml"),
        (lambda f: (f / "trials.jsonl").write_text(""), "holds no trial yet"),
        (
            lambda f: (f / "trials.jsonl").write_text('{"trial": "a", "status": "done", "seed": 0}\n'),
            "has no 'epsilon'",
        ),
        (lambda f: (f / "ledger.jsonl").write_text('{"kind": "dp_sgd"}\n'), "lacks kind or stage_key"),
    ],
)
def test_unusable_folder_is_refused_with_the_reason(folder: Path, damage, message: str) -> None:
    damage(folder)
    with pytest.raises(UserError, match=message):
        load(folder)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        load(tmp_path / "nowhere")


def test_unknown_metric_names_those_there_are(folder: Path) -> None:
    study = load(folder)
    assert study.metric() == "fid_clean_1k_test2k"
    with pytest.raises(UserError, match=r"'fid'.*choose one of: fid_clean_1k_test2k, kid_clean"):
        study.metric("fid")


def test_provenance_follows_the_files(folder: Path) -> None:
    before = load(folder).provenance()
    with (folder / "ledger.jsonl").open("a") as file:
        file.write("\n")
    after = load(folder).provenance()
    assert before["ledger_sha256"] != after["ledger_sha256"]
    assert {key for key in before if before[key] != after[key]} == {"ledger_sha256"}


def test_direction_of_metrics() -> None:
    assert lower_is_better("fid_clean_1k_test")
    assert lower_is_better("kid_clean_1k_accuracy_named_set")
    assert not lower_is_better("acc_cnn400_2k_test")


def test_loading_imports_nothing_heavy() -> None:
    code = (
        "import sys, analysis.load; print(sorted({'plotly', 'torch', 'pandas', 'scipy', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

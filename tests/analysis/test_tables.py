"""The results table and the end-of-study report."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from study_folder import build

from analysis import report
from analysis.load import Study, load
from analysis.pareto import pareto_data
from analysis.replicates import interval
from analysis.tables import table, write_table
from wavedp.errors import UserError

FID = "fid_clean_1k_test2k"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return load(build(tmp_path_factory.mktemp("results") / "eps_grid"))


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def with_fid(study: Study, values: dict[str, list[float]]) -> Study:
    """A study of one ε: {series: FID of each seed}."""
    first = study.done[0]
    trials = [
        dataclasses.replace(
            first, trial=f"{name}{i}", seed=i, metrics={FID: v}, axes={"upscaler": name}, keys={}, generator=name
        )
        for name, column in values.items()
        for i, v in enumerate(column)
    ]
    return dataclasses.replace(study, trials=trials)


def test_a_row_for_each_series_and_epsilon(study: Study) -> None:
    header, _, *body = rows(table(study, [FID]))
    assert header == ["series", "ε", "ε spent", f"{FID} ↓", "n", "s/trial", "reused"]
    assert [row[:2] for row in body[:8]] == [
        [s, e] for s in ("bicubic", "realesrgan_x4plus") for e in ("1", "3", "10", "∞")
    ]
    values = [trial.metrics[FID] for trial in study.done if trial.upscaler == "bicubic" and trial.epsilon == 1]
    expected = interval(values)
    assert body[0][3] == f"{expected.mean:.1f} ± {expected.half_width:.1f}"
    # A fresh trial runs all of 42 + 3.5 + 20 s; one that found the fit, 3.5 + 20 s, and reuses 4 of its 6 stages.
    assert body[0][4:] == ["3", "65.5", "0/18"]
    assert body[4][4:] == ["3", "23.5", "12/18"]


def test_what_took_how_long_is_left_open_where_nobody_knows(study: Study) -> None:
    """Rows of sweeps.collect have no seconds; a trial that found everything has none either, and took none."""
    alike = [trial for trial in study.done if trial.upscaler == "bicubic" and trial.epsilon == 1]
    collected = [dataclasses.replace(trial, seconds={}) for trial in alike]
    (row,) = rows(table(dataclasses.replace(study, trials=collected), [FID]))[2:3]
    assert row[5:] == ["", ""]
    found = [dataclasses.replace(trial, seconds={}, reused=list(trial.keys)) for trial in alike]
    (row,) = rows(table(dataclasses.replace(study, trials=found), [FID]))[2:3]
    assert row[5:] == ["0", "18/18"]


def test_trials_without_a_result_are_listed_with_their_reasons(study: Study) -> None:
    found = rows(table(study))
    assert ["eps0.01-bicubic-s0", "infeasible", "no noise level up to 1e4 reaches ε=0.01 at δ=1.5e-6"] in found
    assert ["eps3-bicubic-s9", "failed", "worker died twice (out of memory)"] in found


def test_bold_only_where_intervals_are_apart(study: Study) -> None:
    apart = with_fid(study, {"a": [10.0, 11.0, 12.0], "b": [20.0, 21.0, 22.0], "c": [19.0, 20.0, 24.0]})
    assert [("**" in row[3]) for row in rows(table(apart))[2:]] == [True, False, False]
    # The means are 2 apart, each interval ±2.5 wide.
    close = with_fid(study, {"a": [10.0, 11.0, 12.0], "b": [12.0, 13.0, 14.0]})
    assert "**" not in table(close)


def test_bold_needs_replicates_and_rivals(study: Study) -> None:
    assert "**" not in table(with_fid(study, {"a": [1.0], "b": [50.0]}))
    assert "**" not in table(with_fid(study, {"a": [1.0, 1.1, 1.2]}))


def test_real_images_win_no_bold(study: Study) -> None:
    text = table(with_fid(study, {"real": [1.0, 1.1, 1.2], "a": [10.0, 10.1, 10.2], "b": [20.0, 20.1, 20.2]}))
    assert [("**" in row[3]) for row in rows(text)[2:]] == [False, True, False]


def test_bold_follows_the_direction_of_the_metric(study: Study) -> None:
    body = rows(table(study, ["acc_cnn400_2k_test"]))[2:10]
    assert not any("**" in row[3] for row in body[:4])
    assert any("**" in row[3] for row in body[4:])


def test_a_metric_that_some_replicates_lack_says_so(study: Study) -> None:
    short = with_fid(study, {"a": [10.0, 11.0, 12.0]})
    short.trials[2].metrics.clear()
    assert rows(table(short))[2][3].endswith("(n=2)")


def test_the_floor_stands_beside_its_metric_and_in_no_column(study: Study) -> None:
    for number, trial in enumerate(study.done):
        trial.metrics["floor_fid_clean_1k_test2k"] = 20.66
        trial.metrics["floor_other"] = float(number)
        # Of another precision, another count and another mode: none of them is this metric's.
        trial.metrics.update({"floor_fid_clean-bf16_1k_test2k": 31.0, "floor_fid_clean_10k_test": 5.0})
        trial.metrics["floor_fid_pytorch_1k_test2k"] = 40.0
    header = table(study).splitlines()[0]
    assert "fid_clean_1k_test2k ↓ (real 20.7)" in header
    assert "kid_clean_1k_test2k ↓ |" in header
    assert "floor" not in header
    assert "Real images in their place get 20.7." in pareto_data(study, "fid_clean_1k_test2k").caption
    assert "Real images" not in pareto_data(study, "kid_clean_1k_test2k").caption


def test_table_is_aligned_and_safe(study: Study) -> None:
    piped = dataclasses.replace(
        study, trials=[*study.trials, dataclasses.replace(study.trials[-1], trial="p", reason="a|b\nc")]
    )
    text = table(piped)
    assert "a\\|b c" in text
    for block in text.strip().split("\n\n"):
        assert len({len(line) for line in block.splitlines()}) == 1


def test_unknown_metric(study: Study) -> None:
    with pytest.raises(UserError, match="psnr"):
        table(study, ["psnr"])


def test_nothing_finished(study: Study) -> None:
    failed = dataclasses.replace(study, trials=[trial for trial in study.trials if trial.status != "done"])
    assert table(failed).startswith("No trial has finished.")


def test_results_page_says_what_it_rests_on(study: Study) -> None:
    text = write_table(study).read_text()
    for part in (
        "In every row: generator spectral_ar, level 1, blur none.",
        "δ = 1.5e-6",
        "1k generated against 2k of the real test images",
        "a CNN after 400 steps on 2k generated images",
        "fid reference, private fit at ε = ∞ ×3",
        "realesrgan_x4plus: x4 model, antialiased down to 28 px.",
        str(study.provenance()["trials_sha256"])[:12],
        "python -m sweeps.run +sweep=eps_grid",
    ):
        assert part in text


def test_report_gives_three_epsilons(study: Study, capsys: pytest.CaptureFixture) -> None:
    assert report.main([str(study.folder)]) == 0
    text = capsys.readouterr().out
    assert "24 done, 1 failed, 1 infeasible" in text
    assert "ε = 0.998 to 9.98: for whoever sees that trial alone" in text
    assert "ε = 14.2: 9 private releases composed" in text
    assert "best of 26   not claimed" in text
    assert str(study.folder / "trials.jsonl") in text
    assert FID in text
    assert "kid_clean" not in text


def test_report_prices_the_best_of_a_random_number(tmp_path: Path) -> None:
    folder = build(tmp_path / "s", epsilons=(1.0,), seeds=2)
    (folder / "study.yaml").write_text("axes: {search: {random_k: {distribution: geometric, mean: 12}}}\n")
    assert "refused. A look without noise" in report.report(folder)  # at the images that it was fitted to
    path = folder / "ledger.jsonl"
    path.write_text("".join(row for row in path.read_text().splitlines(keepends=True) if "nonprivate" not in row))
    text = report.report(folder)
    assert "best of K    Best of K ~ geometric(mean 12) trials: epsilon = " in text
    assert "not claimed" not in text


def test_report_without_a_release(tmp_path: Path) -> None:
    text = report.report(build(tmp_path / "s", epsilons=(math.inf,), seeds=1, private=False))
    assert "No private release was made." in text
    assert "whole study" not in text


def test_report_of_a_study_in_which_nothing_finished(tmp_path: Path) -> None:
    folder = build(tmp_path / "s", epsilons=(1.0,), seeds=1)
    path = folder / "trials.jsonl"
    path.write_text(path.read_text().replace('"status": "done"', '"status": "failed"'))
    text = report.report(folder)
    assert "no private trial has finished" in text
    assert "ε = 1: 1 private release composed" in text


def test_report_refuses_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert report.main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("Error: there is no folder")

"""The comparison of methods: on studies that are made up, and as a command on those that are committed."""

from __future__ import annotations

import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats
from study_folder import build

from analysis.compare import Compared, compare_data, main, read
from analysis.compare_table import COLUMNS, TEST_COLUMNS, least_text, markdown, rows, write_tables
from analysis.compare_table import test_rows as rows_of_tests
from analysis.front import Least
from analysis.load import Study, load
from analysis.replicates import interval
from wavedp.errors import UserError

RESULTS = Path(__file__).parents[2] / "results"
FID, ACC = "fid_clean_1k_test2k", "acc_cnn400_2k_test"
BF16 = "fid_clean-bf16_1k_test2k"


@pytest.fixture(scope="module")
def public() -> Compared:
    return compare_data([load(RESULTS / "public_data")], target=121.0)


def edit(folder: Path, change) -> Path:
    """Change every line of trials.jsonl. change: given a row, returns one or None to leave it out."""
    path = folder / "trials.jsonl"
    made = [change(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in made if row is not None), encoding="utf-8")
    return folder


def noisy(folder: Path) -> Path:
    """Each row with its own noise: that of study_folder is the same for both upscalers."""

    def change(row: dict) -> dict:
        rng = np.random.default_rng([row["seed"], len(row["trial"]), int(min(float(row["epsilon"]), 99) * 100)])
        return row | {"metrics": {name: value + rng.normal(0, 0.01 * value) for name, value in row["metrics"].items()}}

    return edit(folder, change)


def recorded(study: str, metric: str) -> dict[tuple[str, str], dict[int, float]]:
    """{(series, ε): {seed: value}} of public_data, read without wavedp."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for line in (RESULTS / study / "trials.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        place = f"{row['axes']['case']}, {row['axes']['generator']}", str(row["epsilon"])
        found.setdefault(place, {})[row["seed"]] = row["metrics"][metric]
    return found


# --- the numbers, on a committed study of three seeds


def test_cells_are_those_of_the_studys_own_table(public: Compared) -> None:
    own = {}
    for line in (RESULTS / "public_data" / "results.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().strip("*") for cell in line.strip("|").split("|")]
        if len(cells) == 9 and "±" in line:
            own[cells[0], f"ε = {cells[1]}"] = cells[4]
    page = markdown(public).split("\n\n")[1].splitlines()
    header, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in page)
    shown = {
        (line[0], head): cell for line in lines[1:] for head, cell in zip(header[1:], line[1:], strict=True) if cell
    }
    assert len(shown) == len(own) == 16
    assert shown == own


def test_intervals_are_scipys(public: Compared) -> None:
    (axis,) = public.axes
    values = recorded("public_data", BF16)
    for row in axis.rows:
        for epsilon in row.points:
            seen = list(values[row.label, f"{epsilon:g}" if epsilon == math.inf else str(epsilon)].values())
            low, high = stats.t.interval(0.95, 2, np.mean(seen), stats.sem(seen))
            value = axis.value(row, epsilon)
            assert (value.low, value.high) == (pytest.approx(low), pytest.approx(high))


def test_tests_are_scipys_and_their_correction_is_stepwise(public: Compared) -> None:
    (axis,) = public.axes
    values = recorded("public_data", BF16)
    expected = {}
    for test in axis.tests:
        one, other = values[test.one, str(test.epsilon)], values[test.other, str(test.epsilon)]
        differences = [one[seed] - other[seed] for seed in sorted(one)]
        expected[test.one, test.other, test.epsilon] = stats.ttest_1samp(differences, 0).pvalue
        assert test.p == pytest.approx(expected[test.one, test.other, test.epsilon])
    assert len(expected) == 18  # 6 pairs at ε = 0, 1, 10
    ordered = sorted(expected.values())
    rejected = next((k for k, p in enumerate(ordered) if p > 0.05 / (18 - k)), 18)
    assert [test.p for test in axis.tests if test.holds] == [pytest.approx(p) for p in ordered[:rejected]]
    assert rejected == 1


def test_real_images_do_not_compete(public: Compared) -> None:
    (axis,) = public.axes
    assert len(axis.rows) == 8
    named = {test.one for test in axis.tests} | set(axis.volumes) | {each.method for each in axis.wanted}
    assert len(named) == 4
    assert not any("real" in name for name in named)


def test_hypervolumes_by_hand(public: Compared) -> None:
    """The worst single run and ten times ε = 10 are the reference; clip art is at 123.5 and 118.9."""
    (axis,) = public.axes
    values = recorded("public_data", BF16)
    worst = max(
        v for (name, e), row in values.items() if "spectral" in name and e in ("1.0", "10.0") for v in row.values()
    )
    assert axis.reference == (100.0, worst)
    assert axis.budgets == (1.0, 10.0)
    one, ten = (np.mean(list(values["clip art, spectral_ar", e].values())) for e in ("1.0", "10.0"))
    assert axis.volumes["clip art, spectral_ar"].value == pytest.approx(2 * (worst - one) + (one - ten))
    assert "reference point ε = 100, fid_clean-bf16_1k_test2k = 128.9" in markdown(public)


def test_least_epsilon_in_words(public: Compared) -> None:
    page = markdown(public)
    one, ten = (
        np.mean(list(recorded("public_data", BF16)["clip art, spectral_ar", e].values())) for e in ("1.0", "10.0")
    )
    crossing = 10 ** ((one - 121) / (one - ten))
    assert f"| clip art, spectral_ar       | {crossing:.3g}, between 1 and 10 " in page
    assert "none that was tried; the lowest is 122.5 at ε = 10 | none that was tried |" in page


# --- the command, on committed studies


def test_the_command_of_the_readme(tmp_path: Path) -> None:
    studies = [f"results/{name}" for name in ("eps_grid", "eps_grid_small", "public_data")]
    command = [sys.executable, "-m", "analysis.compare", *studies, "--at", "100", "-o", str(tmp_path)]
    done = subprocess.run(command, cwd=RESULTS.parent, capture_output=True, text=True, encoding="utf-8", check=True)
    for part in (
        f"## {FID} ↓: eps_grid, eps_grid_small",
        f"## {BF16} ↓: public_data",
        "| eps_grid: spectral_ar, level 1, wavelet_detail       | 93.42 | 90.53 | 86.79  | 82.11 |",
        "at most 1, the smallest that was tried and has a result | no interval (fewer than 3 seeds)",
        "public_data and eps_grid may not share an axis: measured by clean-fid's resizing in bfloat16 against clean-",
        "Not tested, 1 of at least 3 seeds in common: eps_grid: spectral_ar",
        "Holm-corrected over the 18 tests of this page",
        "All of them together: 6 private releases, composed ε = 11.9.",
        "eps_grid_small: trials.jsonl sha256 3550eb65121b",
    ):
        assert part in done.stdout
    assert (tmp_path / "compare.md").read_text(encoding="utf-8") == done.stdout
    assert done.stderr.splitlines() == [
        str(tmp_path / name) for name in ("compare.md", "compare.csv", "compare_tests.csv")
    ]
    with (tmp_path / "compare.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS
    (one,) = [line for line in lines if line["study"] == "eps_grid" and line["epsilon"] == "inf"]
    assert (float(one["mean"]), one["half_width"], one["n"]) == (82.10679266763503, "", "1")
    with (tmp_path / "compare_tests.csv").open(encoding="utf-8") as file:
        tests = list(csv.DictReader(file))
    assert tuple(tests[0]) == TEST_COLUMNS
    assert sum(bool(line["p"]) for line in tests) == 18


def test_published_numbers_beside_ours_are_hollow(capsys: pytest.CaptureFixture) -> None:
    assert main([str(RESULTS / "eps_grid"), "--published"]) == 0
    page = capsys.readouterr().out
    assert "| ○ PrivImage (DPImageBench, fid_pytorch_50k_train)     |         | ○ 12.1 " in page
    assert "○ 28.8 (?)" in page
    assert "○ 53.5 (?)" in page
    assert "DPDM at ε = 1: 28.8 and 53.5 are both in print" in page
    assert "hollow, not comparable: split dpimagebench (here official); measured by pytorch-fid's resizing" in page
    assert "● " not in page.replace("●: published, comparable", "")
    data = compare_data([load(RESULTS / "eps_grid")], with_published=True)
    assert {row[-1] for row in rows(data)} == {"", "no"}
    assert not any("DPImageBench" in label for label in data.axes[0].volumes)


# --- what is unusual


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return load(noisy(build(tmp_path / "results" / "grid")))


def test_fewer_than_three_seeds_have_no_interval(study: Study, tmp_path: Path) -> None:
    two = edit(study.folder, lambda row: None if row["seed"] == 2 and row["upscaler"] == "bicubic" else row)
    data = compare_data([load(two)])
    (axis,) = data.axes
    bicubic, other = axis.rows
    assert axis.value(bicubic, 1.0).half_width is None
    assert axis.value(bicubic, 1.0).n == 2
    assert axis.value(other, 1.0).half_width > 0
    assert {test.reason for test in axis.tests} == {"2 of at least 3 seeds in common"}
    page = markdown(data)
    assert re.search(r"\| bicubic +\| 1 infeasible +\| \d+\.\d+ \(n=2\)", page)
    assert "Values of fewer than 3 seeds have no interval." in page


def test_sample_sets_of_one_fit_are_no_replicates() -> None:
    (axis,) = compare_data([load(RESULTS / "eps_grid_detail")]).axes
    assert all(axis.value(row, e).half_width is None for row in axis.rows for e in row.points)
    assert {test.reason for test in axis.tests} == {"1 of at least 3 seeds in common"}
    assert all(found.low is None for found in axis.volumes.values())
    page = markdown(compare_data([load(RESULTS / "eps_grid_detail")]))
    assert "148.5 (n=1×3)" in page
    assert "tell nothing of another fit" in page


def test_no_line_is_drawn_across_a_failed_trial(study: Study) -> None:
    """bicubic passes 120 between ε = 3 and 10, and has a failed trial at 3; the other has none."""
    data = compare_data([study], target=120.0)
    bicubic, other = data.axes[0].wanted
    assert (bicubic.least.kind, bicubic.least.epsilon, bicubic.least.failed) == ("tested", 10.0, (3.0,))
    assert other.least.kind in ("between", "at most")
    page = markdown(data)
    assert "10, the first that reaches it; between 3 and 10 no line is drawn (trials without a result at ε = 3)" in page
    assert "(1 failed)" in page


@pytest.mark.parametrize(
    ("found", "lower", "words"),
    [
        (Least("unknown"), True, "none: nothing was measured"),
        (Least("public", 0.0), True, "0: no private image is needed"),
        (Least("infinite", math.inf), True, "none that is finite; ε = ∞ reaches it"),
        (Least("never", best=(10.0, 0.8)), False, "none that was tried; the highest is 0.8 at ε = 10"),
        (Least("between", 2.5, (1.0, 3.0), lost=(10.0,)), True, "2.5, between 1 and 3; not at ε = 10"),
    ],
)
def test_answers_that_are_no_number_are_words(found: Least, lower: bool, words: str) -> None:
    assert least_text(found, lower) == words


def test_higher_is_better_where_the_metric_says_so(study: Study) -> None:
    (axis,) = compare_data([study], ACC, target=0.74).axes
    assert not axis.lower_is_better
    runs = [v for row in axis.rows for e in (1.0, 3.0, 10.0) for v in row.points[e].by_seed(ACC).values()]
    assert axis.reference == (100.0, min(runs))
    assert axis.volumes["realesrgan_x4plus"].value > axis.volumes["bicubic"].value > 0
    assert f"### Least ε for {ACC} ≥ 0.74" in markdown(compare_data([study], ACC, target=0.74))


def test_one_method_against_the_others_is_a_smaller_family() -> None:
    study = load(RESULTS / "public_data")
    data = compare_data([study], against="+ icons, spectral_ar")
    assert len(data.axes[0].tests) == 9
    every = {(t.one, t.other, t.epsilon): t.adjusted for t in compare_data([study]).axes[0].tests}
    assert all(t.adjusted <= every[t.one, t.other, t.epsilon] for t in data.axes[0].tests)
    with pytest.raises(UserError, match=r"^--against 'spectral' could be clip art, spectral_ar or \+ icons"):
        compare_data([study], against="spectral")
    with pytest.raises(UserError, match=r"^--against 'icon, spectral_ar' is no method here: did you mean \+ icons"):
        compare_data([study], against="icon, spectral_ar")


def test_the_reference_point_can_be_given() -> None:
    (axis,) = compare_data([load(RESULTS / "eps_grid")], reference=(20.0, 100.0)).axes
    a, b, c = (axis.rows[0].points[e].interval(FID).mean for e in (1.0, 3.0, 10.0))
    one, three, ten = (math.log10(20 / e) for e in (1.0, 3.0, 10.0))
    expected = one * (100 - a) + three * (a - b) + ten * (b - c)
    assert axis.volumes[axis.rows[0].label].value == pytest.approx(expected)


def test_without_a_common_epsilon_there_is_no_hypervolume(study: Study) -> None:
    apart = edit(
        study.folder,
        lambda row: row if (row["upscaler"] == "bicubic") == (row["epsilon"] == 1.0) else None,
    )
    (axis,) = compare_data([load(apart)]).axes
    assert (axis.volumes, axis.reference) == ({}, None)
    assert "None: no finite ε is common to all methods that have one." in markdown(compare_data([load(apart)]))


def test_results_that_two_studies_share_are_said_and_not_tested(study: Study, tmp_path: Path) -> None:
    copy = tmp_path / "results" / "copy"
    build(copy)
    for name in ("trials.jsonl", "study.yaml"):
        (copy / name).write_text((study.folder / name).read_text(encoding="utf-8"), encoding="utf-8")
    data = compare_data([study, load(copy)])
    (axis,) = data.axes
    assert axis.studies == ("grid", "copy")  # both are called eps_grid
    assert any(note == "grid: bicubic and copy: bicubic share results at ε = 1, 3, 10, ∞." for note in axis.notes)
    same = [test for test in axis.tests if {test.one, test.other} == {"grid: bicubic", "copy: bicubic"}]
    assert {test.reason for test in same} == {"the same results"}


def test_studies_that_may_not_be_compared_have_tables_of_their_own(study: Study, tmp_path: Path) -> None:
    other = build(tmp_path / "other" / "grid")
    meta = yaml.safe_load((other / "study.yaml").read_text(encoding="utf-8"))
    meta["config"]["data"] = {"name": "mnist", "split": "official", "size": 32}
    (other / "study.yaml").write_text(yaml.safe_dump(meta), encoding="utf-8")
    data = compare_data([study, load(other)])
    assert [axis.studies for axis in data.axes] == [(str(study.folder),), (str(other),)]
    assert data.apart == (
        f"{other} and {study.folder} may not share an axis: data mnist against fashion_mnist (other images); "
        "resolution 32×32 against 28×28 (the feature network sees another blur).",
    )
    assert not any({test.one, test.other} & {"grid: bicubic"} for axis in data.axes for test in axis.tests)


def test_tests_of_all_tables_are_one_family(study: Study) -> None:
    alone = [test.adjusted for axis in compare_data([study]).axes for test in axis.tests]
    both = compare_data([study, load(RESULTS / "public_data")])
    assert len(both.axes) == 2
    assert sum(test.p is not None for axis in both.axes for test in axis.tests) == 18 + 4
    assert all(a > b for a, b in zip([test.adjusted for test in both.axes[0].tests], alone, strict=True))
    assert "Holm-corrected over the 22 tests of this page" in markdown(both)


def test_markup_in_a_name_does_not_break_the_table(study: Study) -> None:
    odd = edit(study.folder, lambda row: row | {"axes": row["axes"] | {"upscaler": f"a|b {row['upscaler']}"}})
    page = markdown(compare_data([load(odd)]))
    assert "| a\\|b bicubic " in page
    table = page.split("\n\n")[1].splitlines()
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1


# --- broken inputs


def said(capsys: pytest.CaptureFixture) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_half_written_last_line_is_left_out_in_one_sentence(study: Study, capsys: pytest.CaptureFixture) -> None:
    with (study.folder / "trials.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"trial": "half')
    assert main([str(study.folder)]) == 0
    out, err = capsys.readouterr()
    assert "bicubic" in out
    (line,) = err.splitlines()
    assert line.startswith("analysis.compare: line 27 of ")
    assert line.endswith("trials.jsonl was cut off while it was written: left out.")


def test_a_ledger_that_was_cut_off_leaves_its_study_out(study: Study, capsys: pytest.CaptureFixture) -> None:
    with (study.folder / "ledger.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "dp_')
    assert main([str(study.folder), str(RESULTS / "eps_grid")]) == 0
    out, err = capsys.readouterr()
    assert "wavelet_detail" in out
    (line,) = err.splitlines()
    assert line.startswith(f"analysis.compare: {study.folder} is left out: line ")
    assert main([str(study.folder)]) == 2
    (line,) = said(capsys)
    assert line.startswith("Error: nothing can be compared: ")


def test_a_folder_that_is_no_study(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(tmp_path / "none")]) == 2
    (line,) = said(capsys)
    assert f"there is no folder {tmp_path / 'none'}" in line


def test_a_missing_metric_is_said_with_those_that_are_there(study: Study, capsys: pytest.CaptureFixture) -> None:
    assert main([str(study.folder), "--metric", "psnr"]) == 2
    (line,) = said(capsys)
    assert line == (
        f"Error: nothing can be compared: eps_grid is left out: it has no psnr, only {FID}, kid_clean_1k_test2k, {ACC}."
    )
    assert main([str(study.folder), str(RESULTS / "public_data"), "--metric", BF16]) == 0
    assert f"* eps_grid is left out: it has no {BF16}, only {FID}" in capsys.readouterr().out


def test_a_study_whose_primary_metric_nobody_has(study: Study) -> None:
    lost = edit(study.folder, lambda row: row | {"metrics": {ACC: row["metrics"].get(ACC)}})
    data = compare_data([load(lost), load(RESULTS / "eps_grid")])
    assert data.left_out == (f"grid is left out: it has no fid, only {ACC}.",)
    assert [axis.studies for axis in data.axes] == [("eps_grid",)]


def test_no_finished_trial(study: Study, capsys: pytest.CaptureFixture) -> None:
    failed = edit(study.folder, lambda row: row | {"status": "failed", "reason": "x", "metrics": {}})
    assert main([str(failed)]) == 2
    (line,) = said(capsys)
    assert line == "Error: nothing can be compared: eps_grid is left out: none of its 26 trials has finished."
    data = compare_data([load(failed), load(RESULTS / "eps_grid")])
    assert data.left_out == ("grid is left out: none of its 26 trials has finished.",)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--reference", "100"], "--reference 100 is not a point"),
        (["--reference", "0,100"], "has no place on the logarithm"),
        (["--reference", "inf,100"], "has no place on the logarithm"),
        (["--at", "nan"], "--at nan is no value"),
    ],
)
def test_odd_options_are_refused_in_one_sentence(options: list[str], words: str, capsys: pytest.CaptureFixture) -> None:
    assert main([str(RESULTS / "eps_grid"), *options]) == 2
    (line,) = said(capsys)
    assert words in line


def test_a_folder_named_twice_counts_once(study: Study) -> None:
    studies, sentences = read([study.folder, study.folder / ".." / "grid"])
    assert len(studies) == 1
    assert sentences == []


def test_published_numbers_that_do_not_exist_are_said() -> None:
    data = compare_data([load(RESULTS / "eps_grid")], "kid_clean_1k_test2k", with_published=True)
    assert data.left_out == ("No number of this data set and family of metrics is in analysis/published.",)


def test_a_trial_that_finished_without_the_metric_is_told(study: Study) -> None:
    """It is no failed one, but no line is drawn across it either."""

    def change(row: dict) -> dict:
        gone = row["upscaler"] == "realesrgan_x4plus" and row["epsilon"] == 3.0 and row["seed"] == 0
        return row | {"metrics": {ACC: row["metrics"][ACC]}} if gone else row

    data = compare_data([load(edit(study.folder, change))], FID, target=110.0)
    assert data.axes[0].rows[1].lost == {3.0: {"unmeasured": 1}}
    assert data.axes[0].wanted[1].least.kind == "tested"
    assert "(n=2, 1 unmeasured)" in markdown(data)


def test_files_hold_all_that_the_page_has(study: Study, tmp_path: Path) -> None:
    data = compare_data([study])
    paths = write_tables(data, tmp_path / "out" / "deep")
    assert [path.name for path in paths] == ["compare.md", "compare.csv", "compare_tests.csv"]
    listed = rows(data)
    assert len(listed) == 9  # 4 ε of 2 methods, and one ε without a result
    (lost,) = [row for row in listed if row[3] == "0.01"]
    assert lost[4:9] == ("", "", "", "", "1 infeasible")
    value = interval(list(data.axes[0].rows[0].points[1.0].by_seed(FID).values()))
    (one,) = [row for row in listed if row[2:4] == ("bicubic", "1")]
    assert (float(one[4]), float(one[5])) == (value.mean, value.half_width)
    assert len(rows_of_tests(data)) == 4


def test_samples_that_another_protocol_judged_are_not_lost(study: Study) -> None:
    """Each trial a second time, judged by accuracy alone: one row a method, in which nothing is unmeasured."""

    def halves(text: str) -> str:
        lines = []
        for row in map(json.loads, text.splitlines()):
            for protocol, name in (("one", FID), ("two", ACC)):
                some = {name: row["metrics"][name]} if row["metrics"] else {}
                axes = {**row["axes"], "metrics": protocol}
                lines.append({**row, "trial": f"{row['trial']}-{protocol}", "axes": axes, "metrics": some})
        return "".join(json.dumps(line) + "\n" for line in lines)

    path = study.folder / "trials.jsonl"
    whole = compare_data([study], FID)
    path.write_text(halves(path.read_text()))
    for metric in (FID, ACC):
        found = compare_data([load(study.folder)], metric)
        assert [(row.label, row.lost) for row in found.axes[0].rows] == [
            (row.label, row.lost) for row in whole.axes[0].rows
        ]


def test_pairs_without_a_test_are_listed_while_they_are_few(study: Study) -> None:
    kept = [json.loads(line) for line in (study.folder / "trials.jsonl").read_text().splitlines()]
    kept = [row for row in kept if (row["seed"], row["epsilon"]) == (0, 1)]

    def said(cases: int) -> str:
        rows = [{**row, "axes": {**row["axes"], "case": f"c{i}"}} for i in range(cases) for row in kept]
        rows = [{**row, "trial": f"{row['trial']}-{i}", "keys": {}, "seconds": {}} for i, row in enumerate(rows)]
        (study.folder / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return markdown(compare_data([load(study.folder)], FID))

    assert "* Not tested, 1 of at least 3 seeds in common: bicubic and realesrgan_x4plus, at ε = 1." in said(1)
    assert "* Not tested, 1 of at least 3 seeds in common: 28 pairs, at ε = 1." in said(4)

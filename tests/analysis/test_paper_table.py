"""Table T1 as Markdown, LaTeX and CSV, of one set of numbers."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from pathlib import Path

import pytest
from study_folder import build

from analysis.load import Study, load
from analysis.paper_table import MethodTable, table_data, to_csv, to_latex, to_markdown, write_table_files


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return load(build(tmp_path_factory.mktemp("results") / "eps_grid", epsilons=(1.0, 3.0, math.inf)))


@pytest.fixture(scope="module")
def data(study: Study) -> MethodTable:
    return table_data([study])


def test_golden_markdown(data: MethodTable) -> None:
    table = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in to_markdown(data).split("\n\n")[0].split("\n")
    ]
    assert table[0] == ["fid_clean_1k_test2k ↓", "ε = 0.01", "ε = 1", "ε = 3", "ε = ∞"]
    assert table[2] == ["bicubic", "1 infeasible", "149.0 ± 3.7", "125.7 ± 2.5 (1 failed)", "103.43 ± 0.97"]
    assert table[3] == ["realesrgan_x4plus", "", "**122.0 ± 3.7**", "**98.7 ± 2.5**", "**73.43 ± 0.97**"]


def test_golden_latex(data: MethodTable) -> None:
    assert to_latex(data).splitlines() == [
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        r"fid\_clean\_1k\_test2k $\downarrow$ & $\varepsilon$ = 0.01 & $\varepsilon$ = 1 & $\varepsilon$ = 3 & "
        r"$\varepsilon$ = $\infty$ \\",
        r"\midrule",
        r"bicubic & 1 infeasible & 149.0 $\pm$ 3.7 & 125.7 $\pm$ 2.5 (1 failed) & 103.43 $\pm$ 0.97 \\",
        r"realesrgan\_x4plus &  & \textbf{122.0 $\pm$ 3.7} & \textbf{98.7 $\pm$ 2.5} & \textbf{73.43 $\pm$ 0.97} \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_csv_has_the_numbers_in_full(data: MethodTable) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(data))))
    assert len(rows) == 7
    one = next(row for row in rows if (row["method"], row["epsilon"]) == ("realesrgan_x4plus", "inf"))
    value = data.entries["realesrgan_x4plus", math.inf].value
    assert (float(one["mean"]), float(one["half_width"]), one["n"], one["best"]) == (
        value.mean, value.half_width, "3", "yes",
    )  # fmt: skip


def test_nothing_is_bold_where_intervals_touch_or_are_missing(study: Study) -> None:
    near = {"bicubic": 100.0, "realesrgan_x4plus": 99.0}
    trials = [
        dataclasses.replace(t, metrics={"fid_clean_1k_test2k": near[t.upscaler] + 3 * t.seed}) for t in study.done
    ]
    assert "**" not in to_markdown(table_data([dataclasses.replace(study, trials=trials)]))
    two = [trial for trial in study.done if trial.seed < 2]
    text = to_markdown(table_data([dataclasses.replace(study, trials=two)]))
    assert "**" not in text
    assert "±" not in text.split("\n\n")[0]


def test_another_number_of_seeds_is_stated(study: Study) -> None:
    trials = [trial for trial in study.done if trial.trial != "eps1-bicubic-s2"]
    data = table_data([dataclasses.replace(study, trials=trials)])
    assert data.entries["bicubic", 1.0].told == "n=2"
    assert "n = 3 where no n is given." in data.notes


def test_all_three_are_written(data: MethodTable, tmp_path: Path) -> None:
    assert [path.name for path in write_table_files(data, tmp_path / "t1")] == ["t1.md", "t1.tex", "t1.csv"]

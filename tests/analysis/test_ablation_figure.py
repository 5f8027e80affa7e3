"""A study of one budget: a row for each series, in order, with its interval; other studies keep the Pareto figure."""

from __future__ import annotations

import json
from pathlib import Path

from study_folder import build

from analysis.ablation_figure import ablation_figure, has_one_budget
from analysis.figures import render
from analysis.load import load
from analysis.pareto import DOMINANCE, pareto_data


def test_rows_are_series_best_first_with_their_intervals(tmp_path: Path) -> None:
    data = pareto_data(load(build(tmp_path / "study", epsilons=(3.0,))))
    assert has_one_budget(data)
    (trace,) = ablation_figure(data).data
    values = {front.label: front.points[0].value for front in data.fronts}
    assert list(trace.y) == sorted(values, key=lambda label: values[label].mean) == ["realesrgan_x4plus", "bicubic"]
    assert list(trace.x) == [values[label].mean for label in trace.y]
    assert list(trace.error_x.array) == [values[label].half_width for label in trace.y]
    assert min(trace.error_x.array) > 0
    (caption,) = ablation_figure(data).layout.annotations
    assert DOMINANCE not in caption.text
    said = caption.text.replace("<br>", " ")
    assert f"all at ε = 3; whole study, 3 private releases: ε = {data.total:.3g}." in said


def test_where_higher_is_better_the_highest_comes_first(tmp_path: Path) -> None:
    data = pareto_data(load(build(tmp_path / "study", epsilons=(3.0,))), "acc_cnn400_2k_test")
    (trace,) = ablation_figure(data).data
    assert list(trace.x) == sorted(trace.x, reverse=True)


def test_it_is_drawn_for_several_series_at_one_budget_only(tmp_path: Path) -> None:
    one = build(tmp_path / "one", epsilons=(3.0,))
    several = build(tmp_path / "several")
    lonely = build(tmp_path / "lonely", epsilons=(3.0,), upscalers=("bicubic",))
    kinds = {}
    for folder in (one, several, lonely):
        render(folder, ["pareto"])
        axis = json.loads((folder / "figures/pareto.json").read_text())["layout"]["xaxis"]
        kinds[folder.name] = axis.get("type")
    assert kinds == {"one": None, "several": "log", "lonely": "log"}


def test_the_same_series_at_several_levels_share_a_row_and_real_images_are_a_line(tmp_path: Path) -> None:
    folder = build(tmp_path / "study", epsilons=(3.0,))
    lines = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    deeper = [{**line, "trial": line["trial"] + "-2", "axes": {**line["axes"], "level": 2}} for line in lines]
    for line in deeper:
        line["keys"] = {**line["keys"], "evaluate": line["keys"].get("evaluate", "") + "-2"}
        line["metrics"] = {name: 2 * value for name, value in line["metrics"].items()}
    every = [{**line, "axes": {"level": 1, **line["axes"]}} for line in lines] + deeper
    for line in every:
        line["axes"] = {"level": line["axes"]["level"], **line["axes"]}
        if line["metrics"]:
            line["metrics"]["floor_fid_clean_1k_test2k"] = 20.7
    (folder / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in every))
    figure = ablation_figure(pareto_data(load(folder)))
    one, two = figure.data
    assert (one.name, two.name) == ("level 1", "level 2")
    assert list(one.y) == list(two.y) == ["realesrgan_x4plus", "bicubic"]
    assert list(two.x) == [2 * value for value in one.x]
    assert one.marker.color[0] == one.marker.color[1] != two.marker.color[0]
    (line,) = figure.layout.shapes
    assert line.x0 == line.x1 == 20.7
    assert figure.layout.xaxis.range[0] < 20.7 < max(two.x) < figure.layout.xaxis.range[1]

"""Figure F3: cells by level and ε, their change against level 0, and cells without a result."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from analysis.heatmap import Cell, heatmap_data
from analysis.heatmap_figure import heatmap_figure
from analysis.load import Study, Trial
from analysis.replicates import interval
from wavedp.errors import UserError

CONFIG = {"data": {"name": "fashion_mnist", "split": "official", "size": 28}}
FID = {(0, 1.0): 100.0, (0, 10.0): 80.0, (1, 1.0): 90.0, (1, 10.0): 85.0}


def trial(level: int, epsilon: float, seed: int, upscaler: str, **changes) -> Trial:
    name = f"{level}-{epsilon}-{upscaler}-{seed}"
    value = FID[level, epsilon] + seed * (1 + level)
    axes = {"level": level, "epsilon": epsilon, "upscaler": upscaler, "seed": seed}
    found = Trial(
        name, "done", seed, epsilon, level=level, upscaler=upscaler, epsilon_spent=epsilon, axes=axes,
        metrics={"fid_clean_1k_test2k": value}, keys={"upscale": name},
    )  # fmt: skip
    return dataclasses.replace(found, **changes)


def study(trials: list[Trial], name: str = "levels") -> Study:
    return Study(Path(name), {"study": name, "config": CONFIG}, trials, [])


def grid(upscalers: tuple[str, ...] = ("bicubic",), seeds: int = 3) -> list[Trial]:
    return [
        trial(level, epsilon, seed, upscaler)
        for level, epsilon in FID
        for seed in range(seeds)
        for upscaler in (upscalers if level else ("identity",))
    ]


def test_golden() -> None:
    data = heatmap_data([study(grid())])
    (panel,) = data.panels
    assert (data.levels, data.epsilons, panel.label) == ([0, 1], [1.0, 10.0], "")
    assert panel.cells[0, 1.0] == Cell(interval([100.0, 101.0, 102.0]))
    assert panel.cells[1, 10.0] == Cell(interval([85.0, 87.0, 89.0]), interval([5.0, 6.0, 7.0]))
    assert "means over 3 seeds" in data.caption
    assert "Enlarged by bicubic (level 1)" in data.caption


def test_level_zero_is_in_the_panel_of_each_upscaler() -> None:
    data = heatmap_data([study(grid(("bicubic", "lanczos")))])
    assert [panel.label for panel in data.panels] == ["bicubic", "lanczos"]
    assert data.panels[0].cells[0, 1.0] == data.panels[1].cells[0, 1.0]
    assert data.panels[0].cells[1, 1.0].change == interval([-10.0, -9.0, -8.0])


def test_without_level_zero_there_is_no_change() -> None:
    data = heatmap_data([study([each for each in grid() if each.level])])
    assert data.levels == [1]
    assert {cell.change for cell in data.panels[0].cells.values()} == {None}
    assert "Δ" not in data.caption


def test_fewer_than_three_seeds_have_no_interval() -> None:
    cell = heatmap_data([study(grid(seeds=2))]).panels[0].cells[1, 1.0]
    assert (cell.value.n, cell.value.half_width, cell.change.half_width) == (2, None, None)


def test_a_cell_without_a_result_is_hatched_and_says_why() -> None:
    lost = {"status": "failed", "reason": "out of\nmemory", "metrics": {}}
    trials = [dataclasses.replace(t, **lost) if (t.level, t.epsilon) == (1, 10.0) else t for t in grid()]
    trials.append(trial(1, 1.0, 7, "bicubic", status="infeasible", reason="no noise", metrics={}))
    trials.append(trial(0, 1.0, 8, "identity", metrics={"psnr": 1.0}))
    data = heatmap_data([study(trials)])
    cells = data.panels[0].cells
    assert cells[1, 10.0] == Cell(None, None, 3, "failed: out of memory")
    assert (cells[1, 1.0].value.n, cells[1, 1.0].lost, cells[1, 1.0].reason) == (3, 1, "infeasible: no noise")
    assert cells[0, 1.0].reason == "no fid_clean_1k_test2k"
    assert "Hatched: no result (failed: out of memory)" in data.caption
    figure = heatmap_figure(data)
    (hatched,) = (trace for trace in figure.data if trace.name == "no result")
    assert [min(each for each in axis if each is not None) for axis in (hatched.x, hatched.y)] == [0.5, 0.5]
    assert any(trace.text == "level 1, ε = 10<br>failed: out of memory" for trace in figure.data)
    texts = [note.text.replace("<br>", " ") for note in figure.layout.annotations]
    assert "failed: out of memory" in texts
    assert any("1 lost" in text for text in texts)


@pytest.mark.parametrize("columns", [1, 2])
def test_every_cell_is_drawn_where_it_belongs(columns: int) -> None:
    data = heatmap_data([study(grid(("bicubic", "lanczos")))])
    figure = heatmap_figure(data, columns)
    assert len(figure.data) == 8
    first = figure.data[0]
    assert (sum(set(first.x)) / 2, sum(set(first.y)) / 2) == (0.0, 0.0)
    assert "↓ lower is better" in " ".join(note.text for note in figure.layout.annotations)
    shades = {trace.text.split("<br>")[1].split(" ±")[0]: trace.fillcolor for trace in figure.data}
    assert len(set(shades.values())) == len(shades) == 4


def test_studies_of_one_level_each_make_one_map() -> None:
    found = heatmap_data([study([t for t in grid() if t.level == level], f"level_{level}") for level in (0, 1)], None)
    assert heatmap_data([study(grid())]).panels[0].cells == found.panels[0].cells


def test_real_images_are_no_level() -> None:
    real = [dataclasses.replace(t, generator="real") for t in grid()]
    with pytest.raises(UserError, match="only real images are judged"):
        heatmap_data([study(real)])
    assert math.inf not in heatmap_data([study(grid())]).epsilons

"""Figure F8: what a study's first n trials gained, one study against another."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from analysis.front import volume
from analysis.hypervolume import hypervolume_data
from analysis.hypervolume_figure import hypervolume_figure
from analysis.load import Study, Trial
from wavedp.errors import UserError

CONFIG = {"data": {"name": "fashion_mnist", "split": "official", "size": 28}}
FID = {"slow": {1.0: 120.0, 10.0: 100.0}, "fast": {1.0: 110.0, 10.0: 105.0}}


def study(name: str, shift: float = 0.0, seeds: int = 3, epsilons: tuple[float, ...] = (1.0, 10.0)) -> Study:
    trials = [
        Trial(
            f"{case}-{epsilon}-{seed}", "done", seed, epsilon, epsilon_spent=epsilon, axes={"case": case, "seed": seed},
            metrics={"fid_clean_1k_test2k": FID[case].get(epsilon, 90.0) + shift + seed},
            keys={"upscale": f"{name}{case}{epsilon}{seed}"},
        )
        for case in FID
        for epsilon in epsilons
        for seed in range(seeds)
    ]  # fmt: skip
    return Study(Path(name), {"study": name, "config": CONFIG}, trials, [])


def test_golden() -> None:
    data = hypervolume_data([study("a"), study("b", shift=5.0)])
    assert data.reference == (100.0, 127.0)  # ten times the largest ε, and the worst run: 120 + 5 + 2
    assert data.epsilons == [1.0, 10.0]
    a, b = data.growths
    assert [trials for trials, _ in a.steps] == [3, 6, 9, 12]
    # Means 121 at ε = 1, then 101 at 10, then 111 at 1, then 106 at 10 which adds nothing
    assert [round(found.value, 6) for _, found in a.steps] == [12.0, 32.0, 42.0, 42.0]
    assert a.steps[-1][1].value > b.steps[-1][1].value
    assert all(found.low < found.value < found.high for _, found in a.steps)
    assert "reference point ε = 100, fid_clean_1k_test2k = 127" in data.caption


def test_each_step_is_the_volume_of_what_was_there() -> None:
    data = hypervolume_data([study("a")], reference=(100.0, 150.0))
    rows = {case: {e: {s: v + s for s in range(3)} for e, v in found.items()} for case, found in FID.items()}
    points = [(epsilon, row) for case in rows.values() for epsilon, row in case.items()]
    assert data.growths[0].steps[-1][1] == volume(points, (100.0, 150.0), lower=True)


def test_there_is_no_band_below_three_seeds_and_it_is_said() -> None:
    data = hypervolume_data([study("a"), study("b", seeds=2)])
    assert {found.low for _, found in data.growths[1].steps} == {None}
    assert "No band: b" in data.caption
    assert "Bands: 95% bootstrap of whole seeds (a, 3 seeds)" in data.caption


def test_trials_without_a_result_count_for_nothing_and_are_told() -> None:
    whole = study("a")
    trials = [
        dataclasses.replace(t, status="failed", metrics={}) if t.trial == "fast-1.0-2" else t for t in whole.trials
    ]
    data = hypervolume_data([dataclasses.replace(whole, trials=trials)])
    assert data.growths[0].steps[-1][0] == 11
    assert data.growths[0].steps[-1][1].low is None  # not the same seeds at every ε
    assert "count for nothing: a 1" in data.caption


def test_only_epsilons_that_all_studies_have_count() -> None:
    data = hypervolume_data([study("a"), study("b", epsilons=(1.0, 10.0, 30.0, math.inf))])
    assert data.epsilons == [1.0, 10.0]
    with pytest.raises(UserError, match="no finite ε in common"):
        hypervolume_data([study("a"), study("b", epsilons=(30.0,))])


@pytest.mark.parametrize("columns", [1, 2])
def test_the_drawing_has_a_step_curve_and_a_band_for_each(columns: int) -> None:
    data = hypervolume_data([study("a"), study("b", shift=5.0)])
    figure = hypervolume_figure(data, columns)
    lines = {trace.name: trace for trace in figure.data if trace.name}
    assert list(lines["a"].y) == [found.value for _, found in data.growths[0].steps]
    assert {trace.line.shape for trace in figure.data} == {"hv"}
    assert sum(trace.fill == "tonexty" for trace in figure.data) == 2
    assert "larger is better" in figure.layout.yaxis.title.text

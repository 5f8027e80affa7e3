"""Figure F5: upscalers on the same private fits, what they take, and what they add to the ledger."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from study_folder import build

from analysis.load import Study, load
from analysis.upscalers import Upscalers, price_sentence, upscalers_data
from analysis.upscalers_figure import upscalers_figure
from wavedp.errors import UserError


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    found = load(build(tmp_path_factory.mktemp("results") / "eps_grid", epsilons=(1.0, math.inf)))
    found.meta["config"]["sampling"] = {"n": 1000}
    return found


@pytest.fixture(scope="module")
def data(study: Study) -> Upscalers:
    return upscalers_data([study])


def test_golden(data: Upscalers) -> None:
    assert [bar.label for bar in data.bars] == ["bicubic", "realesrgan_x4plus"]
    assert data.places == [(1, 1.0), (1, math.inf)]
    assert [round(bar.values[1, 1.0].mean, 2) for bar in data.bars] == [149.0, 122.0]
    assert [bar.seconds for bar in data.bars] == [{1: 0.0035}, {1: 0.0035}]


def test_upscalers_of_one_private_fit_cost_nothing_more(data: Upscalers) -> None:
    assert (data.extra, data.releases) == (0.0, 3)
    assert "3 private releases, 2 upscalers: 0 extra ε. (From the ledger.)" in data.caption
    drawn = " ".join(note.text for note in upscalers_figure(data).layout.annotations)
    assert "0 extra ε" in drawn


def test_an_upscaler_that_was_fitted_privately_is_not_free(study: Study) -> None:
    trials = [trial.trial for trial in study.done if trial.upscaler == "bicubic" and trial.epsilon == 1]
    fit = next(line for line in study.ledger if line["kind"] == "dp_sgd")
    line = {**fit, "purpose": "upscaler_fit", "stage_key": "up", "trials": trials}
    data = upscalers_data([dataclasses.replace(study, ledger=[*study.ledger, line])])
    assert (data.releases, data.extra) == (4, 0.0)  # bicubic alone is the dearest already
    other = {**line, "stage_key": "other", "trials": [t.replace("bicubic", "realesrgan_x4plus") for t in trials]}
    data = upscalers_data([dataclasses.replace(study, ledger=[*study.ledger, line, other])])
    assert data.extra > 0.01
    assert "extra ε beyond the dearest alone" in price_sentence(data.extra, data.releases, 2)


def test_what_nobody_recorded_is_a_dash(study: Study) -> None:
    trials = [dataclasses.replace(t, seconds={}) if t.upscaler == "bicubic" else t for t in study.trials]
    data = upscalers_data([dataclasses.replace(study, trials=trials)])
    assert data.bars[0].seconds == {1: None}
    assert "–: not recorded" in data.caption
    assert any(note.text == "–" for note in upscalers_figure(data).layout.annotations)
    none = upscalers_data(
        [dataclasses.replace(study, trials=[dataclasses.replace(t, seconds={}) for t in study.trials])]
    )
    assert any(note.text == "not recorded" for note in upscalers_figure(none).layout.annotations)


def test_no_private_release_is_said(study: Study) -> None:
    data = upscalers_data([dataclasses.replace(study, ledger=[])])
    assert (data.extra, price_sentence(data.extra, data.releases, 2)) == (None, "No private release.")


@pytest.mark.parametrize("columns", [1, 2])
def test_points_of_one_row_do_not_hide_each_other(data: Upscalers, columns: int) -> None:
    figure = upscalers_figure(data, columns)
    first, second = (trace for trace in figure.data if trace.name.startswith("ε"))
    assert list(first.x) == [data.bars[1].values[1, 1.0].mean, data.bars[0].values[1, 1.0].mean]  # the best first
    assert not set(first.y) & set(second.y)


def test_one_upscaler_is_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has one upscaler"):
        upscalers_data([load(build(tmp_path / "one", epsilons=(1.0,), upscalers=("bicubic",)))])

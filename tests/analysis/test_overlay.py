"""Figure F1: both readings of ε, bands over seeds, and what keeps studies apart."""

from __future__ import annotations

import dataclasses
import math

import pytest
from study_folder import BATCH, DELTA, NOISE, RECORDS, STEPS, build

from analysis.load import Study, load
from analysis.overlay import Overlay, overlay_data
from analysis.overlay_figure import overlay_figure
from analysis.pareto import pareto_data
from wavedp.errors import UserError
from wavedp.privacy.accounting import Mechanism, compose

INF = math.inf


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return load(build(tmp_path_factory.mktemp("results") / "eps_grid", epsilons=(1.0, 3.0, INF)))


@pytest.fixture(scope="module")
def data(study: Study) -> Overlay:
    return overlay_data([study])


def fits(epsilon: float) -> list[Mechanism]:
    """Those of three seeds."""
    return [Mechanism(BATCH / RECORDS, NOISE[epsilon], STEPS)] * 3


def renamed(study: Study, name: str, **changes) -> Study:
    return dataclasses.replace(study, meta={**study.meta, "study": name}, folder=study.folder / name, **changes)


def without(study: Study, epsilon: float) -> Study:
    """The study, in which all trials of one ε with bicubic failed."""
    trials = [
        dataclasses.replace(trial, status="failed", metrics={})
        if (trial.upscaler, trial.epsilon) == ("bicubic", epsilon)
        else trial
        for trial in study.trials
    ]
    return renamed(study, "gappy", trials=trials)


def test_golden(data: Overlay) -> None:
    assert data.metric == "fid_clean_1k_test2k"
    assert data.totals == {"eps_grid": (6, pytest.approx(compose(fits(1.0) + fits(3.0), DELTA)))}
    bicubic, other = data.lines
    assert [(line.label, line.lost) for line in data.lines] == [("bicubic", (0.01,)), ("realesrgan_x4plus", ())]
    assert [spot.epsilon for spot in bicubic.spots] == [1.0, 3.0, INF]
    assert [round(spot.value.mean, 2) for spot in other.spots] == [122.0, 98.72, 73.43]
    assert [spot.ledger for spot in other.spots] == [
        pytest.approx(compose(fits(1.0), DELTA)), data.totals["eps_grid"][1], None,
    ]  # fmt: skip
    assert [spot.on_front for spot in other.spots] == [True, True, True]
    assert [spot.chance for spot in bicubic.spots] == [0.0, 0.0, 0.0]


def test_the_numbers_are_the_pareto_figures(study: Study, data: Overlay) -> None:
    for line, front in zip(data.lines, pareto_data(study).fronts, strict=True):
        assert [(s.spent, s.ledger, s.value) for s in line.spots] == [
            (p.spent, p.composed, p.value) for p in front.points
        ]


def test_the_ledger_is_solid_with_a_band_and_the_trial_dashed(data: Overlay) -> None:
    figure = overlay_figure(data)
    line = data.lines[1]
    drawn = [trace for trace in figure.data if trace.name == line.label]
    band = next(trace for trace in drawn if trace.fill == "toself")
    dashed = next(trace for trace in drawn if trace.line.dash == "dash")
    solid = next(trace for trace in drawn if trace.mode == "lines" and not trace.fill and trace.line.dash is None)
    finite = line.spots[:2]
    assert list(solid.x) == [spot.ledger for spot in finite]
    assert list(dashed.x) == [spot.spent for spot in finite]
    assert list(band.y) == [*(s.value.high for s in finite), *(s.value.low for s in reversed(finite))]


def test_infinity_is_beyond_a_break_and_lower_is_said_to_be_better(data: Overlay) -> None:
    layout = overlay_figure(data, 1).layout
    assert "∞" in layout.xaxis.ticktext[-1]
    assert any(note.text == "<b>//</b>" for note in layout.annotations)
    assert "lower is better" in layout.yaxis.title.text


def test_no_line_or_band_crosses_an_epsilon_without_a_result(study: Study) -> None:
    data = overlay_data([without(study, 3.0)])
    assert data.lines[0].lost == (0.01, 3.0)
    lines = [trace for trace in overlay_figure(data).data if trace.name == "bicubic" and trace.mode == "lines"]
    assert all(len(set(trace.x)) <= 1 for trace in lines)  # ε = 1 alone: ∞ is a marker


def test_there_is_no_band_of_two_seeds(study: Study) -> None:
    two = renamed(study, "two", trials=[trial for trial in study.trials if trial.seed < 2])
    data = overlay_data([two])
    assert {spot.value.half_width for line in data.lines for spot in line.spots} == {None}
    assert {spot.chance for line in data.lines for spot in line.spots} == {None}
    assert not any(trace.fill for trace in overlay_figure(data).data)
    assert "too few for bands" in data.caption


def test_several_studies_are_told_apart_and_compete(study: Study) -> None:
    worse = [
        dataclasses.replace(trial, metrics={name: 2 * value for name, value in trial.metrics.items()})
        for trial in study.trials
    ]
    data = overlay_data([study, renamed(study, "worse", trials=worse)])
    assert [line.study for line in data.lines] == ["eps_grid"] * 2 + ["worse"] * 2
    assert data.lines[2].label == "worse: bicubic"
    assert not any(spot.on_front for line in data.lines[2:] for spot in line.spots)
    assert list(data.totals) == ["eps_grid", "worse"]
    colours = {trace.line.color for trace in overlay_figure(data).data if trace.name in ("worse: bicubic", "bicubic")}
    assert colours


def test_studies_that_may_not_be_compared_are_left_out_with_a_sentence(study: Study) -> None:
    other = renamed(study, "other")
    other = dataclasses.replace(other, meta={**other.meta, "config": {"data": {"name": "cifar10", "size": 32}}})
    data = overlay_data([study, other])
    assert {line.study for line in data.lines} == {"eps_grid"}
    assert "other and eps_grid may not share an axis" in data.said[0]
    assert data.said[0] in data.caption


def test_a_study_without_the_metric_is_left_out_and_all_of_them_refused(study: Study) -> None:
    bare = renamed(study, "bare", trials=[dataclasses.replace(t, metrics={"psnr": 1.0}) for t in study.trials])
    assert overlay_data([study, bare]).said == ["bare is left out: it has no fid, only psnr."]
    with pytest.raises(UserError, match="it has no ssim"):
        overlay_data([study], "ssim")
    unfinished = renamed(study, "new", trials=[dataclasses.replace(t, status="failed") for t in study.trials])
    with pytest.raises(UserError, match="none of its 20 trials has finished"):
        overlay_data([unfinished])

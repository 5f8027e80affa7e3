"""Trials to points: grouping, counting a shared result once, and the interval of a mean."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from study_folder import build

from analysis import pareto
from analysis.captions import intervals_sentence, seeds_sentence
from analysis.load import Study, Trial, load
from analysis.replicates import Interval, epsilon_text, interval, points, series_labels


def trial(name: str, **values) -> Trial:
    defaults = {"status": "done", "seed": 0, "epsilon": 1.0, "epsilon_spent": 1.0}
    return Trial(trial=name, **(defaults | values))


def study(trials: list[Trial]) -> Study:
    return Study(Path("."), {}, trials, [])


@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=8))
def test_interval_agrees_with_scipy(values: list[float]) -> None:
    found = interval(values)
    scale = stats.sem(values)
    if scale == 0:
        assert found.half_width == pytest.approx(0, abs=1e-9)
        return
    low, high = stats.t.interval(0.95, len(values) - 1, loc=sum(values) / len(values), scale=scale)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))
    assert found.n == len(values)


def test_fewer_than_three_replicates_have_no_interval() -> None:
    assert interval([4.0]).half_width is None
    assert interval([4.0, 6.0]) == Interval(5.0, None, 2)


def test_points_of_a_grid(tmp_path: Path) -> None:
    found = points(load(build(tmp_path / "s")))
    assert [(point.series, point.epsilon) for point in found] == [
        (upscaler, epsilon) for upscaler in ("bicubic", "realesrgan_x4plus") for epsilon in (1, 3, 10, math.inf)
    ]
    # The failed and the infeasible trial are in no point.
    assert {len(point.trials) for point in found} == {3}


def test_a_shared_result_counts_once() -> None:
    public = [
        trial(f"{e}-{s}", epsilon=e, epsilon_spent=0.0, seed=s, keys={"evaluate": f"ev{s}"}, metrics={"fid": 100.0 + s})
        for e in (1.0, 3.0, 10.0)
        for s in (0, 1)
    ]
    (point,) = points(study(public))
    assert point.epsilon == 0
    assert point.interval("fid") == interval([100.0, 101.0])


def judged(**metrics: dict[str, float]) -> Study:
    """Two seeds of two methods, judged by protocols with these metrics."""
    return study(
        [
            trial(
                f"{protocol}-{case}-{seed}",
                seed=seed,
                axes={"metrics": protocol, "case": case},
                keys={"upscale": f"{case}{seed}", "evaluate": f"{protocol}{case}{seed}"},
                metrics={name: value + seed for name, value in found.items()},
            )
            for protocol, found in metrics.items()
            for case in ("a", "b")
            for seed in (0, 1)
        ]
    )


def test_protocols_that_judge_the_same_samples_are_one_result() -> None:
    found = points(judged(clean={"fid_clean": 90.0}, pytorch={"fid_pytorch": 80.0}))
    assert [(point.series, len(point.trials)) for point in found] == [("a", 2), ("b", 2)]
    for point in found:
        assert point.interval("fid_clean") == interval([90.0, 91.0])
        assert point.interval("fid_pytorch") == interval([80.0, 81.0])


def test_protocols_whose_metrics_share_a_name_are_series_of_their_own() -> None:
    found = points(judged(short={"fid": 90.0}, long={"fid": 80.0}))
    assert [point.series for point in found] == ["short, a", "short, b", "long, a", "long, b"]


def test_sample_sets_of_one_fit_are_not_counted_as_fits() -> None:
    """Several fits: each fit's mean is one replicate. One fit: an interval of its sample sets, and said to be one."""

    def of(seeds: tuple[int, ...]) -> Interval | None:
        trials = [
            trial(
                f"{s}-{n}",
                seed=s,
                metrics={"fid": 10.0 * s + n},
                keys={"evaluate": f"{s}{n}"},
                axes={"seed": s, "sampling.seed": n},
            )
            for s in seeds
            for n in (0, 1, 2)
        ]
        (point,) = points(study(trials))
        assert point.replicates == f"{len(seeds)}×3"
        return point.interval("fid")

    assert of((0, 1)) == interval([1.0, 11.0])
    assert of((2,)) == replace(interval([20.0, 21.0, 22.0]), of="sample sets")
    sentence = seeds_sentence([of((2,)), of((0, 1))])
    assert "means over 2 seeds" in sentence
    assert "Points of one seed are means over 3 sample sets of one private fit" in sentence
    assert "says nothing of another fit" in intervals_sentence([of((2,))])
    assert "sample sets" not in intervals_sentence([of((0, 1))])


def test_spent_is_the_largest_of_the_replicates() -> None:
    (point,) = points(study([trial("a", epsilon_spent=0.97, seed=0), trial("b", epsilon_spent=0.99, seed=1)]))
    assert point.spent == 0.99


def test_series_are_named_by_the_axes_that_vary() -> None:
    axes = [
        {"privacy.epsilon": e, "level": level, "upscaler.name": up, "blur": "none", "seed": s}
        for e in (1, 3)
        for level in (1, 2)
        for up in ("bicubic", "lanczos")
        for s in (0, 1)
    ]
    labels = series_labels(study([trial(str(i), axes=a) for i, a in enumerate(axes)]))
    assert set(labels.values()) == {f"level {level}, {up}" for level in (1, 2) for up in ("bicubic", "lanczos")}


def test_a_single_series_is_named_by_its_settings() -> None:
    one = trial("a", generator="spectral_ar", level=1, upscaler="bicubic", axes={"epsilon": 1.0})
    labels = series_labels(study([one]))
    assert labels == {"a": "spectral_ar, level 1, bicubic"}


def test_a_blur_schedule_is_named_with_its_noise_and_basis() -> None:
    trials = [trial(blur, blur=blur, axes={"blur": blur}) for blur in ("none", "quartic")]
    assert series_labels(study(trials)) == {"none": "none", "quartic": "quartic"}  # the study does not tell
    told = replace(study(trials), meta={"config": {"diffusion": {"noise_schedule": "cosine", "basis": "dct"}}})
    assert series_labels(told) == {"none": "none (cosine)", "quartic": "quartic (cosine, dct)"}
    paper = [
        trial(noise, blur="log", axes={"blur": blur, "diffusion.noise_schedule": noise})
        for blur, noise in (("log", "linear"), ("log2", "cosine"))
    ]
    labels = series_labels(replace(told, trials=paper))
    assert labels["linear"] == "log (linear, dct)"


def test_markup_in_a_value_is_shown_and_not_obeyed() -> None:
    trials = [trial(value, axes={"case": value}) for value in ("<b>bold</b>", "plain")]
    assert series_labels(study(trials))["<b>bold</b>"] == "&lt;b&gt;bold&lt;/b&gt;"
    named = replace(study(trials), meta={"study": "<i>x</i>"})
    assert pareto._title(named) == "<b>&lt;i&gt;x&lt;/i&gt;</b>"


def test_metric_that_no_trial_has() -> None:
    (point,) = points(study([trial("a")]))
    assert point.interval("fid") is None


def test_epsilon_text() -> None:
    assert [epsilon_text(e) for e in (0.0, 0.2, 3.0, 14.17, math.inf)] == ["0", "0.2", "3", "14.2", "∞"]

"""The Pareto figure: means and intervals, both prices, dominance, and that the drawing says what the data say."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_folder import BATCH, DELTA, NOISE, RECORDS, STEPS, build

from analysis.load import Study, load
from analysis.pareto import ParetoData, pareto_data
from analysis.pareto_figure import pareto_figure, spread
from analysis.price import composed, releases
from analysis.replicates import interval
from wavedp.errors import UserError
from wavedp.privacy.accounting import Mechanism, compose

UPSCALERS = ("bicubic", "realesrgan_x4plus")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return load(build(tmp_path_factory.mktemp("results") / "eps_grid"))


@pytest.fixture(scope="module")
def data(study: Study) -> ParetoData:
    return pareto_data(study)


def fits(epsilons: tuple[float, ...], seeds: int = 3) -> list[Mechanism]:
    return [Mechanism(BATCH / RECORDS, NOISE[epsilon], STEPS) for epsilon in epsilons for _ in range(seeds)]


def drawn(figure: go.Figure, name: str) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.name == name]


# --- the data


def test_points_are_means_over_seeds(study: Study, data: ParetoData) -> None:
    assert [front.label for front in data.fronts] == list(UPSCALERS)
    for front in data.fronts:
        assert [point.epsilon for point in front.points] == [1, 3, 10, math.inf]
        for point in front.points:
            values = [
                trial.metrics[data.metric]
                for trial in study.done
                if (trial.upscaler, trial.epsilon) == (front.label, point.epsilon)
            ]
            assert point.value == interval(values)
            assert point.value.n == 3


def test_composed_price_is_that_of_all_releases_up_to_the_point(data: ParetoData) -> None:
    for front in data.fronts:
        assert [point.composed for point in front.points] == [
            pytest.approx(compose(fits((1.0,)), DELTA)),
            pytest.approx(compose(fits((1.0, 3.0)), DELTA)),
            pytest.approx(compose(fits((1.0, 3.0, 10.0)), DELTA)),
            None,
        ]


def test_fronts_on_shared_releases_cost_no_more_than_one(data: ParetoData) -> None:
    assert data.releases == 9
    assert data.total == data.fronts[0].points[2].composed == data.fronts[1].points[2].composed


def test_fronts_on_their_own_releases_add_up(tmp_path: Path) -> None:
    """Two levels are two sets of releases: each front has its own price, the study the sum of both."""
    folder = build(tmp_path / "a", epsilons=(1.0,), seeds=2, upscalers=("bicubic",))
    rows = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()][:2]
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    rows += [row | {"trial": row["trial"] + "-L2", "keys": {"fit": row["keys"]["private_fit"] + "-L2"}} for row in rows]
    rows = [row | {"axes": dict(row["axes"], level=2 if row["trial"].endswith("L2") else 1)} for row in rows]
    lines += [
        line | {"stage_key": line["stage_key"] + "-L2", "trials": []} for line in lines if line["kind"] != "nonprivate"
    ]
    (folder / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = pareto_data(load(folder))
    assert [front.points[0].composed for front in data.fronts] == [pytest.approx(compose(fits((1.0,), 2), DELTA))] * 2
    assert data.total == pytest.approx(compose(fits((1.0,), 4), DELTA))


def test_a_release_of_a_failed_trial_is_in_the_total_but_under_no_front(study: Study, data: ParetoData) -> None:
    lost = next(line for line in study.ledger if line["kind"] == "dp_sgd") | {
        "stage_key": "lost",
        "trials": ["eps3-bicubic-s9"],
    }
    with_lost = pareto_data(dataclasses.replace(study, ledger=[*study.ledger, lost]))
    assert with_lost.total > data.total
    assert with_lost.fronts == data.fronts


def test_a_release_that_a_second_line_reuses_is_counted_once(study: Study, data: ParetoData) -> None:
    again = [line | {"trials": ["another"]} for line in study.ledger]
    found = pareto_data(dataclasses.replace(study, ledger=study.ledger + again))
    assert (found.releases, found.total) == (9, data.total)


def test_a_line_that_names_a_trial_counts_even_without_its_key(study: Study) -> None:
    ledger = [line | {"stage_key": "renamed-" + line["stage_key"]} for line in study.ledger]
    renamed = dataclasses.replace(study, ledger=ledger)
    assert len(releases(renamed, [t for t in renamed.done if t.upscaler == "bicubic" and t.epsilon <= 3])) == 6


def test_releases_at_several_deltas_are_stated_at_the_largest(study: Study) -> None:
    lines = releases(study)
    larger = [lines[0] | {"delta": 10 * DELTA}, *lines[1:]]
    assert composed(larger) == pytest.approx(compose(fits((1.0, 3.0, 10.0)), 10 * DELTA))
    assert composed(larger) < composed(lines)


def test_dominance_is_brute_force(data: ParetoData) -> None:
    everything = [point for front in data.fronts for point in front.points]
    for point in everything:
        beaten = any(
            other.epsilon <= point.epsilon and other.value.mean <= point.value.mean and other is not point
            for other in everything
        )
        assert point.nondominated is not beaten
    assert {point.nondominated for point in data.fronts[0].points} == {False}


def test_dominance_turns_with_the_direction_of_the_metric(study: Study) -> None:
    accuracy = pareto_data(study, "acc_cnn400_2k_test")
    assert not accuracy.lower_is_better
    assert [point.nondominated for point in accuracy.fronts[1].points] == [True] * 4


def test_real_images_dominate_nothing(study: Study) -> None:
    ceiling = dataclasses.replace(
        study.done[0],
        trial="real",
        generator="real",
        epsilon_spent=math.inf,
        metrics={"fid_clean_1k_test2k": 1.0},
        keys={},
    )
    ceiling = dataclasses.replace(ceiling, axes={"upscaler": "real images"})
    data = pareto_data(dataclasses.replace(study, trials=[*study.trials, ceiling]))
    assert data.fronts[1].points[-1].nondominated
    assert data.fronts[2].is_anchor


def test_no_release_no_price(tmp_path: Path) -> None:
    data = pareto_data(load(build(tmp_path / "public", seeds=1, private=False)))
    assert data.total is None
    assert {point.composed for front in data.fronts for point in front.points} == {None}
    assert "No private release was made" in data.caption
    pareto_figure(data)


def test_unknown_metric(study: Study) -> None:
    with pytest.raises(UserError, match="psnr"):
        pareto_data(study, "psnr")


# --- the caption (law 6)


def test_caption_states_what_the_numbers_rest_on(data: ParetoData) -> None:
    for part in (
        "means over 3 seeds",
        "95% Student t",
        "δ = 1.5e-6",
        "accountant pld (dp-accounting 0.6.0)",
        "add or remove one record",
        "Inception-v3 pool features",
        "1k generated against 2k of the real test images",
        "no ε here covers: fid reference, private fit at ε = ∞ ×3",
    ):
        assert part in data.caption


def test_caption_follows_the_records(study: Study) -> None:
    ledger = [line | {"delta": 2e-5} for line in study.ledger if line["kind"] != "nonprivate"]
    seeds = [trial for trial in study.trials if trial.seed == 0]
    caption = pareto_data(dataclasses.replace(study, ledger=ledger, trials=seeds)).caption
    assert "δ = 2e-5" in caption
    assert "One seed a point" in caption
    assert "the ledger holds no line for that look" in caption


# --- the drawing


def test_each_front_is_drawn_at_both_prices(data: ParetoData) -> None:
    figure = pareto_figure(data)
    for front in data.fronts:
        twin, points = (trace for trace in drawn(figure, front.label) if trace.mode != "lines")
        assert list(twin.x) == [point.composed for point in front.points[:3]]
        assert twin.line.dash == "dash"
        assert list(points.x[:3]) == [point.spent for point in front.points[:3]]
        assert list(points.y) == [point.value.mean for point in front.points]
        assert list(points.error_y.array) == [point.value.half_width for point in front.points]


def test_no_line_crosses_an_epsilon_without_a_result(study: Study) -> None:
    trials = [
        dataclasses.replace(trial, status="failed", metrics={}) if (trial.upscaler, trial.epsilon) == ("bicubic", 3)
        else trial
        for trial in study.trials
    ]  # fmt: skip
    data = pareto_data(dataclasses.replace(study, trials=trials))
    assert [front.lost for front in data.fronts] == [(0.01, 3.0), ()]
    figure = pareto_figure(data)
    twin, line, points = drawn(figure, "bicubic")[0], figure.data[1], drawn(figure, "bicubic")[1]
    assert [list(trace.x).index(None) for trace in (twin, line)] == [1, 1]  # between ε = 1 and 10
    assert len(points.x) == 3


def test_infinity_stands_beyond_a_break(data: ParetoData) -> None:
    figure = pareto_figure(data)
    axis = figure.layout.xaxis
    place = axis.tickvals[-1]
    assert "∞" in axis.ticktext[-1]
    assert place > data.total
    assert drawn(figure, "bicubic")[-1].x[-1] == place
    breaks = [note.x for note in figure.layout.annotations if "//" in note.text]
    assert len(breaks) == 1
    assert math.log10(data.total) < breaks[0] < math.log10(place) < axis.range[1]


def test_the_study_total_is_a_line_with_its_number(data: ParetoData) -> None:
    figure = pareto_figure(data)
    assert data.total in [shape.x0 for shape in figure.layout.shapes]
    assert any(
        f"ε = {data.total:.3g}" in note.text and "9 private releases" in note.text for note in figure.layout.annotations
    )


def test_zero_is_an_anchor_beyond_the_left_break(study: Study) -> None:
    public = dataclasses.replace(
        study.done[0], trial="public", epsilon_spent=0.0, keys={}, axes={"upscaler": "public model"}
    )
    data = pareto_data(dataclasses.replace(study, trials=[*study.trials, public]))
    figure = pareto_figure(data)
    assert figure.layout.xaxis.ticktext[0] == "0"
    assert 0 < figure.layout.xaxis.tickvals[0] < 1
    assert "public model" in [note.text for note in figure.layout.annotations]


def test_names_of_anchors_at_the_same_height_do_not_overlap(study: Study) -> None:
    names = [f"public model {i}" for i in range(4)]
    anchors = [
        dataclasses.replace(study.done[0], trial=name, epsilon_spent=0.0, keys={}, axes={"upscaler": name})
        for name in names
    ]
    figure = pareto_figure(pareto_data(dataclasses.replace(study, trials=[*study.trials, *anchors])))
    heights = sorted(note.y for note in figure.layout.annotations if note.text in names)
    low, high = figure.layout.yaxis.range
    assert len(heights) == 4
    assert min(b - a for a, b in itertools.pairwise(heights)) * figure.layout.height / abs(high - low) > 15  # pixels


def test_labels_caption_and_direction_are_there(data: ParetoData) -> None:
    figure = pareto_figure(data)
    texts = [note.text for note in figure.layout.annotations]
    assert set(UPSCALERS) <= set(texts)
    assert data.caption in [text.replace("<br>", " ") for text in texts]
    assert "lower is better" in figure.layout.yaxis.title.text
    assert data.metric in figure.layout.yaxis.title.text
    assert figure.layout.meta == data.provenance
    # A dollar sign would make plotly ask for MathJax.
    assert "$" not in figure.to_json()


def test_names_of_crowded_fronts_are_all_drawn_and_do_not_overlap(data: ParetoData) -> None:
    (front, *_) = data.fronts
    names = [f"tokens number {i}, level {i}, with a name of two lines" for i in range(5)]
    crowded = dataclasses.replace(data, fronts=[dataclasses.replace(front, label=name) for name in names])
    notes = [n for n in pareto_figure(crowded).layout.annotations if n.text.replace("<br>", " ") in names]
    assert len(notes) == 5
    assert {note.yref for note in notes} == {"paper"}  # one in data coordinates vanishes beyond the axis
    heights = sorted(note.y for note in notes)
    assert min(b - a for a, b in itertools.pairwise(heights)) > 0.09  # two lines are 0.08 high


def test_pale_markers_are_the_dominated_ones(data: ParetoData) -> None:
    figure = pareto_figure(data)
    filled = set(drawn(figure, "realesrgan_x4plus")[-1].marker.color)
    pale = set(drawn(figure, "bicubic")[-1].marker.color)
    assert len(filled) == len(pale) == 1
    assert filled == {drawn(figure, "realesrgan_x4plus")[-1].error_y.color}
    assert pale != {drawn(figure, "bicubic")[-1].error_y.color}


def test_more_series_than_colours_leaves_the_worst_grey(study: Study) -> None:
    trials = [
        dataclasses.replace(
            trial,
            trial=f"{trial.trial}-{i}",
            axes={"upscaler": f"up{i}"},
            metrics={"fid_clean_1k_test2k": 100.0 - i},
            keys={},
        )
        for trial in study.done[:1]
        for i in range(9)
    ]
    figure = pareto_figure(pareto_data(dataclasses.replace(study, trials=trials)))
    texts = {note.text for note in figure.layout.annotations}
    assert {f"up{i}" for i in range(3, 9)} <= texts
    assert not {"up0", "up1", "up2"} & texts
    assert any("Grey lines: 3 further series." in text.replace("<br>", " ") for text in texts)


@given(st.lists(st.floats(-100, 100), max_size=12), st.floats(0.1, 20))
def test_spread_labels_never_overlap_and_keep_their_order(heights: list[float], gap: float) -> None:
    placed = spread(heights, gap)
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    ordered = [placed[i] for i in order]
    assert all(b - a >= gap * (1 - 1e-9) - 1e-9 for a, b in itertools.pairwise(ordered))
    assert math.fsum(placed) == pytest.approx(math.fsum(heights), abs=1e-6)


# --- published numbers (law 7)


def test_published_numbers_are_off_unless_asked(data: ParetoData) -> None:
    assert data.published == []


def test_published_numbers_of_another_protocol_are_hollow(study: Study) -> None:
    data = pareto_data(study, with_published=True)
    paper = data.published[0]
    assert len(paper.methods) == 13
    assert paper.methods["PrivImage"] == {1.0: 12.1, 10.0: 5.3}
    assert not paper.comparable
    assert "measured by pytorch-fid's resizing (here clean-fid's resizing)" in data.caption
    assert "DPDM at ε = 1: 28.8 and 53.5 are both in print" in data.caption
    figure = pareto_figure(data)
    assert drawn(figure, "DP-MERF")[0].marker.symbol == "circle-open"
    assert {"DP-MERF", "DP-LoRA", "DPDM (DPImageBench)", "DPDM (FETA-Pro)"} <= {
        note.text for note in figure.layout.annotations
    }
    assert any("not comparable" in (trace.name or "") for trace in figure.data)


def test_names_of_published_methods_do_not_overlap(study: Study) -> None:
    """Of all sources together."""
    data = pareto_data(study, with_published=True)
    names = {name for paper in data.published for name in paper.methods}
    notes = [note for note in pareto_figure(data).layout.annotations if note.text.split(" (")[0] in names]
    heights = sorted(note.y for note in notes)
    assert len(heights) == sum(len(paper.methods) for paper in data.published) > 13
    low, high = pareto_figure(data).layout.yaxis.range
    assert min(b - a for a, b in itertools.pairwise(heights)) > 0.04 * abs(high - low)


def test_comparable_published_numbers_are_filled(study: Study) -> None:
    data = pareto_data(study, with_published=True)
    same = dataclasses.replace(data, published=[dataclasses.replace(data.published[0], differences=[])])
    figure = pareto_figure(same)
    assert drawn(figure, "DP-MERF")[0].marker.symbol == "circle"
    assert not any("not comparable" in (trace.name or "") for trace in figure.data)

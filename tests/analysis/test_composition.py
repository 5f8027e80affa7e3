"""Figure F7: ε of all releases together against the number of trials."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from study_folder import BATCH, DELTA, NOISE, RECORDS, STEPS, build

from analysis.composition import Composition, composition_data
from analysis.composition_figure import composition_figure
from analysis.load import Study, load
from wavedp.errors import UserError
from wavedp.privacy.accounting import Mechanism, compose
from wavedp.privacy.selection import RandomK, epsilon_of_best


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return load(build(tmp_path_factory.mktemp("results") / "eps_grid", epsilons=(1.0, 3.0, math.inf), seeds=2))


@pytest.fixture(scope="module")
def data(study: Study) -> Composition:
    return composition_data(study)


def fit(epsilon: float) -> Mechanism:
    return Mechanism(BATCH / RECORDS, NOISE[epsilon], STEPS)


def test_golden(data: Composition) -> None:
    """Two upscalers share each fit: 8 trials of 4 releases."""
    assert [step.trials for step in data.steps] == list(range(1, 9))
    assert [step.releases for step in data.steps] == [1, 1, 2, 2, 3, 3, 4, 4]
    last = data.steps[-1]
    assert last.shared == data.total == pytest.approx(compose([fit(1.0), fit(1.0), fit(3.0), fit(3.0)], DELTA))
    assert last.apart == pytest.approx(compose([fit(1.0)] * 4 + [fit(3.0)] * 4, DELTA))
    assert last.added == pytest.approx(1 + 1 + 3 + 3)
    assert data.releases == 4


def test_the_laws_are_those_of_the_dearest_run(data: Composition) -> None:
    assert list(data.laws) == ["poisson", "geometric", "logarithmic"]
    expected = epsilon_of_best([[fit(1.0)], [fit(3.0)]], DELTA, RandomK("geometric", mean=8))
    assert data.laws["geometric"][-1] == (8, pytest.approx(expected))
    assert "no claim about this study" in data.caption


def test_more_trials_never_cost_less(data: Composition) -> None:
    for name in ("shared", "apart", "added"):
        prices = [getattr(step, name) for step in data.steps]
        assert prices == sorted(prices)
    assert all(step.shared <= step.apart + 1e-9 for step in data.steps)
    assert all(step.shared <= step.added + 1e-9 for step in data.steps)


def test_releases_of_no_trial_count_in_the_study(study: Study, data: Composition) -> None:
    """As those of rows that other code replaced."""
    line = next(line for line in study.ledger if line["kind"] == "dp_sgd")
    more = composition_data(
        dataclasses.replace(study, ledger=[*study.ledger, {**line, "stage_key": "x", "trials": []}])
    )
    assert (more.releases, more.steps[-1].releases) == (5, 4)
    assert more.total > more.steps[-1].shared == pytest.approx(data.total)


@pytest.mark.parametrize("columns", [1, 2])
def test_the_study_is_a_marker(data: Composition, columns: int) -> None:
    figure = composition_figure(data, columns)
    (star,) = (trace for trace in figure.data if trace.marker.symbol == "star")
    assert (star.x[0], star.y[0]) == (8, data.total)
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"
    assert any("4 private releases: ε = " in note.text.replace("<br>", " ") for note in figure.layout.annotations)


def test_a_study_without_a_private_release_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="made no private release"):
        composition_data(load(build(tmp_path / "public", epsilons=(1.0,), private=False)))

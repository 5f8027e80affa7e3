"""Hypervolumes against optuna's and by hand, their bootstrap against scipy's, and the least ε for a wanted quality."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume
from scipy import stats

from analysis.front import Least, hypervolume, least, surely, unbroken, volume
from analysis.replicates import interval

INF = math.inf
FALLING = {1.0: 120.0, 10.0: 100.0, 100.0: 90.0}


def same(means: dict[float, float], n: int = 3) -> dict[float, dict[int, float]]:
    return {epsilon: dict.fromkeys(range(n), value) for epsilon, value in means.items()}


def once(means: dict[float, float]) -> list[tuple[float, dict[int, float]]]:
    return [(epsilon, {0: value}) for epsilon, value in means.items()]


# --- hypervolume


def test_a_hypervolume_by_hand() -> None:
    """ε = 1 and 10 against (100, 130): a decade by 10 down to 120, then a decade by 30 down to 100, in all 10 + 30."""
    assert volume(once({1.0: 120.0, 10.0: 100.0}), (100.0, 130.0), lower=True).value == pytest.approx(40.0)


def test_a_dominated_point_adds_nothing() -> None:
    assert hypervolume([(0, 1), (1, 2)], (2, 3)) == hypervolume([(0, 1)], (2, 3)) == 4


def test_a_point_outside_the_reference_adds_nothing() -> None:
    assert hypervolume([(0, 4), (3, 1), (2, 1), (0, 3)], (2, 3)) == 0


def test_where_higher_is_better_the_volume_is_that_of_the_mirrored_metric() -> None:
    accuracy = {1.0: 0.5, 10.0: 0.7}
    mirrored = {epsilon: -value for epsilon, value in accuracy.items()}
    assert volume(once(accuracy), (100.0, 0.4), False) == volume(once(mirrored), (100.0, -0.4), True)
    assert volume(once(accuracy), (100.0, 0.4), lower=False).value == pytest.approx(0.1 + 0.3)


@settings(deadline=None)  # two cores may be busy
@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(0, 300)), min_size=1, max_size=12))
def test_hypervolume_is_optunas(points: list[tuple[float, float]]) -> None:
    reference = (2.0, 200.0)
    inside = [(x, y) for x, y in points if x < reference[0] and y < reference[1]]
    expected = compute_hypervolume(np.array(inside), np.array(reference)) if inside else 0.0
    assert hypervolume(points, reference) == pytest.approx(expected, abs=1e-9)


def test_the_bootstrap_lists_all_resamples_of_three_seeds() -> None:
    """At one ε the area is linear in the mean, so its quantiles are those of the 27 resampled means."""
    values = {0: 100.0, 1: 104.0, 2: 112.0}
    means = [np.mean(picked) for picked in itertools.product(values.values(), repeat=3)]
    found = volume([(1.0, values)], (100.0, 150.0), lower=True)
    low, high = np.quantile(means, (0.025, 0.975))
    assert found.seeds == 3
    assert found.low == pytest.approx(2 * (150 - high))
    assert found.high == pytest.approx(2 * (150 - low))
    assert found.low < found.value < found.high


def test_the_bootstrap_of_many_seeds_is_scipys() -> None:
    rng = np.random.default_rng(3)
    rows = {epsilon: dict(enumerate(rng.normal(mean, 6, 12))) for epsilon, mean in ((1.0, 120), (10.0, 100))}
    data = np.array([list(row.values()) for row in rows.values()])  # ε by seeds

    def area(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
        a, b = first.mean(axis=axis), second.mean(axis=axis)
        return 2 * (160 - a) + np.maximum(a - b, 0)

    theirs = stats.bootstrap(
        (data[0], data[1]), area, paired=True, vectorized=True, n_resamples=20_000, method="percentile", random_state=1
    ).confidence_interval
    found = volume(list(rows.items()), (100.0, 160.0), lower=True)
    width = theirs.high - theirs.low
    assert found.low == pytest.approx(theirs.low, abs=0.06 * width)
    assert found.high == pytest.approx(theirs.high, abs=0.06 * width)
    assert found == volume(list(rows.items()), (100.0, 160.0), lower=True)  # nothing is left to chance


def test_seeds_are_resampled_whole() -> None:
    """What one seed gains at ε = 1 it loses at ε = 10: no resample of whole seeds changes the area."""
    rows = {1.0: {0: 100.0, 1: 110.0, 2: 120.0}, 10.0: {0: 100.0, 1: 90.0, 2: 80.0}}
    found = volume(list(rows.items()), (100.0, 130.0), lower=True)
    # area = 2 (130 - a) + (a - b) = 260 - a - b for a > b, and a + b = 200 in each seed
    assert (found.low, found.high) == (pytest.approx(60.0), pytest.approx(60.0))


@pytest.mark.parametrize(
    "rows",
    [
        {1.0: {0: 1.0, 1: 2.0}, 10.0: {0: 1.0, 1: 2.0}},
        {1.0: {0: 1.0, 1: 2.0, 2: 3.0}, 10.0: {0: 1.0, 1: 2.0}},
        {1.0: {0: 1.0, 1: 2.0, 2: 3.0}, 10.0: {0: 1.0, 1: 2.0, 3: 3.0}},
        {1.0: {0: 1.0}},
    ],
)
def test_there_is_no_interval_without_three_complete_seeds(rows: dict[float, dict[int, float]]) -> None:
    found = volume(list(rows.items()), (100.0, 9.0), lower=True)
    assert (found.low, found.high, found.seeds) == (None, None, 0)
    assert found.value > 0


def test_several_points_of_one_epsilon_count_by_the_best_of_each_resample() -> None:
    """Two methods that are best by turns: at their means 110 each, in half of the resamples better than that."""
    rows = [(1.0, {0: 100.0, 1: 110.0, 2: 120.0}), (1.0, {0: 120.0, 1: 110.0, 2: 100.0})]
    found = volume(rows, (10.0, 130.0), lower=True)
    assert found.value == found.low == pytest.approx(20.0)
    assert found.high == pytest.approx(30.0, abs=0.1)


@pytest.mark.parametrize(
    ("epsilons", "lost", "runs"),
    [
        ([1.0, 3.0, 10.0], [], [[1.0, 3.0, 10.0]]),
        ([1.0, 10.0], [3.0], [[1.0], [10.0]]),
        ([10.0, 1.0, 30.0], [3.0, 0.1, 300.0], [[1.0], [10.0, 30.0]]),
        ([1.0, 3.0], [3.0], [[1.0, 3.0]]),  # some of its trials have a result
        ([], [3.0], []),
    ],
)
def test_a_line_never_crosses_an_epsilon_without_a_result(epsilons, lost, runs) -> None:
    assert unbroken(epsilons, lost) == runs


# --- the least ε


@pytest.mark.parametrize(
    ("means", "failed", "target", "expected"),
    [
        # 110 is half way from 120 to 100, so half way from 1 to 10 on the logarithm
        (FALLING, [], 110.0, Least("between", math.sqrt(10), (1.0, 10.0))),
        (FALLING, [], 100.0, Least("between", 10.0, (1.0, 10.0))),
        (FALLING, [], 120.0, Least("at most", 1.0)),
        (FALLING, [0.1], 120.0, Least("at most", 1.0, failed=(0.1,))),
        (FALLING, [3.0], 110.0, Least("tested", 10.0, (1.0, 10.0), failed=(3.0,))),
        (FALLING, [10.0], 110.0, Least("tested", 10.0, (1.0, 10.0), failed=(10.0,))),
        (FALLING, [1.0], 110.0, Least("tested", 10.0, (1.0, 10.0), failed=(1.0,))),
        (FALLING, [0.1, 30.0], 110.0, Least("between", math.sqrt(10), (1.0, 10.0))),
        (FALLING, [3.0], 80.0, Least("never", best=(100.0, 90.0), failed=(3.0,))),
        (FALLING | {INF: 70.0}, [], 80.0, Least("infinite", INF)),
        (FALLING | {INF: 85.0}, [], 80.0, Least("never", best=(INF, 85.0))),
        (FALLING | {0.0: 75.0}, [], 80.0, Least("public", 0.0)),
        (FALLING | {0.0: 150.0}, [], 120.0, Least("at most", 1.0)),
        (
            {1.0: 120.0, 10.0: 100.0, 100.0: 115.0},
            [],
            110.0,
            Least("between", math.sqrt(10), (1.0, 10.0), lost=(100.0,)),
        ),
        ({}, [1.0], 110.0, Least("unknown", failed=(1.0,))),
    ],
)
def test_least(means: dict[float, float], failed: list[float], target: float, expected: Least) -> None:
    found = least(means, failed, target, lower=True)
    assert found.epsilon == pytest.approx(expected.epsilon)
    assert (found.kind, found.between, found.failed, found.lost, found.best) == (
        expected.kind,
        expected.between,
        expected.failed,
        expected.lost,
        expected.best,
    )


@settings(deadline=None)  # two cores may be busy
@given(st.dictionaries(st.floats(0.01, 100), st.floats(1, 300), min_size=1, max_size=6), st.floats(1, 300))
def test_where_higher_is_better_least_is_that_of_the_mirrored_metric(means: dict[float, float], target: float) -> None:
    mirrored = least({epsilon: -value for epsilon, value in means.items()}, [], -target, lower=False)
    found = least(means, [], target, lower=True)
    assert (found.kind, found.between, found.lost) == (mirrored.kind, mirrored.between, mirrored.lost)
    assert found.epsilon == pytest.approx(mirrored.epsilon)


@settings(deadline=None)  # two cores may be busy
@given(st.dictionaries(st.floats(0.01, 100), st.floats(1, 300), min_size=2, max_size=6), st.floats(1, 300))
def test_the_least_is_between_its_neighbours_on_numpys_line(means: dict[float, float], target: float) -> None:
    found = least(means, [], target, lower=True)
    if found.kind == "between" and found.between is not None:
        low, high = found.between
        value = np.interp(math.log10(found.epsilon), np.log10([low, high]), [means[low], means[high]])
        assert low <= found.epsilon * (1 + 1e-12)
        assert found.epsilon <= high * (1 + 1e-12)
        assert value == pytest.approx(target, abs=1e-6 * 300) or math.isclose(low, high, rel_tol=1e-6)


def test_surely_asks_the_whole_interval() -> None:
    wide, narrow = interval([90.0, 100.0, 110.0]), interval([98.0, 100.0, 102.0])  # to 124.8 and to 105.0
    assert surely({1.0: wide, 10.0: narrow}, 106.0, lower=True) == 10.0
    assert surely({1.0: wide, 10.0: narrow}, 125.0, lower=True) == 1.0
    assert surely({1.0: wide, 10.0: narrow}, 104.0, lower=True) is None
    assert surely({1.0: wide, 10.0: narrow}, 94.0, lower=False) == 10.0
    assert surely({0.0: narrow, INF: narrow}, 106.0, lower=True) is None
    assert surely({1.0: interval([90.0])}, 106.0, lower=True) is None

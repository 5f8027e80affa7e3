"""Paired tests and Holm's correction, against scipy, a closed test of all subsets, and published examples."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.paired import LEVEL, Paired, corrected, holm, paired

A = {0: 123.1, 1: 124.9, 2: 122.6}
B = {0: 127.3, 1: 126.8, 2: 128.9}


def closed(p_values: list[float]) -> list[float]:
    """Holm's procedure as the closure of Bonferroni's test: a hypothesis is rejected if every set of hypotheses that
    it is in is (Marcus, Peritz and Gabriel, Biometrika 63, 1976)."""
    every = range(len(p_values))
    sets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(every, size)]
    return [max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets if i in s) for i in every]


def test_a_difference_by_hand() -> None:
    """Differences -4.2, -1.9, -6.3: mean -4.1333, standard deviation 2.2008, t = mean / (s / sqrt 3) = -3.2530."""
    found = paired("a", "b", 1.0, A, B)
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(-4.13333, abs=1e-5)
    assert found.t == pytest.approx(-3.2530, abs=1e-4)
    # t(0.975, 2) = 4.302653
    assert found.difference.half_width == pytest.approx(4.302653 * 2.200757 / math.sqrt(3), rel=1e-5)
    assert found.difference.n == 3


def test_p_is_that_of_a_test_of_the_differences() -> None:
    p = stats.ttest_1samp([A[seed] - B[seed] for seed in A], 0.0).pvalue
    assert paired("a", "b", 1.0, A, B).p == pytest.approx(p, rel=1e-12)
    assert paired("a", "b", 1.0, A, B).p != pytest.approx(stats.ttest_ind(list(A.values()), list(B.values())).pvalue)


def test_values_are_paired_by_seed_not_by_place() -> None:
    shuffled = {seed: B[seed] for seed in (2, 0, 1)}
    assert paired("a", "b", 1.0, A, shuffled) == paired("a", "b", 1.0, A, B)


def test_only_common_seeds_count() -> None:
    assert paired("a", "b", 1.0, A | {7: 0.0}, B | {8: 500.0}) == paired("a", "b", 1.0, A, B)


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ({0: 1.0}, {1: 2.0}, "no seed in common"),
        ({0: 1.0, 1: 2.0}, {0: 2.0, 1: 4.0}, "2 of at least 3 seeds in common"),
        (A, A, "the same results"),
        (A, {seed: value + 27.0 for seed, value in A.items()}, "differences without any spread"),
        ({0: 0.0, 1: 0.0, 2: 0.0}, {0: 0.0, 1: 0.0, 2: 0.0}, "the same results"),
    ],
)
def test_what_is_not_tested_says_why(a: dict[int, float], b: dict[int, float], reason: str) -> None:
    found = paired("a", "b", 1.0, a, b)
    assert (found.t, found.p, found.reason, found.holds) == (None, None, reason, False)
    assert found.difference is None or found.difference.n >= 3 or found.difference.half_width is None


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.02, 0.03, 0.04], [0.04, 0.06, 0.06, 0.06]),
        ([0.04, 0.01, 0.03, 0.02], [0.06, 0.04, 0.06, 0.06]),
        ([0.3, 0.6], [0.6, 0.6]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.0121, 0.0142, 0.1986, 0.0001], [0.0363, 0.0363, 0.1986, 0.0004]),
    ],
)
def test_holm_by_hand(p_values: list[float], expected: list[float]) -> None:
    assert holm(p_values) == pytest.approx(expected)


@settings(deadline=None)  # two cores may be busy
@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holm_is_the_closed_test(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(closed(p_values))


def test_what_was_not_tested_is_not_in_the_family() -> None:
    tests = [
        Paired("a", "b", 1.0, None, p=0.02),
        Paired("a", "c", 1.0, None, reason="no seed in common"),
        Paired("b", "c", 1.0, None, p=0.04),
    ]
    assert [test.adjusted for test in corrected(tests)] == [0.04, None, 0.04]
    assert [test.holds for test in corrected(tests)] == [True, False, True]
    assert not Paired("a", "b", 1.0, None, p=0.01, adjusted=LEVEL + 1e-9).holds

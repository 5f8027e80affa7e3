"""How often a point is on the front when seeds are drawn again."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.dominance import Tried, chances, on_front


def tried(epsilon: float, *values: float, study: str = "a") -> Tried:
    return Tried(study, epsilon, dict(enumerate(values)))


def test_points_far_apart_are_surely_on_the_front_or_not() -> None:
    points = [tried(1, 100, 101, 102), tried(3, 90, 91, 92), tried(3, 120, 121, 122)]
    assert on_front(points, lower=True) == [True, True, False]
    assert chances(points, lower=True) == [1.0, 1.0, 0.0]
    assert chances(points, lower=False) == [1.0, 0.0, 1.0]


def test_the_chance_is_the_share_of_resamples_by_listing_them_all() -> None:
    a, b = (100.0, 104.0, 112.0), (101.0, 103.0, 109.0)
    points = [tried(1, *a, study="a"), tried(1, *b, study="b")]  # two studies: drawn apart
    resampled = list(itertools.product(range(3), repeat=3))
    means = [[np.mean([v[i] for i in picked]) for picked in resampled] for v in (a, b)]
    expected = np.mean([x <= y for x in means[0] for y in means[1]])
    assert chances(points, lower=True)[0] == pytest.approx(expected, abs=0.03)


def test_one_studys_points_are_drawn_together() -> None:
    """In every seed the first is better by one, though their spreads overlap."""
    points = [tried(1, 100, 120, 140), tried(1, 101, 121, 141)]
    assert chances(points, lower=True) == [1.0, 0.0]
    other = [points[0], tried(1, 101, 121, 141, study="b")]
    assert 0.3 < chances(other, lower=True)[0] < 0.7


def test_fewer_than_three_seeds_have_no_chance_but_compete() -> None:
    points = [tried(1, 50), tried(1, 100, 101, 102)]
    assert chances(points, lower=True) == [None, 0.0]


def test_equals_do_not_dominate_each_other() -> None:
    points = [tried(1, 5, 6, 7), tried(1, 5, 6, 7)]
    assert on_front(points, lower=True) == [True, True]
    assert chances(points, lower=True) == [1.0, 1.0]


@given(st.lists(st.tuples(st.sampled_from([1.0, 3.0, 10.0]), st.integers(0, 5)), min_size=1, max_size=6))
def test_the_front_is_never_empty_and_holds_no_dominated_point(rows: list[tuple[float, int]]) -> None:
    points = [tried(epsilon, float(value)) for epsilon, value in rows]
    found = on_front(points, lower=True)
    assert any(found)
    for point, kept in zip(points, found, strict=True):
        better = any(
            o.epsilon <= point.epsilon and o.mean <= point.mean and (o.epsilon, o.mean) != (point.epsilon, point.mean)
            for o in points
        )
        assert kept != better

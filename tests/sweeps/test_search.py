"""Searches: what they refuse before anything runs, and a history that more trials continue."""

import pytest

from sweeps.search import check_search, corners, history_name
from wavedp.errors import UserError

SPACE = {"epsilon": {"low": 0.5, "high": 20, "log": True}, "upscaler": ["bicubic", "nearest"]}
SEARCH = {"trials": 2, "startup": 5, "seed": 0, "space": SPACE}


def test_more_trials_continue_the_history_and_another_question_begins_its_own():
    name = history_name({"trial": {"level": 1}}, SEARCH)
    assert history_name({"trial": {"level": 1}}, SEARCH | {"trials": 3}) == name
    assert history_name({"trial": {"level": 2}}, SEARCH) != name
    assert history_name({"trial": {"level": 1}}, SEARCH | {"space": {"level": [1]}}) != name


def test_corners_have_every_choice_and_the_ends_and_middle_of_ranges():
    found = corners(SPACE)
    assert [point["epsilon"] for point in found] == pytest.approx([0.5, 10**0.5, 20, 0.5])
    assert [point["upscaler"] for point in found] == ["bicubic", "bicubic", "bicubic", "nearest"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trials": 0}, r"sweep.search.trials=0 is not a number of trials"),
        ({"trials": None}, r"sweep.search.trials=None"),
        ({"startup": -1}, r"sweep.search.startup=-1"),
        ({"seed": "a"}, r"sweep.search.seed='a'"),
        ({"space": {}}, "has no axis"),
        ({"space": ["epsilon"]}, "is not a mapping"),
        ({"space": {"epsilon": {"low": 2, "high": 1}}}, "is no range"),
        ({"space": {"epsilon": {"low": 0, "high": 1, "log": True}}}, "above 0 with log"),
        ({"space": {"epsilon": {"low": 1, "high": float("nan")}}}, "is no range"),
        ({"space": {"epsilon": {"low": 1, "high": 2, "logs": True}}}, "has no logs: did you mean log"),
    ],
)
def test_what_is_no_search_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        check_search({"name": "x", "search": SEARCH | changes})


@pytest.mark.parametrize("beside", [{"grid": {"epsilon": [1]}}, {"seeds": [1]}, {"cases": {"a": {}}}])
def test_axes_beside_a_search_would_be_read_by_nothing(beside):
    with pytest.raises(UserError, match=f"sweep.{next(iter(beside))} is not read by a search"):
        check_search({"name": "x", "search": SEARCH, **beside})

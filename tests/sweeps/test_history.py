"""A search's history: what was told stays told, and what its driver did not live to tell is suggested again."""

import math

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from sweeps.history import History

SPACE = {
    "epsilon": FloatDistribution(0.5, 20, log=True),
    "upscaler": CategoricalDistribution(["bicubic", "nearest"]),
}  # fmt: skip
ROWS = [
    {"status": "done", "axes": {"epsilon": 2.0, "upscaler": "nearest", "seed": 0}, "told": (50.0, 2.0)},
    {"status": "done", "axes": {"epsilon": 3.0, "upscaler": "bicubic", "seed": 0}, "told": (40.0, 3.0)},
    {"status": "failed", "axes": {"epsilon": 4.0, "upscaler": "bicubic", "seed": 0}, "told": None},
    {"status": "done", "axes": {"epsilon": 90.0, "upscaler": "bicubic", "seed": 0}, "told": (9.0, 90.0)},
    {"status": "done", "axes": {"epsilon": "inf", "upscaler": "bicubic", "seed": 0}, "told": (9.0, math.inf)},
]


@pytest.fixture
def opened(tmp_path):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return lambda rows=(), name="a": History(tmp_path, name, SPACE, rows, lambda row: row["told"])


def test_what_runs_when_the_driver_dies_is_suggested_again_before_any_other(opened):
    first = opened()
    done, left = (first.study.ask(SPACE) for _ in range(2))
    first.study.tell(done.number, [50.0, 1.0])
    again = opened()
    assert (again.finished(), again.begun()) == (1, 3)
    assert again.study.ask(SPACE).params == left.params
    assert again.study.ask(SPACE).params not in (left.params, done.params)


def test_a_lost_history_is_told_what_the_records_say(opened):
    history = opened(ROWS)
    assert history.finished() == 2  # not the one that failed, nor those of another space
    assert [trial.values for trial in history.study.get_trials()] == [[50.0, 2.0], [40.0, 3.0]]
    assert history.study.get_trials()[0].params == {"epsilon": 2.0, "upscaler": "nearest"}
    assert opened(ROWS).finished() == 2  # once


def test_another_question_has_a_history_of_its_own(opened):
    opened(ROWS)
    assert opened(name="b").finished() == 0

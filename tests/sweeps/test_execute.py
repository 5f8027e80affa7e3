"""How a plan's trials are given to the coordinator, without Ray: so many at once, each with a row at the end."""

import dataclasses

import pytest
from ray.exceptions import ActorDiedError

from sweeps import execute
from sweeps.plan import plan
from wavedp.config import DataConfig, TrialConfig, configure, to_dict

PROCEDURAL = DataConfig(name="procedural", n_records=256)
BASE = dataclasses.replace(
    TrialConfig(),
    data=PROCEDURAL,
    public=dataclasses.replace(PROCEDURAL, split="public"),
    upscaler=configure("upscaler", "bicubic"),
)
TRIALS = plan(to_dict(BASE), {"grid": {"epsilon": [1, 2, 3, 4, 5]}}, lambda group, option: {})


class Task(tuple):
    """What is called when Ray is asked for its result."""

    __slots__ = ()
    __hash__ = object.__hash__
    __eq__ = object.__eq__


class Method:
    """coordinator.method.remote(…) -> a task."""

    def __init__(self, call):
        self.remote = lambda *arguments: Task((call, arguments))


class Coordinator:
    """One whose method `conduct` is lost for the trials `lost`."""

    def __init__(self, lost=()):
        self.lost, self.rows = lost, {}
        self.conduct, self.finish = Method(self._conduct), Method(self._finish)

    def _conduct(self, trial):
        if trial.id in self.lost:
            raise ActorDiedError
        return self._finish({"trial": trial.id, "status": "done"}, {})

    def _finish(self, row, files):
        self.rows[row["trial"]] = row
        return row


@pytest.fixture
def walked(monkeypatch):
    at_once = []

    def wait(tasks, num_returns):
        at_once.append(len(tasks))
        return tasks[-1:], tasks[:-1]

    monkeypatch.setattr(execute.ray, "wait", wait)
    monkeypatch.setattr(execute.ray, "get", lambda task: task[0](*task[1]))

    def run(coordinator, infeasible=execute.NONE):
        execute._walked(coordinator, TRIALS, {"commit": "c", "max_concurrent": 2}, infeasible)
        return at_once

    return run


def test_every_trial_is_walked_and_no_more_at_once_than_asked(walked):
    coordinator = Coordinator()
    assert max(walked(coordinator)) == 2
    assert set(coordinator.rows) == {trial.id for trial in TRIALS}
    assert {row["status"] for row in coordinator.rows.values()} == {"done"}


def test_a_trial_that_is_lost_has_a_row_and_the_others_go_on(walked):
    lost = TRIALS[1].id
    coordinator = Coordinator([lost])
    walked(coordinator)
    assert coordinator.rows[lost]["status"] == "failed"
    assert "it was given up without a row (" in coordinator.rows[lost]["reason"]
    assert sum(row["status"] == "done" for row in coordinator.rows.values()) == 4


def test_what_was_found_infeasible_is_a_row_and_is_not_walked(walked):
    refused = TRIALS[0].id
    coordinator = Coordinator([refused])
    walked(coordinator, {refused: "too much noise"})
    assert (coordinator.rows[refused]["status"], coordinator.rows[refused]["reason"]) == (
        "infeasible",
        "too much noise",
    )

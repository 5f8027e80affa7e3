"""What Prometheus reads of a study, through Ray."""

import io

import pytest

from sweeps import gauges
from sweeps.clocks import Clocks
from sweeps.progress import Progress
from sweeps.watchers import Spent


class Recorded:
    """Ray's gauge, with its values by the values of their labels."""

    every: dict = {}  # noqa: RUF012

    def __init__(self, name, description, tag_keys):
        assert (name + description).isascii(), "Ray takes no other letters"
        self.values = self.every[name] = {}
        self.keys = tag_keys

    def set(self, value, tags):
        assert tuple(tags) == self.keys
        assert all(each.isascii() for each in tags.values())
        self.values[tuple(tags.values())] = value


@pytest.fixture
def every(monkeypatch):
    monkeypatch.setattr(Recorded, "every", {})
    monkeypatch.setattr(gauges, "Gauge", Recorded)
    return Recorded.every


def test_a_stage_that_has_ended_is_zero(every):
    shown = gauges.Gauges("étude")
    shown.show({"done": 1}, {"tokenizer": 2, "private_fit": 1}, Spent(1, 2.5, 0.5))
    shown.show({"done": 2}, {"private_fit": 2}, Spent(2, 3.5, 1.0))
    study = "\\xe9tude"
    assert every == {
        "wavedp_trials": {(study, "done"): 2},
        "wavedp_stages_running": {(study, "tokenizer"): 0, (study, "private_fit"): 2},
        "wavedp_epsilon_spent": {(study,): 3.5},
        "wavedp_gpu_seconds": {(study,): 3600.0},
    }


def test_the_display_sets_them(every):
    status = {
        "now": {"b": ("private_fit", "k")}, "clocks": Clocks(begun={"k": 0.0}), "makers": {"k": "b"}, "ledger": [],
        "rows": {"a": {"trial": "a", "status": "infeasible", "reason": "", "epsilon_spent": None, "metrics": {}}},
        "stages": {"k": "private_fit", "waits": "private_fit"}, "gpu_seconds": 7.0, "all": {}, "asked": {},
    }  # fmt: skip
    Progress(lambda: status, [], set(), 5, io.StringIO(), gauges=gauges.Gauges("s"))._show()
    assert {status: count for (_, status), count in every["wavedp_trials"].items()} == {
        "done": 0, "failed": 0, "infeasible": 1, "running": 1, "waiting": 3,
    }  # fmt: skip
    assert every["wavedp_stages_running"] == {("s", "private_fit"): 1}, "one of them has no worker yet"
    assert every["wavedp_gpu_seconds"] == {("s",): 7.0}
    assert every["wavedp_epsilon_spent"] == {("s",): 0.0}


def test_rays_own_takes_what_is_set():
    """Without a cluster nobody reads it; what Ray cannot encode is refused here too."""
    gauges.Gauges("étude 猫").show({"done": 1}, {"private_fit": 1}, Spent(1, 2.5, 0.5))

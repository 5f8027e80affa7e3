"""The conductor's last steps, without Ray: whatever happens, the trial has a row."""

import dataclasses

import pytest

from sweeps import trial as module
from sweeps.plan import plan
from wavedp import chain
from wavedp.config import DataConfig, TrialConfig, configure, to_dict
from wavedp.store import Store

PROCEDURAL = DataConfig(name="procedural", n_records=256)
PUBLIC = dataclasses.replace(PROCEDURAL, split="public")
BASE = dataclasses.replace(
    TrialConfig(), data=PROCEDURAL, public=PUBLIC, upscaler=configure("upscaler", "bicubic")
)  # fmt: skip
(TRIAL,) = plan(to_dict(BASE), {"grid": {"epsilon": [1]}}, lambda group, option: {})


class Method:
    """coordinator.method.remote(…) -> what `ray.get` would give."""

    def __init__(self, remote):
        self.remote = remote


class FakeCoordinator:
    """One that finds every stage finished in no time."""

    def __init__(self):
        self.row = self.files = None
        self.request = Method(
            lambda name, key, *_: [{"key": key, "made": True, "seconds": 1.0, "memory": {}, "ledger": []}]
        )
        self.account = Method(lambda *_: True)
        self.finish = Method(self._finish)

    def _finish(self, row, files):
        self.row, self.files = row, files
        return row


@pytest.fixture
def conducted(monkeypatch, tmp_path):
    def run(**changes):
        coordinator = FakeCoordinator()
        for name, method in changes.items():
            setattr(coordinator, name, Method(method))
        row = module.conduct(TRIAL, coordinator, Store(str(tmp_path / "store")), "commit")
        assert row is coordinator.row
        return row, coordinator.files

    monkeypatch.setattr(module.ray, "get", lambda value: value)
    monkeypatch.setattr(module.model_checks, "check_models", lambda _: None)
    return run


def test_an_artifact_that_has_vanished_is_a_failed_row(conducted, tmp_path):
    row, files = conducted()
    assert (row["trial"], row["status"]) == (TRIAL.id, "failed")
    assert f"the upscale artifact of {TRIAL.id} is no longer in {tmp_path / 'store'}: start the same" in row["reason"]
    assert list(files) == [f"failures/{TRIAL.id}.txt"]
    assert row["keys"] == chain.keys(TRIAL.config)


def test_records_that_cannot_be_written_fail_the_trial(conducted):
    def refuse(*_):
        raise OSError(28, "No space left on device", "results/s/ledger.jsonl")

    row, _ = conducted(request=refuse)
    assert row["status"] == "failed"
    assert "No space left on device" in row["reason"]


def test_the_death_of_the_coordinator_is_not_the_trials(conducted):
    def dead(*_):
        raise module.RayError("the actor died")

    with pytest.raises(module.RayError, match="the actor died"):
        conducted(request=dead)

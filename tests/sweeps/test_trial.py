"""A trial's walk, without Ray: whatever happens, the trial has a row."""

import asyncio
import dataclasses

import pytest
from ray.exceptions import RayTaskError, WorkerCrashedError

from sweeps import trial as module
from sweeps.plan import plan
from wavedp import chain
from wavedp.config import DataConfig, TrialConfig, configure, to_dict
from wavedp.errors import UserError
from wavedp.store import Store

PROCEDURAL = DataConfig(name="procedural", n_records=256)
PUBLIC = dataclasses.replace(PROCEDURAL, split="public")
BASE = dataclasses.replace(
    TrialConfig(), data=PROCEDURAL, public=PUBLIC, upscaler=configure("upscaler", "bicubic")
)  # fmt: skip
(TRIAL,) = plan(to_dict(BASE), {"grid": {"epsilon": [1]}}, lambda group, option: {})


class Finished:
    """Who finds every stage finished in no time, after so many deaths of the worker that makes it."""

    def __init__(self, refusal=None, deaths=0, error=None):
        self.refusal, self.deaths, self.error, self.asked = refusal, deaths, error, []

    async def request(self, name, key, config, trial_id):
        self.asked.append(name)
        if self.error and name == "evaluate":
            raise self.error
        return self.refusal or self._result(name, key)

    def _result(self, name, key):
        async def result():
            if name == "evaluate" and self.deaths:
                self.deaths -= 1
                raise WorkerCrashedError
            return {"key": key, "made": True, "seconds": 1.0, "memory": {}, "ledger": []}

        return asyncio.ensure_future(result())

    async def account(self, name, result, trial_id):
        return {"seconds": 1.0, "memory": {"host": 1}} if name == "evaluate" else None


@pytest.fixture
def walked(monkeypatch, tmp_path):
    def run(**faults):
        stages = Finished(**faults)

        async def walk():
            return await module.walk(TRIAL, stages, Store(str(tmp_path / "store")), "commit", asyncio.Semaphore(1))

        return *asyncio.run(walk()), stages

    return run


def test_an_artifact_that_has_vanished_is_a_failed_row(walked, tmp_path):
    row, files, _ = walked()
    assert (row["trial"], row["status"]) == (TRIAL.id, "failed")
    assert f"the upscale artifact of {TRIAL.id} is no longer in {tmp_path / 'store'}: start the same" in row["reason"]
    assert list(files) == [f"failures/{TRIAL.id}.txt"]
    assert row["keys"] == chain.keys(TRIAL.config)


def test_stages_are_asked_for_in_order_and_their_costs_told(walked, monkeypatch):
    monkeypatch.setattr(module, "finished", lambda trial, store: ({"status": "done"}, {"a": b""}))
    row, files, stages = walked()
    assert stages.asked == [stage.name for stage in chain.chain_of(TRIAL.config)]
    assert (row["status"], row["seconds"], row["memory"]) == ("done", {"evaluate": 1.0}, {"evaluate": {"host": 1}})
    assert row["reused"] == [name for name in row["keys"] if name != "evaluate"]
    assert files == {"a": b""}


def test_records_that_cannot_be_written_fail_the_trial(walked):
    row, _, _ = walked(error=UserError("ledger.jsonl cannot be written (No space left on device): make room."))
    assert row["status"] == "failed"
    assert "No space left on device" in row["reason"]


def test_what_the_budget_forbids_is_infeasible(walked):
    row, files, stages = walked(refusal="over budget")
    assert (row["status"], row["reason"], files) == ("infeasible", "over budget", {})
    assert len(stages.asked) == 1


def test_an_error_of_a_stage_is_told_by_its_cause(walked):
    error = RayTaskError("evaluate", "Traceback …", ValueError("two\nlines"))
    row, _, _ = walked(error=error.as_instanceof_cause())
    assert row["reason"] == "ValueError: two lines"


@pytest.mark.parametrize(("deaths", "status"), [(module.ATTEMPTS - 1, "done"), (module.ATTEMPTS, "failed")])
def test_deaths_under_a_stage_are_borne_to_a_number(walked, monkeypatch, deaths, status):
    monkeypatch.setattr(module, "finished", lambda trial, store: ({"status": "done"}, {}))
    row, _, _ = walked(deaths=deaths)
    assert row["status"] == status

"""One actor a study, on the driver's node: it walks the trials, is the only writer of the study's folder, and has one
task for each stage key.

A trial that needs a stage gets the task that is making it, or one that finds it in the store; what was released is in
the ledger, on the disk, before any trial goes on with it. Ray gives the task of a dead worker to another (it resumes
from the stage's checkpoint); a restarted coordinator reads its records from disk, and is given the trials again that it
had not ended. While the records can't be written, no further stage is begun: a release that no ledger would list is not
made.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from pathlib import Path
from typing import Any

import ray

from sweeps import images
from sweeps.clocks import Clocks
from sweeps.copies import Copy
from sweeps.plan import PlannedTrial, refusal_of_all, releases_of
from sweeps.records import Records
from sweeps.row import blank_row
from sweeps.trial import walk
from wavedp import chain, checks, model_checks, stages
from wavedp.config import TrialConfig, from_dict
from wavedp.entries import behind
from wavedp.errors import InfeasibleError, UserError
from wavedp.files import cannot_write, write_atomically
from wavedp.peak_memory import peak_memory
from wavedp.privacy.budget import Budget, made, stage_refusal
from wavedp.store import Store

WORKER_DEATHS = 10  # of one stage, before its trials fail
WRITING = 0.1  # share of the time that goes into writing the records, at most
READERS = 2  # trials whose artifacts are read at once, for their rows: one may have some hundred megabytes


@ray.remote(max_retries=WORKER_DEATHS)
def run_stage(name: str, key: str, trial: dict[str, Any], settings: dict[str, Any], coordinator: Any) -> dict[str, Any]:
    """Make one stage in this worker, with as many threads as it has cores; the artifact itself goes to the store.

    Its inputs are never made here, where nobody would enter them in the ledger: they must be in the store. Raises
    UserError for one that is not, and if this node would make another key.
    """
    import torch

    asked = settings["stages"][name]
    torch.set_num_threads(max(1, int(asked.get("num_cpus", 1))))
    coordinator.begin.remote(key)
    device = "cuda" if asked.get("num_gpus") else "cpu"  # where a GPU was asked for, this worker has one
    store, started, told = _store(settings), time.time(), 0.0
    config = images.at_hand(from_dict(TrialConfig, trial), store, settings.get("sent", {}))

    def report(done: int, total: int) -> None:
        nonlocal told
        if time.time() - told > 1:
            told = time.time()
            coordinator.tell.remote(key, done / total)

    with warnings.catch_warnings(record=True) as said, peak_memory(device) as memory:
        warnings.simplefilter("always", UserWarning)
        ranks = max(1, int(asked.get("num_gpus", 1)))  # a process for each whole GPU
        artifact, made = stages.make_alone(name, key, config, store, device, report, ranks)
    return {
        "key": key,
        "made": made,
        "seconds": round(time.time() - started, 2),
        "memory": memory,
        "ledger": artifact.json("ledger") if "ledger.json" in artifact.files else [],
        "warnings": [str(item.message) for item in said if issubclass(item.category, UserWarning)],
    }


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Coordinator:
    """settings: store URL, its secret, zoo, name of the copy there, images that were sent (sweeps.images), {stage: Ray
    resources}, budget, commit. owners: see sweeps.plan.owners (grows in a search).

    One request is decided after another, so that no two releases share the last of a budget.
    """

    def __init__(self, folder: str, settings: dict[str, Any], owners: dict[str, str]) -> None:
        self.records = Records(Path(folder), Copy(Store(settings["store"]), settings["copy"]), at_once=False)
        self.settings, self.owners = settings, owners
        self.users: dict[str, list[str]] = {}
        self.tasks: dict[str, asyncio.Task[dict[str, Any]]] = {}
        self.clocks = Clocks(seconds={key: cost["seconds"] for key, cost in self.records.costs.items()})
        self.now: dict[str, tuple[str, str]] = {}  # trial: stage and key it waits for
        self.ended: dict[str, dict[str, Any]] = {}  # trial: its row
        self.me: Any = None
        self.budget = Budget(**settings["budget"])
        self.releases = made(self.records.ledger.values())
        self.running: dict[str, tuple[str, float]] = {}  # key: stage, when it was asked for
        self.warnings: dict[str, None] = {}
        self.trouble: str | None = None  # why the records can't be written
        self.saving, self.saves, self.took = asyncio.Lock(), 0, 0.0
        self.reading = asyncio.Semaphore(READERS)

    async def conduct(self, trial: PlannedTrial, checked: bool = True) -> dict[str, Any]:
        """Run one trial and record its row, which it returns; a failure becomes a row too. checked: the trial's
        configuration and models have been, by whoever planned it."""
        try:
            if not checked:
                await asyncio.to_thread(_check, trial)
        except (InfeasibleError, UserError) as error:
            status = "infeasible" if isinstance(error, InfeasibleError) else "failed"
            row = blank_row(trial, self.settings["commit"]) | {"status": status, "reason": str(error)}
            return await self.finish(row, {})
        return await self.finish(*await walk(trial, self, _store(self.settings), self.settings["commit"], self.reading))

    async def request(
        self, name: str, key: str, trial: dict[str, Any], trial_id: str
    ) -> asyncio.Task[dict[str, Any]] | str:
        """The task that makes a stage or finds it, or why it may not be made.

        Raises UserError while the records can't be written.
        """
        self.now[trial_id] = (name, key)
        if self.trouble and await self.save():
            raise UserError(self.trouble)
        refusal = None if key in self.tasks else self._refusal(name, key, trial)
        if refusal:
            return refusal
        self.owners.setdefault(key, trial_id)
        if trial_id not in self.users.setdefault(key, []):
            self.users[key].append(trial_id)
        if key not in self.tasks:
            self.running[key] = (name, time.time())
            self.me = self.me or ray.get_runtime_context().current_actor
            self.tasks[key] = asyncio.get_running_loop().create_task(self._make(name, key, trial))
        return self.tasks[key]

    async def _make(self, name: str, key: str, trial: dict[str, Any]) -> dict[str, Any]:
        """Have a stage made, and enter its ledger lines, whether or not a trial still waits for it."""
        stage = run_stage.options(name=f"{name}:{key[:8]}", **self.settings["stages"][name])
        try:
            result = await stage.remote(name, key, trial, self.settings, self.me)
        except Exception:
            # The trials that wait for the task get this error and report it; forgetting the task lets a retry begin.
            self.tasks.pop(key, None)
            self.clocks.begun.pop(key, None)
            # A release that was to be made beside it stays noted: the retry needs it too.
            if key not in made(self.records.ledger.values()):
                self.releases.pop(key, None)
            raise
        finally:
            self.records.add_gpu_seconds(self._used(self.running.pop(key)))
        self.records.put_ledger(result["ledger"], self.users[key])
        if result["made"]:
            self.records.put_cost(key, result["seconds"], result["memory"])
        self.warnings |= dict.fromkeys(result["warnings"])
        self.clocks.end(key, result["seconds"] if result["made"] else None)
        await self.save()
        return result

    async def save(self) -> str | None:
        """Wait until what the records hold by now is on the disk; None, or why it can't be written.

        Whoever comes while files are being written shares the next write, which begins no sooner than leaves most of
        the time to other work: a study of n trials then costs no n² lines.
        """
        before = self.saves
        async with self.saving:
            if self.saves == before:  # else somebody's write has begun since, and held what was there
                await asyncio.sleep(self.took * (1 / WRITING - 1))
                self.saves += 1
                began = time.monotonic()
                changes = self.records.changes()
                try:
                    await asyncio.to_thread(self.records.write, changes)
                    self.trouble = None
                except OSError as error:
                    self.trouble = cannot_write(error.filename or f"results={self.records.folder}", error)
                self.took = time.monotonic() - began
            return self.trouble

    def _refusal(self, name: str, key: str, trial: dict[str, Any]) -> str | None:
        """Why the budget forbids a stage that is not in flight; a release that it allows is noted as in flight."""
        limited = self.budget.gpu_hours is not None
        if limited and not _store(self.settings).has(name, key):  # what is found needs no GPU
            refusal = stage_refusal(self.budget, self._gpu_seconds())
            if refusal:
                return refusal
        if name not in chain.PRIVATE or self.budget.epsilon is None or key in self.releases:
            return None
        config = from_dict(TrialConfig, trial)
        asked = releases_of(PlannedTrial("", {}, config, chain.keys(config)))  # no half of a trial is released
        refusal = refusal_of_all(self.budget, self.releases, asked)
        if refusal is None:
            self.releases = asked | self.releases
        return refusal

    def _gpu_seconds(self) -> float:
        """GPU seconds of all stages, of those that run up to now."""
        return self.records.gpu_seconds + sum(map(self._used, self.running.values()))

    def _used(self, task: tuple[str, float]) -> float:
        """GPU seconds of a task since it was asked for: its wait for the GPU counts, of which Ray tells us nothing."""
        stage, since = task
        return (time.time() - since) * self.settings["stages"][stage].get("num_gpus", 0)

    async def account(self, name: str, result: dict[str, Any], trial_id: str) -> dict[str, Any] | None:
        """Note that a trial uses a finished stage. Returns its seconds and memory if this study made it, in whatever
        run, for this trial; otherwise None."""
        self.records.put_ledger(result["ledger"], [trial_id])
        return self.records.costs.get(result["key"]) if self.owners.get(result["key"]) == trial_id else None

    async def begin(self, key: str) -> None:
        """Note that a worker took a stage up."""
        self.clocks.begin(key)

    async def tell(self, key: str, fraction: float) -> None:
        """Note how far a stage is, 0 to 1."""
        self.clocks.tell(key, fraction)

    async def finish(self, row: dict[str, Any], files: dict[str, bytes]) -> dict[str, Any]:
        """Record a finished trial and its files (by their path in the study's folder); its row, which says `failed`
        where the files can't be written."""
        try:
            for name, content in files.items():
                await asyncio.to_thread(write_atomically, self.records.folder / name, content)
        except OSError as error:
            row |= {"status": "failed", "reason": " ".join(filter(None, [row["reason"], cannot_write(name, error)]))}
        self.records.put_trial(row)
        await self.save()
        self.now.pop(row["trial"], None)
        self.ended[row["trial"]] = row
        return row

    async def close(self) -> tuple[list[str], str | None]:
        """Warnings of all stages, and why the records are not whole on the disk (None: they are)."""
        return list(self.warnings), await self.save()

    async def rows(self) -> list[dict[str, Any]]:
        """The rows of trials.jsonl."""
        return list(self.records.trials.values())

    async def status(self) -> dict[str, Any]:
        """Everything that the progress display shows."""
        return {
            "now": self.now,
            "rows": self.ended,
            "clocks": self.clocks,
            "makers": {key: self.users[key][0] for key in self.running},
            "stages": {key: stage for key, (stage, _) in self.running.items()},
            "ledger": list(self.records.ledger.values()),
            "gpu_seconds": self._gpu_seconds(),
        }


def _check(trial: PlannedTrial) -> None:
    """Raises UserError or InfeasibleError for a trial that would fail later."""
    checks.check(trial.config)
    model_checks.check_models(trial.config)


def _store(settings: dict[str, Any]) -> Store:
    return Store(settings["store"], behind(settings["zoo"]), settings.get("secret"))

"""The walk of one trial along its chain: ask for each stage by key, wait, and make the trial's row.

It is a coroutine of the coordinator, which walks all trials at once: a trial holds no process, no core and no GPU. The
stages are Ray tasks with resources of their own, and trials that share one wait for the same task.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable
from typing import Any, Protocol

from ray.exceptions import RayError, RayTaskError

from sweeps.plan import PlannedTrial
from sweeps.row import blank_row, finished
from wavedp import chain
from wavedp.config import to_dict
from wavedp.errors import InfeasibleError
from wavedp.store import Store

ATTEMPTS = 5  # deaths of a node under one stage or another before a trial is given up


class Stages(Protocol):
    """Who has stages made: the coordinator."""

    async def request(
        self, name: str, key: str, trial: dict[str, Any], trial_id: str
    ) -> Awaitable[dict[str, Any]] | str:
        """The result of a stage to come, or why it may not be made."""

    async def account(self, name: str, result: dict[str, Any], trial_id: str) -> dict[str, Any] | None:
        """What a stage cost, if it was made for this trial."""


async def walk(
    trial: PlannedTrial, stages: Stages, store: Store, commit: str, reading: asyncio.Semaphore
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Run one trial; its row, and its files for the study's folder. Whatever fails becomes a row too. reading: how many
    trials' artifacts are in memory at once."""
    row = blank_row(trial, commit)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            results = await _results(trial, stages)
            costs = {name: await stages.account(name, result, trial.id) for name, result in results.items()}
            async with reading:
                done, files = await asyncio.to_thread(finished, trial, store)
            return row | done | {
                "reused": [name for name, cost in costs.items() if not cost],
                "seconds": {name: cost["seconds"] for name, cost in costs.items() if cost},
                "memory": {name: cost["memory"] for name, cost in costs.items() if cost},
            }, files
        except Exception as error:
            died = isinstance(error, RayError) and not isinstance(error, RayTaskError)  # a worker, or its node
            if died and attempt < ATTEMPTS:
                continue
            cause = error.cause if isinstance(error, RayTaskError) else error
            if isinstance(cause, InfeasibleError):
                return row | {"status": "infeasible", "reason": str(cause)}, {}
            reason = f"{type(cause).__name__}: {cause}".replace("\n", " ")
            told = traceback.format_exc().encode("utf-8", "backslashreplace")
            return row | {"status": "failed", "reason": reason}, {f"failures/{trial.id}.txt": told}
    raise AssertionError("the last attempt returns")


async def _results(trial: PlannedTrial, stages: Stages) -> dict[str, dict[str, Any]]:
    """Ask for every stage once its inputs are published; {stage: its task's result}."""
    config = to_dict(trial.config)
    asked: dict[str, Awaitable[dict[str, Any]]] = {}
    for stage in chain.chain_of(trial.config):
        for name in stage.inputs:
            await asked[name]
        answer = await stages.request(stage.name, trial.keys[stage.name], config, trial.id)
        if isinstance(answer, str):
            raise InfeasibleError(answer)
        asked[stage.name] = answer
    return {name: await each for name, each in asked.items()}

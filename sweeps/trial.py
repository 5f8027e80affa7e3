"""The conductor of one trial: walks the chain, asks for each stage by key, waits, and writes the trial's row.

It holds no core and no GPU: the stages are Ray tasks with resources of their own, and trials that share a stage wait
for the same task.
"""

from __future__ import annotations

import traceback
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from sweeps.plan import PlannedTrial
from sweeps.row import blank_row, finished
from wavedp import chain, checks, model_checks
from wavedp.config import to_dict
from wavedp.errors import InfeasibleError
from wavedp.store import Store


def conduct(trial: PlannedTrial, coordinator: Any, store: Store, commit: str) -> dict[str, Any]:
    """Run one trial and record its row; a failure of the trial becomes a row too. Returns the row.

    Raises only for the death of the coordinator or of a node, which the caller's retry mends.
    """
    row = blank_row(trial, commit)
    files: dict[str, bytes] = {}
    try:
        checks.check(trial.config)
        model_checks.check_models(trial.config)
        results = _walk(trial, coordinator)
        costs = {name: ray.get(coordinator.account.remote(name, result, trial.id)) for name, result in results.items()}
        done, files = finished(trial, store)
        row |= done | {
            "reused": [name for name, cost in costs.items() if not cost],
            "seconds": {name: cost["seconds"] for name, cost in costs.items() if cost},
            "memory": {name: cost["memory"] for name, cost in costs.items() if cost},
        }
    except Exception as error:
        if isinstance(error, RayError) and not isinstance(error, RayTaskError):
            raise
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, InfeasibleError):
            row |= {"status": "infeasible", "reason": str(cause)}
        else:
            row |= {"status": "failed", "reason": f"{type(cause).__name__}: {cause}".replace("\n", " ")}
            files = {f"failures/{trial.id}.txt": traceback.format_exc().encode("utf-8", "backslashreplace")}
    return ray.get(coordinator.finish.remote(row, files))


def _walk(trial: PlannedTrial, coordinator: Any) -> dict[str, dict[str, Any]]:
    """Ask for every stage once its inputs are published; {stage: its task's result}."""
    config = to_dict(trial.config)
    tasks: dict[str, Any] = {}
    for stage in chain.chain_of(trial.config):
        ray.get([tasks[name] for name in stage.inputs])
        request = coordinator.request.remote(stage.name, trial.keys[stage.name], config, trial.id)
        answer = ray.get(request)
        if isinstance(answer, str):
            raise InfeasibleError(answer)
        (tasks[stage.name],) = answer
    return dict(zip(tasks, ray.get(list(tasks.values())), strict=True))

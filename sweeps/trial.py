"""The conductor of one trial: walks the chain, asks for each stage by key, waits, and writes the trial's row.

It holds no core and no GPU: the stages are Ray tasks with resources of their own, and trials that share a stage wait
for the same task.
"""

from __future__ import annotations

import io
import math
import socket
import traceback
from typing import Any

import numpy as np
import ray
from PIL import Image
from ray.exceptions import RayError, RayTaskError

from sweeps.plan import PlannedTrial
from wavedp import chain, checks, data, methods, stages
from wavedp.config import settings_of, to_dict
from wavedp.errors import InfeasibleError, UserError
from wavedp.files import npz
from wavedp.privacy import accounting, ledger
from wavedp.store import Store

SHEET_COLUMNS = 10  # images kept for the figures, one per column of a contact sheet


def conduct(trial: PlannedTrial, coordinator: Any, store: str, commit: str) -> dict[str, Any]:
    """Run one trial and record its row; a failure of the trial becomes a row too. Returns the row.

    Raises only for the death of the coordinator or of a node, which the caller's retry mends.
    """
    row = blank_row(trial, commit)
    files: dict[str, bytes] = {}
    try:
        checks.check(trial.config)
        stages.check_models(trial.config)
        results = _walk(trial, coordinator)
        done, files = _finished(trial, results, coordinator, Store(store))
        row |= done
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


def _finished(
    trial: PlannedTrial, results: dict[str, dict[str, Any]], coordinator: Any, store: Store
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What a trial whose stages are all published adds to its row, and its samples. Raises UserError for an artifact
    that has vanished since."""
    made = {name: ray.get(coordinator.account.remote(name, result, trial.id)) for name, result in results.items()}
    bridge = _artifact(store, "upscale", trial).json("upscaler")["bridge"]
    done = {
        "status": "done",
        "epsilon_spent": _spent(results["private_fit"]["ledger"]),
        "metrics": _artifact(store, "evaluate", trial).json("metrics"),
        "reused": [name for name in results if not made[name]],
        "seconds": {name: result["seconds"] for name, result in results.items() if made[name]},
        "notes": [bridge] if bridge else [],
    }
    real = chain.fit_kind(trial.config) == "real"  # results/ is for publishing: no sensitive image goes there
    return done, {} if real else _samples(store, trial)


def blank_row(trial: PlannedTrial, commit: str) -> dict[str, Any]:
    """A row of trials.jsonl before anything ran (fields as documented in results/README.md)."""
    config = trial.config
    return {
        "trial": trial.id,
        "status": "failed",
        "reason": None,
        "seed": config.seed,
        "generator": methods.generator(config).name,
        "level": config.level,
        "blur": config.blur,
        "upscaler": methods.upscaler(config).name,
        "epsilon": "inf" if math.isinf(config.privacy.epsilon) else config.privacy.epsilon,
        "epsilon_spent": None,
        "delta": accounting.delta(config.privacy, data.n_records(config.data, "train")),
        "axes": {name: "inf" if value == math.inf else value for name, value in trial.axes.items()},
        "settings": settings_of(config),
        "metrics": {},
        "keys": trial.keys,
        "reused": [],
        "seconds": {},
        "notes": [],
        "host": socket.gethostname(),
        "commit": commit,
    }


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


def _spent(lines: list[dict[str, Any]]) -> float | str:
    """ε of one trial from its private fit's ledger lines: 0 when no sensitive image was used, "inf" without noise."""
    if any(line["kind"] == "nonprivate" for line in lines):
        return "inf"
    return sum(ledger.composed_epsilon(lines).values())


def _artifact(store: Store, name: str, trial: PlannedTrial) -> Any:
    artifact = store.open(name, trial.keys[name])
    if artifact is None:
        raise UserError(
            f"the {name} artifact of {trial.id} is no longer in {store.root}: start the same command again."
        )
    return artifact


def _samples(store: Store, trial: PlannedTrial) -> dict[str, bytes]:
    """samples/<trial>.npz and .png: the first images of every class, coarse and upscaled; row k is class k."""
    coarse = _artifact(store, "coarse_samples", trial).tensors("samples")
    full = _artifact(store, "upscale", trial).tensors("samples")
    n_classes = int(coarse["labels"].max()) + 1
    kept = slice(0, min(len(coarse["labels"]), n_classes * SHEET_COLUMNS))
    images = full["images"][kept].numpy()
    small = (coarse["images"][kept] * 255).round().byte().numpy()
    labels = coarse["labels"][kept].numpy()
    _, channels, height, width = images.shape
    columns = -(-len(images) // n_classes)
    sheet = np.zeros((columns * n_classes, channels, height, width), np.uint8)
    sheet[: len(images)] = images
    grid = sheet.reshape(columns, n_classes, channels, height, width).transpose(1, 3, 0, 4, 2)
    picture = grid.reshape(n_classes * height, columns * width, channels)
    encoded = io.BytesIO()
    Image.fromarray(picture[..., 0] if channels == 1 else picture).save(encoded, "PNG")
    return {
        f"samples/{trial.id}.npz": npz(images=images, coarse=small, labels=labels),
        f"samples/{trial.id}.png": encoded.getvalue(),
    }

"""The row of one trial, and its samples for the figures, from what the store holds. Needs no Ray."""

from __future__ import annotations

import io
import math
import socket
from typing import Any

import numpy as np
from PIL import Image

from sweeps.plan import PlannedTrial
from wavedp import chain, data, methods
from wavedp.config import settings_of
from wavedp.errors import UserError
from wavedp.files import npz
from wavedp.privacy import accounting, ledger
from wavedp.store import Artifact, Store

SHEET_COLUMNS = 10  # images kept for the figures, one per column of a contact sheet


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
        "memory": {},
        "notes": [],
        "host": socket.gethostname(),
        "commit": commit,
    }


def finished(trial: PlannedTrial, store: Store) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What a trial whose stages are all published adds to its row, and its files for the study's folder.

    Raises UserError for an artifact that is not in the store.
    """
    bridge = _artifact(store, "upscale", trial).json("upscaler")["bridge"]
    prompts = chain.prompts_from(trial.config)
    done = {
        "status": "done",
        "epsilon_spent": _spent(_lines(store, trial)),
        "metrics": _artifact(store, "evaluate", trial).json("metrics"),
        "notes": [*([bridge] if bridge else []), *([f"drawn for {prompts}"] if prompts else [])],
    }
    if zoo := {stage: name for stage, key in trial.keys.items() if (name := store.origin(stage, key))}:
        done["zoo"] = zoo
    real = chain.fit_kind(trial.config) == "real"  # results/ is for publishing: no sensitive image goes there
    return done, {} if real else _samples(store, trial)


def _lines(store: Store, trial: PlannedTrial) -> list[dict[str, Any]]:
    """The ledger lines of the trial's private fits."""
    private = [stage for stage in chain.PRIVATE if stage in trial.keys]
    return [line for stage in private for line in _artifact(store, stage, trial).json("ledger")]


def _spent(lines: list[dict[str, Any]]) -> float | str:
    """ε of one trial from its private fits' ledger lines: 0 when no sensitive image was used, "inf" without noise."""
    if any(line["kind"] == "nonprivate" for line in lines):
        return "inf"
    return sum(ledger.composed_epsilon(lines).values())


def _artifact(store: Store, name: str, trial: PlannedTrial) -> Artifact:
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

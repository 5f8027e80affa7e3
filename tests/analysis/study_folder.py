"""A plausible study folder for the tests of `analysis`: 4 ε × 3 seeds × 2 upscalers on one set of private releases."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

EPSILONS: tuple[float, ...] = (1.0, 3.0, 10.0, math.inf)
# Noise multipliers that spend these ε (PLD) at q = 512/60000, 200 steps, δ = 1.5e-6.
NOISE = {1.0: 0.9831, 3.0: 0.7025, 10.0: 0.4686}
DELTA, STEPS, RECORDS, BATCH = 1.5e-6, 200, 60000, 512
FID = {
    "bicubic": {1.0: 148.0, 3.0: 126.0, 10.0: 112.0, math.inf: 104.0},
    "realesrgan_x4plus": {1.0: 121.0, 3.0: 99.0, 10.0: 83.0, math.inf: 74.0},
}


def number(value: float) -> float | str:
    return "inf" if math.isinf(value) else value


def build(
    folder: Path,
    epsilons: tuple[float, ...] = EPSILONS,
    seeds: int = 3,
    upscalers: tuple[str, ...] = ("bicubic", "realesrgan_x4plus"),
    private: bool = True,
) -> Path:
    """Write results/<study>/-like files into `folder`. private=False leaves out the ledger's private lines."""
    (folder / "samples").mkdir(parents=True)
    trials, ledger = [], [_look("fid_reference", "ref", [])]
    for epsilon in epsilons:
        for seed in range(seeds):
            fit = f"fit-{epsilon}-{seed}"
            rows = [_trial(epsilon, seed, upscaler, fit, first=upscaler == upscalers[0]) for upscaler in upscalers]
            trials += rows
            names = [row["trial"] for row in rows]
            if private or math.isinf(epsilon):
                ledger.append(_release(epsilon, fit, names))
            for row in rows:
                _samples(folder / "samples" / f"{row['trial']}.npz", epsilon, row["upscaler"])
    trials.append(
        _trial(0.01, 0, upscalers[0], "none", True)
        | {
            "status": "infeasible",
            "reason": "no noise level up to 1e4 reaches ε=0.01 at δ=1.5e-6",
            "metrics": {},
            "epsilon_spent": None,
        }
    )
    trials.append(
        _trial(3.0, 9, upscalers[0], "none", True)
        | {"status": "failed", "reason": "worker died twice (out of memory)", "metrics": {}, "epsilon_spent": None}
    )
    write(folder, trials, ledger)
    return folder


def write(folder: Path, trials: list[dict[str, Any]], ledger: list[dict[str, Any]]) -> None:
    meta = {
        "study": "eps_grid",
        "sweep": "eps_grid",
        "command": "python -m sweeps.run +sweep=eps_grid",
        "axes": {
            "grid": {"privacy.epsilon": [1, 3, 10, "inf"], "upscaler": ["bicubic", "realesrgan_x4plus"]},
            "zip": {},
            "seeds": [0, 1, 2],
        },
        "config": {
            "data": {"name": "fashion_mnist", "split": "official", "size": 28},
            "metrics": {"fid_samples": 1000, "reference_samples": 2000, "reference_split": "test"},
        },
        "primary_metric": "fid_clean_1k_test2k",
        "versions": {"wavedp": "0.1.0", "dp-accounting": "0.6.0"},
        "commit": "0123abc",
        "created": "2026-11-21T04:00:00+00:00",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(meta, sort_keys=False), encoding="utf-8")
    for name, lines in (("trials.jsonl", trials), ("ledger.jsonl", ledger)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _trial(epsilon: float, seed: int, upscaler: str, fit: str, first: bool) -> dict[str, Any]:
    wobble = np.random.default_rng([seed, int(min(epsilon, 99) * 100)]).normal(0, [2.0, 0.002, 0.006])
    fid = FID[upscaler].get(epsilon, 110.0) + wobble[0]
    return {
        "trial": f"eps{epsilon:g}-{upscaler}-s{seed}",
        "status": "done",
        "reason": None,
        "seed": seed,
        "generator": "spectral_ar",
        "level": 1,
        "blur": "none",
        "upscaler": upscaler,
        "epsilon": number(epsilon),
        "epsilon_spent": number(epsilon * 0.998),
        "delta": DELTA,
        "metrics": {
            "fid_clean_1k_test2k": fid,
            "kid_clean_1k_test2k": fid / 1800 + wobble[1],
            "acc_cnn400_2k_test": 0.86 - fid / 900 + wobble[2],
        },
        "keys": {
            "reference": "ref",
            "pretrain": "pre",
            "private_fit": fit,
            "coarse_samples": f"coarse-{fit}",
            "upscale": f"up-{fit}-{upscaler}",
            "evaluate": f"ev-{fit}-{upscaler}",
        },
        "reused": [] if first else ["reference", "pretrain", "private_fit", "coarse_samples"],
        "seconds": {"private_fit": 42.0, "upscale": 3.5, "evaluate": 20.0},
        "host": "node1",
        "commit": "0123abc",
        "axes": {"privacy.epsilon": number(epsilon), "upscaler": upscaler, "seed": seed},
        "notes": ["x4 model, antialiased down to 28 px"] if upscaler == "realesrgan_x4plus" else [],
    }


def _release(epsilon: float, fit: str, trials: list[str]) -> dict[str, Any]:
    kind = "nonprivate" if math.isinf(epsilon) else "dp_sgd"
    return _line(kind, "private_fit", fit, trials) | {
        "sample_rate": BATCH / RECORDS,
        "noise_multiplier": NOISE.get(epsilon, 0.0),
        "steps": STEPS,
        "delta": DELTA,
        "epsilon": number(epsilon),
        "accountant": "pld",
        "max_grad_norm": None if math.isinf(epsilon) else 1.0,
    }


def _look(purpose: str, key: str, trials: list[str]) -> dict[str, Any]:
    return _line("nonprivate", purpose, key, trials) | {"epsilon": "inf"}


def _line(kind: str, purpose: str, key: str, trials: list[str]) -> dict[str, Any]:
    return {
        "kind": kind,
        "purpose": purpose,
        "sample_rate": None,
        "noise_multiplier": None,
        "steps": None,
        "delta": None,
        "epsilon": None,
        "accountant": None,
        "relation": "add_or_remove_one",
        "dataset": "fashion_mnist-train-4f2a",
        "n_records": RECORDS,
        "max_grad_norm": None,
        "stage_key": key,
        "trials": trials,
        "time": "2026-11-21T04:10:00+00:00",
    }


def _samples(path: Path, epsilon: float, upscaler: str, n: int = 20) -> None:
    """Shapes on noise: class c is a bar of width c; noise falls with ε. Columns share their seed."""
    grid = np.linspace(-1, 1, 28)
    labels = np.arange(n) % 10
    images = np.empty((n, 1, 28, 28))
    for index, label in enumerate(labels):
        rng = np.random.default_rng(index)
        shape = (np.abs(grid)[None, :] < 0.15 + 0.07 * label) & (np.abs(grid)[:, None] < 0.9 - 0.06 * label)
        noise = rng.normal(0, 0.45 / math.sqrt(min(epsilon, 40)), (28, 28))
        images[index, 0] = np.clip(0.75 * shape + noise, 0, 1)
    coarse = images.reshape(n, 1, 14, 2, 14, 2).mean((3, 5))
    if upscaler == "bicubic":
        images = coarse.repeat(2, axis=2).repeat(2, axis=3)
    np.savez_compressed(
        path, images=(images * 255).astype(np.uint8), coarse=(coarse * 255).astype(np.uint8), labels=labels
    )

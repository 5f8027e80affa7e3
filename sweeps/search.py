"""Searches: trials that chance or Optuna chooses from a space, instead of a grid.

A search is a mapping with
    space   {axis: [values] or {low, high, log}}   what a trial may be
and either random_k, whose best trial has a price (see `random_search`), or what Optuna needs
    trials  how many; startup: how many of them at random; seed: of the sampler, and of every trial
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np

from sweeps.plan import LoadOption, PlannedTrial, load_options, planned, releases_of
from wavedp.errors import UserError, nearest
from wavedp.privacy import selection
from wavedp.privacy.budget import Release


def check_search(sweep: dict[str, Any]) -> None:
    """Raises UserError for a search that is not one, or that has axes of a grid beside it, which nothing would read."""
    search = sweep["search"]
    beside = [name for name in ("grid", "zip", "cases", "seeds", "sampling_seeds") if sweep.get(name)]
    if beside:
        raise UserError(f"sweep.{beside[0]} is not read by a search: give its axes in sweep.search.space.")
    if not isinstance(search.get("space") or {}, dict):
        raise UserError(f"sweep.search.space={search['space']!r} is not a mapping: write {{axis: [values]}}.")
    for axis, spec in (search.get("space") or {}).items():
        _check_axis(axis, spec)
    if search.get("random_k"):
        return
    if not search.get("space"):
        raise UserError("sweep.search.space has no axis, so that all trials would be one: give it one or more.")
    for name, least in (("trials", 1), ("startup", 0), ("seed", 0)):
        value = search.get(name, least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least or (name not in search and least):
            raise UserError(f"sweep.search.{name}={search.get(name)!r} is not a number of {name}: use {least} or more.")


def corners(space: dict[str, Any]) -> list[dict[str, Any]]:
    """Points of the space that between them have every choice, and the ends and the middle of every range."""
    values = {
        axis: spec if isinstance(spec, list) else [spec["low"], _drawn(spec, 0.5), spec["high"]]
        for axis, spec in space.items()
    }
    first = {axis: each[0] for axis, each in values.items()}
    return [first, *({**first, axis: value} for axis, each in values.items() for value in each[1:])]


def history_name(identity: dict[str, Any], search: dict[str, Any]) -> str:
    """The name of Optuna's study: of the question, so that more trials continue what was found."""
    question = {name: value for name, value in search.items() if name != "trials"}
    return hashlib.sha256(json.dumps([identity, question], sort_keys=True).encode()).hexdigest()[:16]


def random_search(base: dict[str, Any], search: dict[str, Any], load_option: LoadOption) -> list[PlannedTrial]:
    """The K trials of a random search whose best has a price (wavedp.privacy.selection); none when K is 0.

    search: random_k {distribution, mean or gamma, eta, seed}, the law of K and what it is drawn from; space {axis:
    [values] or {low, high, log}}. Every trial is drawn from the space by itself, uniformly (in the logarithm where
    `log` is true), and has a seed of its own, so that no two share a release. The bound holds while K, and with it the
    seed, is a secret, exactly as the noise seed must be. Raises UserError for axes that change what a run spends.
    """
    random_k, space = dict(search["random_k"]), search.get("space") or {}
    unknown = sorted(set(search) - {"random_k", "space"})
    if unknown:
        raise UserError(f"sweep.search.{unknown[0]} does not go with random_k, whose trials nobody chooses: remove it.")
    law, seed = selection.law_of(random_k), random_k.get("seed")
    if seed is None:
        raise UserError(
            "sweep.search.random_k.seed is not set, and whoever knows it knows K: give a number that you keep to "
            "yourself."
        )
    for axis, spec in space.items():
        _check_axis(axis, spec)
    ends = [
        {axis: value}
        for axis, spec in space.items()
        for value in (spec if isinstance(spec, list) else [spec["low"], spec["high"]])
    ]
    options = load_options(ends, load_option)
    fixed = _spends(planned(base, options, {}))
    for corner in ends:
        if _spends(planned(base, options, corner)) not in (fixed, []):
            ((axis, value),) = corner.items()
            raise UserError(
                f"search axis {axis}={value} changes what a run spends, and the price of selection is that of runs of "
                "one mechanism: keep it fixed, or search without random_k."
            )
    rng = np.random.default_rng([seed, 1])  # K is drawn from [seed]
    drawn = [
        {**{axis: _drawn(spec, rng.random()) for axis, spec in space.items()}, "seed": number}
        for number in range(selection.drawn(law, seed))
    ]
    return [planned(base, options, point) for point in drawn]


def _spends(trial: PlannedTrial) -> list[Release]:
    return list(releases_of(trial).values())


def _check_axis(axis: str, spec: Any) -> None:
    if not (spec if isinstance(spec, list) else isinstance(spec, dict) and {"low", "high"} <= set(spec)):
        raise UserError(f"search axis {axis}={spec!r} is neither a list of choices nor {{low, high, log}}: give one.")
    if isinstance(spec, list):
        return
    for name in set(spec) - {"low", "high", "log"}:
        raise UserError(f"search axis {axis} has no {name}: {nearest(name, ('low', 'high', 'log'))}")
    low, high = spec["low"], spec["high"]
    numbers = all(isinstance(end, int | float) and math.isfinite(end) for end in (low, high))
    if not numbers or not low < high or (spec.get("log") and low <= 0):
        raise UserError(
            f"search axis {axis}={spec!r} is no range: use finite numbers with low below high, above 0 with log."
        )


def _drawn(spec: Any, uniform: float) -> Any:
    """The value of a list or a range at a place in [0, 1)."""
    if isinstance(spec, list):
        return spec[int(uniform * len(spec))]
    low, high = spec["low"], spec["high"]
    return low * (high / low) ** uniform if spec.get("log") else low + (high - low) * uniform

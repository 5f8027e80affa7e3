"""From axes to trials: grid × zip × seeds over the fields of a trial. Pure: nothing is run, nothing imports Ray.

A sweep is a mapping with
    grid    {axis: [values]}   every combination
    zip     {axis: [values]}   lists of equal length, walked together
    cases   {name: {axis: value}}   named sets of changes, one trial each, as the axis `case`: ablations
    seeds   [ints]             replicates of every point
    sampling_seeds [ints]      sample sets of every replicate's private fit: what they cost is time, no ε
or, instead of these, search: {space, random_k}, see `random_search`; any other search is Optuna's (sweeps.execute).
An axis is `epsilon`, `level`, `blur`, a configuration group (`upscaler: [bicubic, realsr_df2k_x4]`: the options' whole
sections) or a dotted field (`privacy.max_grad_norm: [0.1, 1]`).
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from wavedp import chain, registry
from wavedp.config import METHODS, TrialConfig, to_dict, trial_of
from wavedp.errors import InfeasibleError, UserError
from wavedp.fields import without_infinity
from wavedp.methods import canonical
from wavedp.privacy import accounting, selection
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.budget import Budget, Release, release_refusal
from wavedp.store import write_atomically

ALIASES = {"epsilon": "privacy.epsilon"}
LoadOption = Callable[[str, str], dict[str, Any]]
"""load(group, option) -> the section that `group=option` composes to."""


@dataclass(frozen=True)
class PlannedTrial:
    """One row of trials.jsonl to be. id: readable axis values and 8 digits of the evaluate key; axes: what varies;
    config: canonical (wavedp.methods), so that points which differ in nothing that is read are one mechanism."""

    id: str
    axes: dict[str, Any]
    config: TrialConfig
    keys: dict[str, str]


def points(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """Every combination of axis values, in the order written, `seed` and then `sampling.seed` innermost.

    Raises UserError for an empty axis, an axis given twice, or zipped lists of unequal length.
    """
    grid, zipped = sweep.get("grid") or {}, sweep.get("zip") or {}
    seeds, cases = sweep.get("seeds") or [0], sweep.get("cases") or {}
    sets = sweep.get("sampling_seeds") or [0]
    again: list[dict[str, Any]] = [{}] if sets == [0] else [{"sampling.seed": number} for number in sets]
    if cases:
        grid = {**grid, "case": list(cases)}
    for name, values in [*grid.items(), *zipped.items()]:
        if not isinstance(values, list) or not values:
            raise UserError(f"sweep axis {name}={values!r} must be a list of one or more values.")
    twice = set(grid) & set(zipped)
    if twice:
        raise UserError(f"sweep axis {min(twice)} is in both grid and zip: keep it in one.")
    lengths = {name: len(values) for name, values in zipped.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"zipped axes have unequal lengths {lengths}: give each the same number of values.")
    together = [dict(zip(zipped, row, strict=True)) for row in zip(*zipped.values(), strict=True)] or [{}]
    product = [dict(zip(grid, row, strict=True)) for row in itertools.product(*grid.values())]
    return [{**a, **b, "seed": seed, **c} for a in product for b in together for seed in seeds for c in again]


def plan(base: dict[str, Any], sweep: dict[str, Any], load_option: LoadOption) -> list[PlannedTrial]:
    """The trials of a sweep. Raises UserError for an axis or value that a trial does not have."""
    cases = sweep.get("cases") or {}
    every = [{**point, **(cases.get(point.get("case")) or {})} for point in points(sweep)]
    options = load_options(every, load_option)
    trials = [planned(base, options, changes, point) for changes, point in zip(every, points(sweep), strict=True)]
    return list({trial.id: trial for trial in trials}.values())


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
        if not (spec if isinstance(spec, list) else isinstance(spec, dict) and {"low", "high"} <= set(spec)):
            raise UserError(
                f"search axis {axis}={spec!r} is neither a list of choices nor {{low, high, log}}: give one."
            )
    corners = [
        {axis: value}
        for axis, spec in space.items()
        for value in (spec if isinstance(spec, list) else [spec["low"], spec["high"]])
    ]
    options = load_options(corners, load_option)
    fixed = release_of(planned(base, options, {}).config)
    for corner in corners:
        if release_of(planned(base, options, corner).config) not in (fixed, None):
            ((axis, value),) = corner.items()
            raise UserError(
                f"search axis {axis}={value} changes what a run spends, and the price of selection is that of runs of "
                "one mechanism: keep it fixed, or search without random_k."
            )
    rng = np.random.default_rng([seed, 1])  # K is drawn from [seed]
    drawn = [
        {**{axis: _uniform(spec, rng.random()) for axis, spec in space.items()}, "seed": number}
        for number in range(selection.drawn(law, seed))
    ]
    return [planned(base, options, point) for point in drawn]


def load_options(all_points: list[dict[str, Any]], load_option: LoadOption) -> dict[str, dict[str, Any]]:
    """The sections of every group axis's options, as {group: {option: section}}; each option is composed once."""
    sections = {item.name for item in fields(TrialConfig) if item.name not in ("level", "blur", "seed", "device")}
    wanted: dict[str, dict[str, Any]] = {}
    for point in all_points:
        for axis, value in point.items():
            if axis in sections and value not in wanted.setdefault(axis, {}):
                wanted[axis][value] = load_option(axis, value)
    return wanted


def planned(
    base: dict[str, Any],
    options: dict[str, dict[str, Any]],
    changes: dict[str, Any],
    point: dict[str, Any] | None = None,
) -> PlannedTrial:
    """The trial with these changes to the base; point: its place on the axes, where that says less (a case's name)."""
    values, point = copy.deepcopy(base), point or changes
    # Groups first, so that a dotted axis can vary a field inside a chosen option.
    for axis, value in sorted(changes.items(), key=lambda item: item[0] not in options):
        if axis == "case":
            continue
        if axis in options:
            values[axis] = copy.deepcopy(options[axis][value])
        else:
            _assign(values, ALIASES.get(axis, axis), value)
    config = canonical(trial_of(values))
    keys = chain.keys(config)
    last = [axis.rsplit(".", 1)[-1] for axis in point]
    names = [name if last.count(name) == 1 or name == axis else axis for name, axis in zip(last, point, strict=True)]
    label = "-".join(f"{name}={value}" for name, value in zip(names, point.values(), strict=True))
    safe = re.sub(r"[^A-Za-z0-9=._-]+", "_", label)
    return PlannedTrial(f"{safe}-{keys['evaluate'][:8]}", point, config, keys)


def release_of(trial: TrialConfig) -> Release | None:
    """The release that the trial's private_fit will make, noise calibrated; None if it uses no sensitive image."""
    kind = chain.fit_kind(trial)
    if kind == "public":
        return None
    mechanisms = chain.mechanisms(trial).values() if kind == "dp" else [Mechanism(1, 0, 1)]
    delta = accounting.delta(trial.privacy, chain.n_records(trial.data, "train"))
    return Release(chain.fingerprint(trial.data, "train"), tuple(mechanisms), delta)


def refused_by_budget(
    trials: list[PlannedTrial], infeasible: dict[str, InfeasibleError], budget: Budget, made: dict[str, Release]
) -> dict[str, InfeasibleError]:
    """The trials whose release would pass the study's budget.epsilon, in the plan's order, beside those `made`."""
    releases, refused = dict(made), {}
    for trial in trials:
        asked = release_of(trial.config) if trial.id not in infeasible else None
        if asked is None:
            continue
        key = trial.keys["private_fit"]
        refusal = release_refusal(budget, releases, key, asked)
        if refusal:
            refused[trial.id] = InfeasibleError(refusal)
        else:
            releases.setdefault(key, asked)
    return refused


def save_plan(
    path: Path, trials: list[PlannedTrial], left_out: dict[str, InfeasibleError], study: dict[str, Any]
) -> str:
    """Write the resolved plan for `python -m wavedp.run`: every feasible trial with its configuration and keys.

    study: facts about the study that the file repeats. Returns a sentence that says what to do with it.
    """
    feasible = [trial for trial in trials if trial.id not in left_out]
    rows = [
        {"id": trial.id, "axes": trial.axes, "config": to_dict(trial.config), "keys": trial.keys} for trial in feasible
    ]
    content = without_infinity({**study, "trials": rows})
    write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    fits = len({trial.keys["private_fit"] for trial in feasible})
    return (
        f"{path} holds {len(feasible)} trials on {fits} private fits: python -m wavedp.run {path} --store DIR makes "
        "them without Ray."
    )


def owners(trials: list[PlannedTrial]) -> dict[str, str]:
    """{stage key: id of the first trial that uses it}: who a shared stage's work is put down to."""
    found: dict[str, str] = {}
    for trial in trials:
        for key in trial.keys.values():
            found.setdefault(key, trial.id)
    return found


def _uniform(spec: Any, uniform: float) -> Any:
    """The value of a list or a range at a place in [0, 1)."""
    if isinstance(spec, list):
        return spec[int(uniform * len(spec))]
    low, high = spec["low"], spec["high"]
    return low * (high / low) ** uniform if spec.get("log") else low + (high - low) * uniform


def _assign(values: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    section = values
    for name in parents:
        section = section.get(name)  # type: ignore[assignment]
        if not isinstance(section, dict):
            raise UserError(f"sweep axis {path} names no field of a trial: {name!r} is not a section.")
    of_another = parents[:1] and parents[0] in METHODS and _read_by_some(parents[0], last)
    if last not in section and not of_another:
        raise UserError(f"sweep axis {path} names no field of a trial: choose from {', '.join(sorted(section))}.")
    section[last] = value


def _read_by_some(kind: str, field: str) -> bool:
    """True if some method of the kind has this field: then an axis of it varies the trials of that method."""
    return any(item.name == field for _, method in registry.each(kind) for item in fields(method.Config))

"""From axes to trials: grid × zip × seeds over the fields of a trial. Pure: nothing is run, nothing imports Ray.

A sweep is a mapping with
    grid    {axis: [values]}   every combination
    zip     {axis: [values]}   lists of equal length, walked together
    cases   {name: {axis: value}}   named sets of changes, one trial each, as the axis `case`: ablations
    seeds   [ints]             replicates of every point
    sampling_seeds [ints]      sample sets of every replicate's private fit: what they cost is time, no ε
or, instead of these, search (sweeps.search).
An axis is `epsilon`, `level`, `blur`, a configuration group (`upscaler: [bicubic, realsr_df2k_x4]`: the options' whole
sections) or a dotted field (`privacy.max_grad_norm: [0.1, 1]`).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from sweeps.names import file_label
from wavedp import chain, registry
from wavedp.config import METHODS, TrialConfig, sections, to_dict, trial_of
from wavedp.errors import InfeasibleError, UserError, nearest
from wavedp.fields import without_infinity
from wavedp.methods import canonical
from wavedp.privacy import accounting
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.budget import Budget, Release, release_refusal
from wavedp.store import write_atomically

AXES = ("grid", "zip", "cases", "seeds", "sampling_seeds", "search")
ALIASES = {"epsilon": "privacy.epsilon"}
LoadOption = Callable[[str, Any], Any]
"""load(group, option or null) -> the section that `group=option` composes to."""


@dataclass(frozen=True)
class PlannedTrial:
    """One row of trials.jsonl to be. id: readable axis values and 8 digits of the evaluate key; axes: what varies;
    config: canonical (wavedp.methods), so that points which differ in nothing that is read are one mechanism."""

    id: str
    axes: dict[str, Any]
    config: TrialConfig
    keys: dict[str, str]


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Keep Python's garbage collector from walking through the millions of objects of a large plan, again and again: a
    plan of 10,000 trials has no garbage, and the walks took a quarter of its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Built:
    """The sections that trials of one base and its options have been built of, by the changes that made them."""

    def __init__(self) -> None:
        self.base: TrialConfig | None = None
        self.parts: dict[tuple[str, str], Any] = {}


def points(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """Every combination of axis values, in the order written, `seed` and then `sampling.seed` innermost.

    Raises UserError for an empty axis, a field that two axes vary, or zipped lists of unequal length.
    """
    grid, zipped = sweep.get("grid") or {}, sweep.get("zip") or {}
    seeds, cases = listed("seeds", sweep.get("seeds") or [0]), sweep.get("cases") or {}
    sets = listed("sampling_seeds", sweep.get("sampling_seeds") or [0])
    again: list[dict[str, Any]] = [{}] if sets == [0] else [{"sampling.seed": number} for number in sets]
    _refuse_twice(grid, zipped, cases, seeds, again)
    if cases:
        grid = {**grid, "case": list(cases)}
    for name, values in [*grid.items(), *zipped.items()]:
        listed(name, values)
    lengths = {name: len(values) for name, values in zipped.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"zipped axes have unequal lengths {lengths}: give each the same number of values.")
    together = [dict(zip(zipped, row, strict=True)) for row in zip(*zipped.values(), strict=True)] or [{}]
    product = [dict(zip(grid, row, strict=True)) for row in itertools.product(*grid.values())]
    return [{**a, **b, "seed": seed, **c} for a in product for b in together for seed in seeds for c in again]


def by_field(axes: Any) -> dict[str, Any]:
    """Axes by the field that they vary: `{privacy: {steps: [1, 2]}}`, which is what `sweep.grid.privacy.steps=[1,2]`
    gives, is the axis `privacy.steps`."""
    if axes is not None and not isinstance(axes, dict):
        raise UserError(f"the axes {axes!r} are not a mapping: write {{axis: [values]}}.")
    found: dict[str, Any] = {}
    for name, values in (axes or {}).items():
        inner = by_field(values) if isinstance(values, dict) and not {"low", "high"} & set(values) else None
        found |= {name: values} if inner is None else {f"{name}.{field}": item for field, item in inner.items()}
    return found


def spread(values: Any) -> Any:
    """The values of an axis, of `range(500)` or `range(1, 9, 2)` all its whole numbers. Raises UserError for another
    range."""
    if not (isinstance(values, str) and values.startswith("range(") and values.endswith(")")):
        return values
    try:
        return list(range(*map(int, values[len("range(") : -1].split(","))))
    except (TypeError, ValueError):
        raise UserError(f"{values} is no range of whole numbers: write range(500), or range(1,9,2).") from None


def listed(name: str, values: Any) -> list[Any]:
    """The values of an axis. Raises UserError unless they are one or more, and can be printed as they are."""
    if not isinstance(values, list) or not values:
        raise UserError(f"sweep axis {name}={values!r} must be a list of one or more values: write [{values}].")
    for value in values:
        if not str(value).isprintable():
            raise UserError(f"sweep axis {name}={value!a} has a character that can't be printed: leave it out.")
        if re.search(r"</?[a-zA-Z]|&\w+;", str(value)):
            raise UserError(f"sweep axis {name}={value!r} has markup, which a figure would obey: leave it out.")
    return values


def _refuse_twice(grid: dict[str, Any], zipped: dict[str, Any], cases: Any, *seeds: Any) -> None:
    """Raises UserError for a field that two axes vary: a trial's row would name a value that it did not run with."""
    if not isinstance(cases, dict) or not all(isinstance(changes, dict | None) for changes in cases.values()):
        raise UserError(f"sweep.cases={cases!r} must be named sets of changes: write {{name: {{axis: value}}}}.")
    varied: dict[str, str] = {}
    numbers = {"seed": "seeds", **({"sampling.seed": "sampling_seeds"} if seeds[1] != [{}] else {})}
    in_cases = {axis for changes in cases.values() for axis in changes or {}}
    for place, axes in (("grid", grid), ("zip", zipped), ("cases", in_cases)):
        for axis in axes:
            field = ALIASES.get(axis, axis)
            if field in numbers:
                raise UserError(f"sweep axis {axis} has a list of its own: write sweep.{numbers[field]}=[…].")
            if field in varied:
                raise UserError(f"the axes {varied[field]} and {place}.{axis} vary one field: keep one of them.")
            varied[field] = f"{place}.{axis}"


@uncollected()
def plan(base: dict[str, Any], sweep: dict[str, Any], load_option: LoadOption) -> list[PlannedTrial]:
    """The trials of a sweep. Raises UserError for an axis or value that a trial does not have."""
    cases, places = sweep.get("cases") or {}, points(sweep)
    every = [{**point, **(cases.get(point.get("case")) or {})} for point in places]
    options, built = load_options(every, load_option), Built()
    trials = [planned(base, options, changes, point, built) for changes, point in zip(every, places, strict=True)]
    return list({trial.id: trial for trial in trials}.values())


def load_options(all_points: list[dict[str, Any]], load_option: LoadOption) -> dict[str, dict[Any, Any]]:
    """The sections of every group axis's options, as {group: {option: section}}; each option is composed once."""
    sections = {item.name for item in fields(TrialConfig) if item.name not in ("level", "blur", "seed", "device")}
    wanted: dict[str, dict[Any, Any]] = {}
    for point in all_points:
        for axis, value in point.items():
            if axis not in sections:
                continue
            if not isinstance(value, str | None):
                raise UserError(f"sweep axis {axis}={value!r} chooses no option: give names of options.")
            if value not in wanted.setdefault(axis, {}):
                wanted[axis][value] = load_option(axis, value)
    return wanted


def planned(
    base: dict[str, Any],
    options: dict[str, dict[Any, Any]],
    changes: dict[str, Any],
    point: dict[str, Any] | None = None,
    built: Built | None = None,
) -> PlannedTrial:
    """The trial with these changes to the base; point: its place on the axes, where that says less (a case's name).
    built: what trials before it have built of the same base and options."""
    point = point or changes
    config = canonical(_trial(base, options, changes, Built() if built is None else built))
    keys = chain.keys(config)
    last = [axis.rsplit(".", 1)[-1] for axis in point]
    names = [name if last.count(name) == 1 or name == axis else axis for name, axis in zip(last, point, strict=True)]
    label = "-".join(f"{name}={value}" for name, value in zip(names, point.values(), strict=True))
    return PlannedTrial(f"{file_label(label)}-{keys['evaluate'][:8]}", point, config, keys)


def _trial(
    base: dict[str, Any], options: dict[str, dict[Any, Any]], changes: dict[str, Any], built: Built
) -> TrialConfig:
    """The base with these changes. Trials of a plan have most sections in common, and each is built once."""
    if built.base is None:
        built.base = trial_of(base)
    parts: dict[str, list[tuple[str, Any]]] = {}
    for axis, value in changes.items():
        if axis != "case":
            path = ALIASES.get(axis, axis)
            parts.setdefault(path.partition(".")[0], []).append((path, value))
    found = {}
    for name, changed in parts.items():
        place = name, repr(changed)
        if place not in built.parts:
            built.parts[place] = _part(base, options.get(name, {}), name, changed)
        found[name] = built.parts[place]
    return dataclasses.replace(built.base, **found)


def _part(base: dict[str, Any], options: dict[str, Any], name: str, changed: list[tuple[str, Any]]) -> Any:
    """A field or section of the trial with these changes."""
    values = {name: copy.deepcopy(base[name])} if name in base else {}
    # Groups first, so that a dotted axis can vary a field inside a chosen option.
    for path, value in sorted(changed, key=lambda item: item[0] != name):
        if path == name and options:
            values[name] = copy.deepcopy(options[value])
        else:
            _assign(values, base, path, value)
    return getattr(trial_of(values), name)


def release_of(trial: TrialConfig, stage: str = "private_fit") -> Release | None:
    """The release that one of the trial's private stages will make, noise calibrated; None if it uses no sensitive
    image."""
    kind = chain.fit_kind(trial, stage)
    if kind == "public":
        return None
    mechanisms = chain.mechanisms(trial, stage).values() if kind == "dp" else [Mechanism(1, 0, 1)]
    delta = accounting.delta(trial.privacy, chain.n_records(trial.data, "train"))
    return Release(chain.fingerprint(trial.data, "train"), tuple(mechanisms), delta)


def releases_of(trial: PlannedTrial) -> dict[str, Release]:
    """The releases that a trial rests on, by stage key, in the order of the chain."""
    found = {trial.keys[stage]: release_of(trial.config, stage) for stage in chain.fit_kinds(trial.config)}
    return {key: release for key, release in found.items() if release is not None}


@uncollected()
def refused_by_budget(
    trials: list[PlannedTrial], infeasible: dict[str, InfeasibleError], budget: Budget, made: dict[str, Release]
) -> dict[str, InfeasibleError]:
    """The trials whose releases would pass the study's budget.epsilon, in the plan's order, beside those `made`."""
    releases, refused = dict(made), {}
    for trial in trials if budget.epsilon is not None else ():
        if trial.id in infeasible or all(trial.keys[stage] in releases for stage in chain.fit_kinds(trial.config)):
            continue
        asked = releases_of(trial)
        refusal = refusal_of_all(budget, releases, asked)
        if refusal:
            refused[trial.id] = InfeasibleError(refusal)
        else:
            releases = asked | releases
    return refused


def refusal_of_all(budget: Budget, releases: dict[str, Release], asked: dict[str, Release]) -> str | None:
    """The reason to refuse a trial's releases, of which all or none should be made; None allows them."""
    beside = dict(releases)
    for key, release in asked.items():
        refusal = release_refusal(budget, beside, key, release)
        if refusal:
            return refusal
        beside.setdefault(key, release)
    return None


def save_plan(
    path: Path, trials: list[PlannedTrial], left_out: dict[str, InfeasibleError], study: dict[str, Any]
) -> str:
    """Write the resolved plan for `python -m wavedp.run`: every feasible trial with its configuration and keys.

    study: what the file says beside them, such as `about`, the content of study.yaml for sweeps.collect. Returns a
    sentence that says what to do with the file.
    """
    feasible = [trial for trial in trials if trial.id not in left_out]
    rows = [
        {"id": trial.id, "axes": trial.axes, "config": to_dict(trial.config), "keys": trial.keys} for trial in feasible
    ]
    content = without_infinity({**study, "trials": rows})
    write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    fits = len({trial.keys[stage] for trial in feasible for stage in chain.PRIVATE if stage in trial.keys})
    return (
        f"{path} holds {len(feasible)} trials on {fits} private fits: python -m wavedp.run {path} --store DIR makes "
        "them without Ray."
    )


NO_MODEL = ("seed", "privacy", "blur", "diffusion")
"""What no file of a model depends on."""


def alike(trials: list[PlannedTrial], but_for: tuple[str, ...]) -> list[list[PlannedTrial]]:
    """The trials in groups that differ in nothing but these fields, so that one of a group is asked for all."""
    names = [name for name in sections(TrialConfig) if name not in but_for]
    groups: dict[tuple[int, ...], list[PlannedTrial]] = {}
    for trial in trials:
        groups.setdefault(tuple(id(getattr(trial.config, name)) for name in names), []).append(trial)
    return list(groups.values())


def named(trials: list[PlannedTrial], only: Any) -> list[PlannedTrial]:
    """Those whose id has one of these texts in it, where * stands for anything; all if `only` is None. Raises UserError
    for a text that no id has."""
    if only is None:
        return trials
    texts = [str(text) for text in (only if isinstance(only, list) else [only])]
    for text in texts:
        if not any(_has(trial, text) for trial in trials):
            raise UserError(
                f"only={text} names none of the {len(trials)} planned trials: give an id, or part of one, such as "
                f"{trials[0].id}."
            )
    return [trial for trial in trials if any(_has(trial, text) for text in texts)]


def _has(trial: PlannedTrial, text: str) -> bool:
    return fnmatchcase(trial.id, f"*{text}*")


def owners(trials: list[PlannedTrial]) -> dict[str, str]:
    """{stage key: id of the first trial that uses it}: who a shared stage's work is put down to."""
    found: dict[str, str] = {}
    for trial in trials:
        for key in trial.keys.values():
            found.setdefault(key, trial.id)
    return found


def _assign(values: dict[str, Any], base: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    section, known = values, {*base, *ALIASES}
    for name in parents:
        section = section.get(name)  # type: ignore[assignment]
        if not isinstance(section, dict):
            raise UserError(f"sweep axis {path} names no field of a trial: {nearest(name, known)}")
        known = set(section)
    of_another = parents[:1] and parents[0] in METHODS and _read_by_some(parents[0], last)
    named_freely = parents[1:] == ["parts"]  # of a mixture: names of datasets
    if last not in section and not of_another and not named_freely:
        raise UserError(f"sweep axis {path} names no field of a trial: {nearest(last, known, path[: -len(last)])}")
    section[last] = value


def _read_by_some(kind: str, field: str) -> bool:
    """True if some method of the kind has this field: then an axis of it varies the trials of that method."""
    return any(item.name == field for _, method in registry.each(kind) for item in fields(method.Config))

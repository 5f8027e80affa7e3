"""Ray underneath: give every trial of a plan to the coordinator, let Tune choose those of a search, stay quiet.

The coordinator walks the trials (sweeps.trial), some at once; a Tune trial is a process that asks it for one and waits.
A killed driver needs no restore, because the same command finds every finished stage by its key.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeps.coordinator import Coordinator
from sweeps.explain import Times
from sweeps.explain import recorded as recorded_studies
from sweeps.gauges import Gauges
from sweeps.history import History
from sweeps.plan import PlannedTrial, owners, planned
from sweeps.progress import Progress
from sweeps.records import recorded
from sweeps.row import blank_row
from sweeps.watchers import Watching
from wavedp import metrics
from wavedp.chain import n_records
from wavedp.config import TrialConfig
from wavedp.entries import behind
from wavedp.errors import UserError
from wavedp.privacy.budget import Budget
from wavedp.store import Store

# Tune rejects empty requests, and 0.001 CPU would block a core; ask for a token of the head node instead. Conductors
# stay there and take nothing that a stage needs.
CONDUCTOR = {"cpu": 0, "node:__internal_head__": 0.001}
NONE: Mapping[str, str] = {}


def run_grid(
    trials: list[PlannedTrial],
    folder: Path,
    settings: dict[str, Any],
    watching: Watching,
    infeasible: Mapping[str, str] = NONE,
) -> list[dict[str, Any]]:
    """Run every trial; the rows of the study, one for each trial at least. settings: store, zoo, copy, stages,
    commit, budget, max_concurrent. watching: is told of every trial that ends. infeasible: {trial: why it can't be
    run}. Raises UserError if the folder could not be written."""
    if not trials:  # all are settled
        return recorded(folder)
    coordinator, artifacts = _coordinator(folder, settings, trials), _artifacts(settings)
    with _progress(coordinator, trials, _found(artifacts, trials), len(trials), folder, settings, watching):
        _walked(coordinator, trials, settings, infeasible)
    rows, walked = _closed(coordinator), {trial.id for trial in trials}
    watching.rows(row for row in rows if row["trial"] in walked)  # what the display's looks have missed
    return rows


def _walked(
    coordinator: Any, trials: list[PlannedTrial], settings: dict[str, Any], infeasible: Mapping[str, str]
) -> None:
    """Have every trial walked, so many at once; each has a row then."""

    def blank(trial: PlannedTrial, **said: str) -> Any:
        return coordinator.finish.remote(blank_row(trial, settings["commit"]) | said, {})

    left = iter(trials)
    walking: dict[Any, PlannedTrial] = {}
    while True:
        for trial in itertools.islice(left, settings["max_concurrent"] - len(walking)):
            refused = infeasible.get(trial.id)
            task = (
                coordinator.conduct.remote(trial)
                if refused is None
                else blank(trial, status="infeasible", reason=refused)
            )
            walking[task] = trial
        if not walking:
            return
        (ended, *_), _ = ray.wait(list(walking), num_returns=1)
        trial = walking.pop(ended)
        try:
            ray.get(ended)
        except RayError as error:
            reason = f"it was given up without a row ({error}): start the same command again.".replace("\n", " ")
            ray.get(blank(trial, reason=reason))


def run_search(
    search: dict[str, Any],
    base: dict[str, Any],
    options: dict[str, Any],
    name: str,
    folder: Path,
    settings: dict[str, Any],
    watching: Watching,
) -> tuple[list[dict[str, Any]], int]:
    """Optuna multi-objective search: minimise the study's FID and ε. `name` is the study's key, so that its history
    is continued by the same command and never merged with another's. Returns the rows, and how many suggestions ran to
    their end: equal ones have one row."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    coordinator = _coordinator(folder, settings, [])
    folder.mkdir(parents=True, exist_ok=True)
    space = OptunaSearch.convert_search_space(
        {axis: _distribution(axis, spec) for axis, spec in search["space"].items()}
    )
    primary = _primary(planned(base, options, {}).config)
    before = _rows(coordinator)
    history = History(folder, name, space, before, lambda row: _objectives(row, primary))
    missing = search["trials"] - history.finished()
    if missing <= 0:
        return before, history.finished()

    def conductor(config: dict[str, Any]) -> None:
        trial = planned(base, options, {**config, "seed": search.get("seed", 0)})
        row = ray.get(coordinator.conduct.remote(trial, checked=False))
        if row["status"] != "done":
            # An exception before any report is how Tune tells Optuna that the trial failed; hence no retries.
            raise RuntimeError(row["reason"])
        fid, epsilon = _objectives(row, _primary(trial.config))
        tune.report({"fid": fid, "epsilon": epsilon})

    searcher = OptunaSearch(
        space,
        metric=["fid", "epsilon"],
        mode=["min", "min"],
        sampler=optuna.samplers.TPESampler(
            seed=search.get("seed", 0) + history.begun(), n_startup_trials=search.get("startup", 5)
        ),
        study_name=name,
        storage=history.storage,
    )
    tuning = tune.TuneConfig(
        search_alg=searcher, num_samples=missing, max_concurrent_trials=settings["max_concurrent"], reuse_actors=True
    )
    with _progress(coordinator, [], set(), missing, folder, settings, watching):
        _fit(conductor, tuning)
    rows = _closed(coordinator)
    watching.rows(row for row in rows if row not in before)  # what the display's looks have missed
    return rows, history.finished()


def _fit(conductor: Any, tuning: Any) -> None:
    with tempfile.TemporaryDirectory(prefix="wavedp-tune-") as scratch:
        tune.Tuner(
            tune.with_resources(conductor, CONDUCTOR),
            tune_config=tuning,
            run_config=tune.RunConfig(storage_path=scratch, verbose=0),
        ).fit()


def _coordinator(folder: Path, settings: dict[str, Any], trials: list[PlannedTrial]) -> Any:
    """The coordinator, on this process's node: the study's folder is on a disk that the user sees."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = Coordinator.options(scheduling_strategy=here)  # type: ignore[attr-defined]
    return options.remote(str(folder), settings, owners(trials))


def _closed(coordinator: Any) -> list[dict[str, Any]]:
    """The rows, after the last word of the coordinator. Raises UserError if it could not write them."""
    warnings, trouble = ray.get(coordinator.close.remote())
    for warning in warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    if trouble:
        raise UserError(f"{trouble} Finished stages are in the store: the same command finds them.")
    return _rows(coordinator)


def _progress(
    coordinator: Any,
    trials: list[PlannedTrial],
    found: set[str],
    total: int,
    folder: Path,
    settings: dict[str, Any],
    watching: Watching,
) -> Progress:
    def status() -> dict[str, Any]:
        status = ray.get(coordinator.status.remote(), timeout=5)
        return status | {"all": ray.cluster_resources(), "asked": settings["stages"]}

    before = Times(recorded_studies(folder)).by_kind(trials) if trials else {}
    budget, gauges = Budget(**settings["budget"]), Gauges(folder.name)
    return Progress(
        status, trials, found, total, folder=folder, before=before, budget=budget, watching=watching, gauges=gauges
    )


def _artifacts(settings: dict[str, Any]) -> Store:
    return Store(settings["store"], behind(settings["zoo"]))


def _found(artifacts: Store, trials: list[PlannedTrial]) -> set[str]:
    """The stage keys whose artifacts are there."""
    keys: dict[str, set[str]] = {}
    for trial in trials:
        for stage, key in trial.keys.items():
            keys.setdefault(stage, set()).add(key)
    return {key for stage, asked in keys.items() for key in artifacts.which(stage, asked)}


def _rows(coordinator: Any) -> list[dict[str, Any]]:
    return ray.get(coordinator.rows.remote())


def _primary(trial: TrialConfig) -> str:
    """The name of the metric that a search minimises."""
    return metrics.primary(trial.metrics, n_records(trial.data, trial.metrics.reference_split))


def _objectives(row: Mapping[str, Any], primary: str) -> tuple[float, float]:
    """(FID, ε) of a row, as Optuna sees it."""
    return row["metrics"].get(primary, float("inf")), float(row["epsilon"])


def _distribution(axis: str, spec: Any) -> Any:
    """A Tune distribution from `[a, b, c]` (choice) or `{low, high, log}` (range). Raises UserError otherwise."""
    if isinstance(spec, list) and spec:
        return tune.choice(spec)
    if isinstance(spec, dict) and {"low", "high"} <= set(spec):
        draw = tune.loguniform if spec.get("log") else tune.uniform
        return draw(spec["low"], spec["high"])
    raise UserError(f"search axis {axis}={spec!r} is neither a list of choices nor {{low, high, log}}: give one.")

"""python -m sweeps.run +sweep=NAME [any Hydra override]: plan a study, run it on Ray, draw its figures.

Exit status: 0 all trials done, 1 some failed or infeasible, 2 nothing was started (the sentence says why).
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wavedp.command import command, imports

with imports():
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

from sweeps import help
from sweeps.claim import before, claimed
from sweeps.copies import copy_name
from sweeps.explain import explain, recorded
from sweeps.names import check_name
from sweeps.options import no_option, option_loader
from sweeps.overrides import SEEDS, normalised, refuse_unread
from sweeps.plan import (
    NO_MODEL,
    PlannedTrial,
    alike,
    by_field,
    load_options,
    named,
    plan,
    planned,
    refused_by_budget,
    save_plan,
    spread,
    uncollected,
)
from sweeps.records import refuse_other_study
from sweeps.search import check_search, corners, history_name, random_search
from sweeps.settings import refuse_unknown
from sweeps.shipped import IN_A_JOB
from sweeps.study import commit, describe_study
from sweeps.summary import describe
from sweeps.swept import with_typed_values
from sweeps.watchers import Watching, found
from wavedp import chain, checks, extras
from wavedp.config import TrialConfig, sections, with_absolute_paths
from wavedp.devices import chosen_device
from wavedp.entries import Zoo, behind
from wavedp.errors import InfeasibleError, UserError
from wavedp.fields import check_values
from wavedp.files import cannot_write
from wavedp.privacy import ledger
from wavedp.privacy.budget import Budget, made
from wavedp.store import Store, kept

ROOT = Path(__file__).resolve().parent.parent
DEVICES = ("auto", "cpu", "cuda")


@command
def main() -> int:
    """Entry point; see the module's docstring."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises its errors instead of printing them
    arguments = _readable(sys.argv[1:])
    said = help.asked(arguments)
    if said is not None:
        print(said)
        return 0
    with _in_one_sentence(arguments):
        sys.argv[1:] = normalised(arguments)
        _composed()
    return 0


@hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name="config")
def _composed(config: DictConfig) -> None:
    sys.exit(_study(config))


@command  # here too, because Hydra prints a traceback for every error that reaches it
def _study(config: DictConfig) -> int:
    overrides = list(HydraConfig.get().overrides.task)
    with _in_one_sentence(overrides):
        try:
            return run(config, overrides, help.own_folders(sys.argv[1:]))
        except BrokenPipeError:  # `| head` has read enough
            raise
        except OSError as error:
            raise UserError(cannot_write(error.filename or config.results, error)) from error


@contextlib.contextmanager
def _in_one_sentence(overrides: list[str]) -> Iterator[None]:
    """Raises UserError for what Hydra cannot compose."""
    try:
        yield
    except MissingConfigException as error:
        raise no_option(error, overrides) from error
    except (HydraException, OmegaConfBaseException) as error:
        why = f" ({str(error.__cause__).splitlines()[0]})" if error.__cause__ else ""
        raise UserError(f"the configuration can't be composed: {str(error).splitlines()[0]}{why}") from error


def run(config: DictConfig, overrides: list[str], own: Sequence[str] = ()) -> int:
    """Plan, check, and run or describe one study; returns the exit status. own: the user's folder of configuration, if
    one was typed."""
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    refuse_unknown(values)
    for place in sorted(OmegaConf.missing_keys(config)):  # `???` in a file
        section, name = place.rpartition(".")[0], values.get(place.partition(".")[0], {}).get("name")
        raise UserError(f"{place} is not set, and {section}={name} needs it: add {place}=VALUE.")
    for switch in ("dry_run", "explain"):
        if not isinstance(values[switch], bool):
            raise UserError(f"{switch}={values[switch]} is neither true nor false: use one of them.")
    if values["device"] not in DEVICES:
        raise UserError(f"device={values['device']} is not a device: use {', '.join(DEVICES)}.")
    _refuse_passing_folders(values)
    values["watch"] = found(values["watch"])
    sweep = values.get("sweep")
    if not sweep or "name" not in sweep:
        raise UserError(f"no sweep was chosen: add +sweep=NAME, one of {', '.join(_sweep_names())}.")
    check_name("sweep.name", sweep["name"])
    base = with_absolute_paths({name: values[name] for name in sections(TrialConfig)})
    Budget(**values["budget"])  # refuses what cannot be one
    store = values["store"] if "://" in values["store"] else str(Path(values["store"]).absolute())
    artifacts = Store(store, behind(_zoo(values)))
    folder = Path(values["results"]).absolute() / check_name("study", values["study"])
    _by_field(sweep)
    for sentence in with_typed_values(sweep, overrides, values):
        print(sentence)
    load_option = option_loader(overrides, base)

    search = sweep.get("search")
    if search:
        check_search(sweep)
        if values["explain"]:
            raise UserError(
                "explain=true tells of a plan, and a search makes its own: dry_run=true says what is known."
            )
        if values["only"] is not None:
            raise UserError("only=… picks some of the planned trials, and a search draws its own: leave it out.")
    if search and not search.get("random_k"):
        return _search(sweep, base, values, store, folder, load_option, overrides, own)
    if search:
        trials = random_search(base, search, load_option)
        search["random_k"]["drawn"] = len(trials)
    else:
        trials = plan(base, sweep, load_option)
    refuse_unread(overrides, [trial.config for trial in trials])
    study = describe_study(values, base, sweep, overrides, trials[0] if trials else None, own)
    every = [trial.id for trial in trials]
    trials = named(trials, values["only"])
    infeasible = _check(trials)
    if not values["plan"]:  # it may run where the images are
        _check_images(trials, artifacts)
    if values["explain"]:
        cores = values["ray"]["num_cpus"] or os.cpu_count() or 1
        asked = help.question_of(sweep["name"], help.places(own))
        print(explain(asked, trials, artifacts, infeasible, recorded(folder), cores))
        return 0
    if values["plan"] or values["dry_run"]:
        refuse_other_study(folder, study, every)
        spent, settled = before(folder, study, store, trials)
        infeasible |= _refused(trials, infeasible, values, spent)
    if values["plan"]:
        print(save_plan(Path(values["plan"]), trials, infeasible, {"about": study} | _kept(values)))
        return 0
    if values["dry_run"]:
        _say_without_device(values)
        print(describe(_to_run(trials, settled), artifacts, infeasible))
        return 0
    extras.require("A sweep", *extras.EXTRAS["ray"], *extras.EXTRAS["figures"])
    _refuse_absent_gpu(values)
    with claimed(folder, study, store, trials, every) as settled:
        left = _to_run(trials, settled)
        print(describe(left, artifacts, infeasible), flush=True)
        if not trials:
            print("K = 0 was drawn: there is no trial, and nothing to publish.")
            return 0
        reasons = {name: str(error) for name, error in infeasible.items()}
        start = lambda execute, *about: _counted(execute.run_grid(left, folder, *about, reasons))  # noqa: E731
        return _execute(values, study, store, folder, start, left, len(trials))


def _search(
    sweep: dict[str, Any],
    base: dict[str, Any],
    values: dict[str, Any],
    store: str,
    folder: Path,
    load_option: Any,
    overrides: list[str],
    own: Sequence[str],
) -> int:
    """A sweep whose points Optuna chooses."""
    search = sweep["search"]
    if values["plan"]:
        raise UserError("plan=FILE needs trials that are known in advance, and Optuna chooses these: plan a grid.")
    ends = corners(search["space"])
    options = load_options(ends, load_option)
    trials = [planned(base, options, corner) for corner in ends]
    refuse_unread(overrides, [trial.config for trial in trials])
    _check(trials)
    _check_images(trials, Store(store, behind(_zoo(values))))
    study = describe_study(values, base, sweep, overrides, None, own)
    name = history_name(study["identity"], search)
    if values["dry_run"]:
        refuse_other_study(folder, study, [])
        _say_without_device(values)
        print(
            f"{search['trials']} trials chosen by Optuna (study {name}) over {', '.join(search['space'])}; each new ε, "
            "level or generator is a private release, and all of them compose."
        )
        return 0
    extras.require("A sweep", *extras.EXTRAS["ray"], *extras.EXTRAS["figures"])
    _refuse_absent_gpu(values)
    start = lambda execute, *about: execute.run_search(search, base, options, name, folder, *about)  # noqa: E731
    with claimed(folder, study, store, [], []):
        return _execute(values, study, store, folder, start, trials, search["trials"])


def _execute(
    values: dict[str, Any],
    study: dict[str, Any],
    store: str,
    folder: Path,
    start: Callable[[Any, dict[str, Any], Watching], tuple[list[dict[str, Any]], int]],
    trials: list[PlannedTrial],
    n_trials: int,
) -> int:
    """Start Ray, run, draw, report. trials: what is to be run, or the ends of what a search chooses from."""
    from analysis.figures import render
    from analysis.report import report
    from sweeps import execute, images, machines, reach

    dashboard = machines.start_ray(values["ray"])
    if dashboard:
        print(f"Ray's dashboard: {dashboard}", flush=True)
    settings = {
        "store": store,
        "secret": kept.secret_for(store),
        "zoo": _zoo(values),
        "copy": copy_name(study),
        "stages": machines.stage_resources(values["ray"], values["device"]),
        "commit": commit(),
        "budget": values["budget"],
        "max_concurrent": values["ray"]["max_concurrent_trials"],
    }
    machines.check_resources(settings["stages"], values["ray"].get("elastic", False))
    reach.require_shared(store)
    if values["ray"]["address"]:
        settings["sent"] = images.send([trial.config for trial in trials], Store(store, (), settings["secret"]))
        reach.require_alike(trials, settings)
    started = time.time()
    with Watching(values["watch"], study, folder) as watching:
        rows, ended = start(execute, settings, watching)
    render(folder)
    print(report(folder))
    print("spent, by two accountants\n" + ledger.cross_check(ledger.read(folder / "ledger.jsonl")) + "\n")
    done = sum(row["status"] == "done" for row in rows)
    asked, minutes = len(rows) + max(n_trials - ended, 0), (time.time() - started) / 60
    print(f"{done} of {asked} trials done in {minutes:.1f} minutes. Records: {folder}")
    return 0 if done == asked else 1


def _to_run(trials: list[PlannedTrial], settled: set[str]) -> list[PlannedTrial]:
    """The trials without those that are settled, of which it prints how many there are."""
    if settled:
        print(
            f"{len(settled)} of {len(trials)} trials are done, and the store no longer has their private fits: their "
            "rows stay as they are. (To run one again, take its row out of trials.jsonl.)"
        )
    return [trial for trial in trials if trial.id not in settled]


def _counted(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    return rows, len(rows)


@uncollected()
def _check(trials: list[PlannedTrial]) -> dict[str, InfeasibleError]:
    """Every trial's configuration and models, before any of them runs. Returns the infeasible ones; prints each warning
    once. Raises UserError, also if no trial is feasible."""
    from wavedp.model_checks import check_models

    refused: dict[str, InfeasibleError] = {}
    warnings: dict[str, None] = {}
    for trial in trials:
        check_values(trial.config)
    for first, *rest in alike(trials, but_for=("seed",)):
        try:
            warnings |= dict.fromkeys(checks.check(first.config))
        except InfeasibleError as error:
            refused |= {trial.id: error for trial in (first, *rest)}
    for first, *_ in alike(trials, but_for=NO_MODEL):
        check_models(first.config)
    infeasible = {trial.id: refused[trial.id] for trial in trials if trial.id in refused}
    for warning in warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    if infeasible and len(infeasible) == len(trials):
        raise next(iter(infeasible.values()))
    for name, reason in infeasible.items():
        print(f"Infeasible: {name}: {reason}", file=sys.stderr)
    return infeasible


def _check_images(trials: list[PlannedTrial], store: Store) -> None:
    """Raises UserError for a stage that has to be made of images that are not here (wavedp.checks.check_images)."""
    for group in alike(trials, but_for=NO_MODEL):
        if chain.missing_images(group[0].config, lambda stage, key: False):
            for trial in group:
                checks.check_images(trial.config, store)


def _zoo(values: dict[str, Any]) -> Zoo:
    return Zoo(**values["zoo"])


def _kept(values: dict[str, Any]) -> dict[str, Any]:
    """What of a study's settings a plan keeps beside its trials."""
    return {"budget": values["budget"], "zoo": asdict(_zoo(values))}


def _refused(
    trials: list[PlannedTrial],
    infeasible: dict[str, InfeasibleError],
    values: dict[str, Any],
    spent: list[ledger.Line],
) -> dict[str, InfeasibleError]:
    """The trials that would pass the study's budget after what it has spent; prints why."""
    refused = refused_by_budget(trials, infeasible, Budget(**values["budget"]), made(spent))
    for name, reason in refused.items():
        print(f"Infeasible: {name}: {reason}", file=sys.stderr)
    return refused


def _by_field(sweep: dict[str, Any]) -> None:
    """Write the axes of a sweep by the field that they vary, with all their values."""
    sweep |= {name: spread(sweep[name]) for name in SEEDS.values() if name in sweep}
    for axes in (sweep, sweep.get("search") or {}):
        for kind in ("grid", "zip", "space"):
            if axes.get(kind):
                axes[kind] = {axis: spread(values) for axis, values in by_field(axes[kind]).items()}
    if isinstance(sweep.get("cases"), dict):
        sweep["cases"] = {name: by_field(changes) for name, changes in sweep["cases"].items()}


def _refuse_absent_gpu(values: dict[str, Any]) -> None:
    """Raises UserError for a GPU that is not on this machine (a cluster's are counted once it was joined)."""
    if values["device"] == "cuda" and not values["ray"]["address"]:
        chosen_device("cuda")


def _refuse_passing_folders(values: dict[str, Any]) -> None:
    """Raises UserError for records or artifacts below the folder of a submitted job, which Ray deletes after it."""
    if IN_A_JOB not in os.environ:
        return
    for name in ("results", "store"):
        if "://" not in values[name] and not Path(values[name]).is_absolute():
            raise UserError(
                f"{name}={values[name]} would lie in the folder of this Ray job, which is deleted with it, ledger "
                f"included: give {name}=/a/path/that/stays."
            )


def _say_without_device(values: dict[str, Any]) -> None:
    """Warn of a GPU that a run would need: a dry run may describe another machine's study."""
    try:
        _refuse_absent_gpu(values)
    except UserError as error:
        print(f"Warning: a run on this machine would be refused: {error}", file=sys.stderr)


def _readable(arguments: list[str]) -> list[str]:
    """The same arguments. Raises UserError for one whose bytes are not text, which neither Hydra nor YAML can hold."""
    for text in arguments:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(
                f"{text} is not text in this locale ({sys.getfilesystemencoding()}): rename the file or folder, or set "
                "LC_ALL=C.UTF-8 if its name is UTF-8."
            )
    return arguments


def _sweep_names() -> list[str]:
    return sorted(path.stem for path in (ROOT / "conf" / "sweep").glob("*.yaml"))


if __name__ == "__main__":
    sys.exit(main())

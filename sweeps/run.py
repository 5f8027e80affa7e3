"""python -m sweeps.run +sweep=NAME [any Hydra override]: plan a study, run it on Ray, draw its figures.

Exit status: 0 all trials done, 1 some failed or infeasible, 2 nothing was started (the sentence says why).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweeps.copies import Copy, copy_name
from sweeps.lock import only_one
from sweeps.overrides import normalised, refuse_unknown, refuse_unread
from sweeps.plan import PlannedTrial, load_options, plan, planned, random_search, refused_by_budget, save_plan
from sweeps.records import LEDGER, Records, as_yaml, claim_folder
from sweeps.study import commit, describe_study, typed
from sweeps.summary import describe
from wavedp import chain, checks, registry
from wavedp.command import command
from wavedp.config import METHODS, TrialConfig, sections, trial_of, with_absolute_paths
from wavedp.errors import InfeasibleError, UserError
from wavedp.files import cannot_write, require_writable
from wavedp.methods import canonical
from wavedp.privacy import ledger
from wavedp.privacy.budget import Budget, made
from wavedp.store import Store

ROOT = Path(__file__).resolve().parent.parent
KEYS = (*sections(TrialConfig), "sweep", "study", "results", "store", "budget", "dry_run", "plan", "ray")


@command
def main() -> int:
    """Entry point; see the module's docstring."""
    sys.argv[1:] = normalised(_readable(sys.argv[1:]))
    _composed()
    return 0


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def _composed(config: DictConfig) -> None:
    sys.exit(_study(config))


@command  # here too, because Hydra prints a traceback for every error that reaches it
def _study(config: DictConfig) -> int:
    try:
        return run(config, list(HydraConfig.get().overrides.task))
    except OmegaConfBaseException as error:
        raise UserError(f"the configuration can't be resolved: {str(error).splitlines()[0]}") from error
    except OSError as error:
        raise UserError(cannot_write(error.filename or config.results, error)) from error


def run(config: DictConfig, overrides: list[str]) -> int:
    """Plan, check, and run or describe one study; returns the exit status."""
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    sweep = values.get("sweep")
    refuse_unknown(values, KEYS)
    if not sweep or "name" not in sweep:
        raise UserError(f"no sweep was chosen: add +sweep=NAME, one of {', '.join(_sweep_names())}.")
    base = with_absolute_paths({name: values[name] for name in sections(TrialConfig)})
    Budget(**values["budget"])  # refuses what cannot be one
    store = values["store"] if "://" in values["store"] else str(Path(values["store"]).absolute())
    folder = Path(values["results"]).absolute() / values["study"]
    load_option = _option_loader(overrides, base)

    search = sweep.get("search")
    if search and not search.get("random_k"):
        return _search(sweep, base, values, store, folder, load_option, overrides)
    if search:
        trials = random_search(base, search, load_option)
        search["random_k"]["drawn"] = len(trials)
    else:
        trials = plan(base, sweep, load_option)
    refuse_unread(overrides, [trial.config for trial in trials])
    infeasible = _check(trials)
    if values["plan"]:
        study = {"study": values["study"], "command": typed(overrides), "commit": commit(), "budget": values["budget"]}
        known = describe_study(values, base, sweep, overrides, trials[0] if trials else None)
        refused = refused_by_budget(
            trials, infeasible, Budget(**values["budget"]), made(_spent(folder, known, store, trials))
        )
        print(save_plan(Path(values["plan"]), trials, infeasible | refused, study))
        return 0
    if values["dry_run"]:
        print(describe(trials, store, infeasible))
        return 0

    from wavedp.stages import check_models  # and with it torch, which a dry run does without

    for trial in trials:
        check_models(trial.config)
    device = _device(values["device"], values["ray"])
    if infeasible and len(infeasible) == len(trials):
        raise next(iter(infeasible.values()))
    study = describe_study(values, base, sweep, overrides, trials[0] if trials else None)
    with _claimed(folder, study, store, trials):
        print(describe(trials, store, infeasible), flush=True)
        if not trials:
            print("K = 0 was drawn: there is no trial, and nothing to publish.")
            return 0
        start = lambda execute, settings: execute.run_grid(trials, folder, settings)  # noqa: E731
        return _execute(values, study, store, folder, start, len(trials), device)


@contextlib.contextmanager
def _claimed(folder: Path, study: dict[str, Any], store: str, trials: list[PlannedTrial]) -> Iterator[None]:
    """Hold the study's folder, with its study.yaml and the ledger lines of what was released before, here or elsewhere.

    Raises UserError while another command holds it, for a folder of another study, and where nothing can be written.
    """
    require_writable(folder, "results")
    Store(store).require_writable()
    with only_one(folder):
        claim_folder(folder, study, [trial.id for trial in trials])
        copy = Copy(Store(store), copy_name(study))
        copy.put_study(as_yaml(study))
        records = Records(folder, copy)
        for lines, users in records.find_releases(trials, Store(store)):
            records.put_ledger(lines, users)
        if records.ledger:
            records.save(LEDGER)
        copy.put_missing(records.trials.values(), records.ledger.values())
        yield


def _spent(folder: Path, study: dict[str, Any], store: str, trials: list[PlannedTrial]) -> list[ledger.Line]:
    """The ledger that a run of these trials would begin with."""
    records = Records(folder, Copy(Store(store), copy_name(study)))
    found = [line for lines, _ in records.find_releases(trials, Store(store)) for line in lines]
    return ledger.releases([*records.ledger.values(), *found])


def _search(
    sweep: dict[str, Any],
    base: dict[str, Any],
    values: dict[str, Any],
    store: str,
    folder: Path,
    load_option: Any,
    overrides: list[str],
) -> int:
    """A sweep whose points Optuna chooses."""
    search = sweep["search"]
    choices = {axis: spec for axis, spec in search["space"].items() if isinstance(spec, list)}
    corners = [{axis: value} for axis, options in choices.items() for value in options]
    options = load_options(corners, load_option)
    trial = canonical(trial_of(base))
    refuse_unread(overrides, [planned(base, options, corner).config for corner in corners] or [trial])
    if values["plan"]:
        raise UserError("plan=FILE needs trials that are known in advance, and Optuna chooses these: plan a grid.")
    checks.check(trial)
    device = _device(values["device"], values["ray"])
    study = describe_study(values, base, sweep, overrides, None)
    name = hashlib.sha256(json.dumps([study["identity"], search], sort_keys=True).encode()).hexdigest()[:16]
    if values["dry_run"]:
        print(
            f"{search['trials']} trials chosen by Optuna (study {name}) over {', '.join(search['space'])}; each new ε, "
            "level or generator is a private release, and all of them compose."
        )
        return 0

    from wavedp.stages import check_models

    check_models(trial)
    start = lambda execute, settings: execute.run_search(search, base, options, name, folder, settings)  # noqa: E731
    with _claimed(folder, study, store, []):
        return _execute(values, study, store, folder, start, search["trials"], device)


def _execute(
    values: dict[str, Any],
    study: dict[str, Any],
    store: str,
    folder: Path,
    start: Callable[[Any, dict[str, Any]], list[dict[str, Any]]],
    n_trials: int,
    device: str,
) -> int:
    """Start Ray, run, draw, report."""
    from analysis.figures import render
    from analysis.report import report
    from sweeps import execute, machines, reach

    settings = {
        "store": store,
        "copy": copy_name(study),
        "device": device,
        "stages": _stage_resources(values["ray"], device),
        "commit": commit(),
        "budget": values["budget"],
        "max_concurrent": values["ray"]["max_concurrent_trials"],
    }
    machines.start_ray(values["ray"])
    machines.check_resources(settings["stages"])
    reach.require_shared(store)
    started = time.time()
    rows = start(execute, settings)
    render(folder)
    print(report(folder))
    print("spent, by two accountants\n" + ledger.cross_check(ledger.read(folder / "ledger.jsonl")) + "\n")
    done = sum(row["status"] == "done" for row in rows)
    asked, minutes = max(len(rows), n_trials), (time.time() - started) / 60
    print(f"{done} of {asked} trials done in {minutes:.1f} minutes. Records: {folder}")
    return 0 if done == asked else 1


def _check(trials: list[PlannedTrial]) -> dict[str, InfeasibleError]:
    """Every trial's configuration, before any of them runs. Returns the infeasible ones; prints each warning once."""
    infeasible: dict[str, InfeasibleError] = {}
    warnings: dict[str, None] = {}
    for trial in trials:
        try:
            warnings |= dict.fromkeys(checks.check(trial.config))
        except InfeasibleError as error:
            infeasible[trial.id] = error
    for warning in warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    for name, reason in infeasible.items():
        print(f"Infeasible: {name}: {reason}", file=sys.stderr)
    return infeasible


def _option_loader(overrides: list[str], base: dict[str, Any]) -> Any:
    """load(group, option) for sweeps.plan: what the same command composes to with this option of the group, so that a
    preset's and a sweep file's values hold for it too."""

    def load(group: str, option: str) -> dict[str, Any]:
        choice = {"public": "data@public"}.get(group, group)
        others = [text for text in overrides if text.lstrip("+").partition("=")[0] != choice]
        try:
            node = hydra.compose("config", overrides=[*others, f"{choice}={option}"])
        except hydra.errors.MissingConfigException:
            if group in METHODS and (":" in option or option in registry.names(group)):
                return {"name": option}  # a method of the user's own that has no yaml: its defaults
            folder = "data" if group == "public" else group
            known = sorted(path.stem for path in (ROOT / "conf" / folder).glob("*.yaml"))
            raise UserError(f"sweep axis {group} has no option {option!r}: use one of {', '.join(known)}.") from None
        values = OmegaConf.to_container(node, resolve=True)
        assert isinstance(values, dict)
        return with_absolute_paths({**base, group: values[group]})[group]

    return load


def _stage_resources(ray_options: dict[str, Any], device: str) -> dict[str, dict[str, Any]]:
    resources = {name: dict(ray_options["stages"].get(name) or {"num_cpus": 1}) for name in chain.NAMES}
    if device != "cuda":
        for asked in resources.values():
            asked.pop("num_gpus", None)
    return resources


def _device(asked: str, ray_options: dict[str, Any]) -> str:
    """cpu or cuda. Raises UserError for a GPU that is not there (a cluster's are counted once it was joined)."""
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked == "cuda" and not ray_options["address"] and not torch.cuda.is_available():
        raise UserError(f"device={asked} and torch finds no CUDA GPU on this machine: use device=auto or device=cpu.")
    if asked not in ("cpu", "cuda"):
        raise UserError(f"device={asked} is not a device: use auto, cpu or cuda.")
    return asked


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

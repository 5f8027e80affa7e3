"""python -m sweeps.run +sweep=NAME [any Hydra override]: plan a study, run it on Ray, draw its figures.

Exit status: 0 all trials done, 1 some failed or infeasible, 2 nothing was started (the sentence says why).
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweeps.claim import claimed, spent_before
from sweeps.copies import copy_name
from sweeps.overrides import normalised, refuse_unknown, refuse_unread
from sweeps.plan import PlannedTrial, load_options, plan, planned, random_search, refused_by_budget, save_plan
from sweeps.study import commit, describe_study, typed
from sweeps.summary import describe
from wavedp import chain, checks, registry
from wavedp.config import METHODS, TrialConfig, sections, trial_of, with_absolute_paths
from wavedp.errors import InfeasibleError, UserError
from wavedp.files import cannot_write
from wavedp.methods import canonical
from wavedp.privacy import ledger
from wavedp.privacy.budget import Budget, made

ROOT = Path(__file__).resolve().parent.parent
KEYS = (*sections(TrialConfig), "sweep", "study", "results", "store", "budget", "dry_run", "plan", "ray")


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(config: DictConfig) -> None:
    """Entry point; see the module's docstring."""
    try:
        status = run(config, list(HydraConfig.get().overrides.task))
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        status = 2
    except OmegaConfBaseException as error:
        print(f"Error: the configuration can't be resolved: {str(error).splitlines()[0]}", file=sys.stderr)
        status = 2
    except OSError as error:
        print(f"Error: {cannot_write(error.filename or config.results, error)}", file=sys.stderr)
        status = 2
    sys.exit(status)


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
            trials, infeasible, Budget(**values["budget"]), made(spent_before(folder, known, store, trials))
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
    with claimed(folder, study, store, trials):
        print(describe(trials, store, infeasible), flush=True)
        if not trials:
            print("K = 0 was drawn: there is no trial, and nothing to publish.")
            return 0
        return _execute(
            values,
            study,
            store,
            folder,
            lambda execute, settings: execute.run_grid(trials, folder, settings),
            len(trials),
            device,
        )


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
    with claimed(folder, study, store, []):
        return _execute(
            values,
            study,
            store,
            folder,
            lambda execute, settings: execute.run_search(search, base, options, name, folder, settings),
            search["trials"],
            device,
        )


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
    from sweeps import execute, reach

    settings = {
        "store": store,
        "copy": copy_name(study),
        "device": device,
        "stages": _stage_resources(values["ray"], device),
        "commit": commit(),
        "budget": values["budget"],
        "max_concurrent": values["ray"]["max_concurrent_trials"],
    }
    execute.start_ray(values["ray"])
    execute.check_resources(settings["stages"])
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


def _sweep_names() -> list[str]:
    return sorted(path.stem for path in (ROOT / "conf" / "sweep").glob("*.yaml"))


if __name__ == "__main__":
    sys.argv[1:] = normalised(sys.argv[1:])
    main()

"""Run trials without Ray: one in a notebook, or a whole plan in a Slurm array, an enclave, on a borrowed GPU.

    import wavedp
    run = wavedp.run(wavedp.TrialConfig(data=..., upscaler="bicubic"))
    run.samples, run.coarse, run.metrics, run.epsilon, run.ledger

    python -m sweeps.run +sweep=eps_grid plan=plan.json                 # where Hydra is
    python -m wavedp.run plan.json --store DIR [--stages private_fit,coarse_samples] [--shard 3/8] [--minutes 9]

The command makes what it can, and goes on when it is started again: finished stages are found in the store by key, and
an interrupted fit resumes from its checkpoint. The most useful comes first: stages in the order of ORDER, and of each
stage the artifacts that most trials share. `python -m wavedp.store pack` carries them home, where the study's own
command finds them by key and enters their ledger lines. Neither ray nor hydra is imported.

    case                                     what happens
    --minutes run out, SIGTERM               the running stage writes its checkpoint and stops; exit status 3
    --shard k/n                              private fits are divided by key, and trials that share one go together:
                                             shards with stores of their own never make a release twice; public stages
                                             may be made in several
    --stages                                 only these, and the public trainings that they need; a missing private fit
                                             or reference is never made on the way: its trials wait
    a stage fails                            said in one line; what does not need it goes on; exit status 1
    other data or other code than the plan   refused before any work, with the first stage whose key differs; status 2
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavedp import chain, checks, model_checks
from wavedp.command import command
from wavedp.config import TrialConfig, from_dict
from wavedp.data import overlap
from wavedp.devices import chosen_device
from wavedp.entries import Zoo, behind
from wavedp.errors import UserError
from wavedp.methods import canonical
from wavedp.privacy import ledger
from wavedp.progress import OutOfTime, Report, printed
from wavedp.store import Artifact, Store, kept

if TYPE_CHECKING:
    import numpy as np

ORDER = (
    "tokenizer", "pretrain", "private_fit", "coarse_samples", "upscaler", "upscaler_fit", "upscale", "reference",
    "evaluate",
)  # fmt: skip
"""Stages that need a GPU or the sensitive images come before those that any machine can make later."""

SENSITIVE = (*chain.PRIVATE, "reference")
DONE, FAILED, REFUSED, UNFINISHED = 0, 1, 2, 3


@dataclass(frozen=True)
class Run:
    """A finished trial. samples: uint8 [B C H W]; labels: int64 [B]; coarse: float32 [B C h w] in [0, 1], before stage
    two. metrics: by full name. epsilon: of its private fits, composed by PLD at the delta in the ledger; inf without
    noise, 0 if no sensitive image was used. ledger: every use of sensitive images it rests on. keys: of its stages."""

    samples: np.ndarray
    labels: np.ndarray
    coarse: np.ndarray
    metrics: dict[str, float]
    epsilon: float
    ledger: list[ledger.Line]
    keys: dict[str, str]


def run(
    trial: TrialConfig,
    store: str | Store = ".wavedp/store",
    device: str = "auto",
    quiet: bool = False,
    ranks: int = 1,
    zoo: Zoo | bool = True,
) -> Run:
    """Run one trial in this process, or find what is done of it in the store.

    store: a folder or any fsspec URL. device: auto, cpu or cuda. quiet: print no progress. ranks: processes that share
    a private fit, a GPU each; a script that asks for several keeps its own work under `if __name__ == "__main__":`.
    zoo: which public models that come with wavedp may stand in for a training (False: none); a Store has chosen.
    Raises UserError, before any training, for what cannot be run.
    """
    from wavedp import stages
    from wavedp.privacy.ranks import require_room

    for warning in checks.check(trial):
        print(f"Warning: {warning}", file=sys.stderr)
    model_checks.check_models(canonical(trial))
    require_room(ranks, chosen_device(device))
    if isinstance(store, str):
        store = Store(store, behind(Zoo(use=zoo) if isinstance(zoo, bool) else zoo))
    keys = chain.keys(trial)
    checks.check_images(trial, store)
    store.require_writable()
    found: dict[str, Artifact] = {}
    for stage in chain.chain_of(canonical(trial)):
        report = _silent if quiet else printed(stage.name)
        found[stage.name], _ = stages.make(stage.name, trial, store, chosen_device(device), report, ranks)
    lines = [line for name in SENSITIVE if name in found for line in found[name].json("ledger")]
    samples, coarse = found["upscale"].tensors("samples"), found["coarse_samples"].tensors("samples")
    return Run(
        samples["images"].numpy(),
        samples["labels"].numpy(),
        coarse["images"].numpy(),
        found["evaluate"].json("metrics"),
        spent([line for name in chain.PRIVATE if name in found for line in found[name].json("ledger")]),
        lines,
        keys,
    )


def spent(lines: Sequence[ledger.Line]) -> float:
    """ε of the private fits with these lines."""
    if any(line["kind"] == "nonprivate" for line in lines):
        return math.inf
    return sum(ledger.composed_epsilon(lines).values())


@dataclass(frozen=True)
class PlannedTrial:
    """A trial of a plan file, with the keys that it had where it was planned."""

    id: str
    config: TrialConfig
    keys: dict[str, str]
    axes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Unit:
    """One artifact to make. users: how many trials rest on it."""

    stage: str
    key: str
    trial: PlannedTrial
    users: int


def read_plan(path: Path) -> list[PlannedTrial]:
    """The trials of a plan file. Raises UserError for a file that is not one."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["trials"]
        return [
            PlannedTrial(row["id"], from_dict(TrialConfig, row["config"]), row["keys"], row["axes"]) for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a plan ({type(error).__name__}: {error}): write one with python -m sweeps.run +sweep=NAME "
            f"plan={path.name}."
        ) from error


def read_zoo(path: Path) -> Zoo:
    """Which public models the planned study may take from the zoo. Raises UserError for a folder that is not here."""
    return Zoo(**json.loads(path.read_text(encoding="utf-8")).get("zoo", {}))


def units(trials: Sequence[PlannedTrial], stages: Iterable[str], shard: tuple[int, int] = (1, 1)) -> list[Unit]:
    """The artifacts to make for these stages, most useful first, each key once. shard: (k, n), 1 <= k <= n."""
    number, of = shard
    places = _together(trials)
    mine = [trial for trial in trials if int(places[trial.keys["private_fit"]], 16) % of == number - 1]
    found = []
    for stage in (name for name in ORDER if name in stages):
        users: dict[str, list[PlannedTrial]] = {}
        for trial in mine:
            if stage in trial.keys:
                users.setdefault(trial.keys[stage], []).append(trial)
        made = [Unit(stage, key, owned[0], len(owned)) for key, owned in users.items()]
        found += sorted(made, key=lambda unit: -unit.users)
    return found


def _together(trials: Sequence[PlannedTrial]) -> dict[str, str]:
    """{key of a private fit: the least key of the fits that its trials share with others, directly or not}."""
    least: dict[str, str] = {}

    def root(key: str) -> str:
        while least.setdefault(key, key) != key:
            key = least[key]
        return key

    for trial in trials:
        roots = sorted({root(trial.keys[stage]) for stage in chain.PRIVATE if stage in trial.keys})
        least |= dict.fromkeys(roots, roots[0])
    return {key: root(key) for key in least}


def require_same_keys(trials: Sequence[PlannedTrial], stages: Iterable[str]) -> None:
    """Raises UserError where this machine's data or code would make something else than what was planned."""
    wanted = set(stages)
    for trial in trials:
        here = chain.keys(trial.config)
        for stage in chain.chain_of(trial.config):
            if here[stage.name] != trial.keys.get(stage.name) and stage.name in wanted:
                raise UserError(
                    f"{stage.name} of {trial.id} has the key {here[stage.name][:12]} here and "
                    f"{trial.keys.get(stage.name, 'none')[:12]} in the plan: use the data and the commit that it was "
                    "planned with."
                )


class Runner:
    """Makes units one after another until all are made or the time is over."""

    def __init__(
        self, store: Store, device: str, allowed: set[str], deadline: float = math.inf, ranks: int = 1
    ) -> None:
        self.store, self.device, self.allowed, self.deadline = store, device, allowed, deadline
        self.ranks = ranks
        self.made: list[Unit] = []
        self.failed: dict[tuple[str, str], str] = {}
        self.waiting: list[tuple[Unit, str]] = []

    def stop(self, *_: object) -> None:
        """Stop as soon as the running stage has written its checkpoint (a signal handler)."""
        self.deadline = 0.0

    def run(self, asked: Sequence[Unit], say: Callable[[str], None] = print) -> bool:
        """Make the units in order; False if time ran out. say: is told of every unit."""
        from wavedp import stages

        for number, unit in enumerate(asked, 1):
            where = f"[{number}/{len(asked)}] {unit.stage} {unit.key[:8]} of {unit.trial.id}"
            if self.store.has(unit.stage, unit.key):
                say(f"{where}: in the store")
                continue
            missing = self._missing(unit)
            if missing:
                self.waiting.append((unit, missing))
                say(f"{where}: waits for {missing}")
                continue
            if time.time() >= self.deadline:
                return False
            try:
                started = time.time()
                report = self._report(unit.stage)
                stages.make(unit.stage, unit.trial.config, self.store, self.device, report, self.ranks)
            except OutOfTime:
                say(f"{where}: stopped in time")
                return False
            except Exception as error:  # one failing unit must not take the others with it
                self.failed[unit.stage, unit.key] = f"{type(error).__name__}: {error}"
                say(f"{where}: failed, {type(error).__name__}: {error}")
            else:
                self.made.append(unit)
                say(f"{where}: made in {time.time() - started:.1f} s")
        return True

    def _missing(self, unit: Unit) -> str:
        """Name a missing input that may not be made on the way: it failed, or is sensitive and not asked for."""
        for stage in chain.chain_of(unit.trial.config):
            if stage.name not in _before(unit.stage, unit.trial.config) or self.store.has(
                stage.name, unit.trial.keys[stage.name]
            ):
                continue
            key = (stage.name, unit.trial.keys[stage.name])
            if key in self.failed or (stage.name in SENSITIVE and stage.name not in self.allowed):
                return f"{stage.name} {key[1][:8]}"
        return ""

    def _report(self, stage: str) -> Report:
        tell = printed(stage)

        def report(done: int, total: int) -> None:
            tell(done, total)
            if done < total and time.time() >= self.deadline:  # what is done now is published
                raise OutOfTime

        return report


def _before(stage: str, trial: TrialConfig) -> set[str]:
    """The stages that a stage rests on, directly or not."""
    inputs = {item.name: item.inputs for item in chain.chain_of(trial)}
    found: set[str] = set()
    todo = list(inputs[stage])
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += inputs[name]
    return found


def _to_make(stages: Iterable[str], trial: TrialConfig) -> set[str]:
    """These stages and those that they rest on, but for sensitive ones that are not asked for."""
    here = {stage.name for stage in chain.chain_of(trial)} & set(stages)
    return here.union(*(_before(name, trial) - set(SENSITIVE) for name in here))


def _silent(done: int, total: int) -> None:
    """Nobody reads it."""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see the module. Returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m wavedp.run", description="Make what a plan asks for, without Ray.")
    parser.add_argument("plan", type=Path, help="written by python -m sweeps.run +sweep=NAME plan=FILE")
    parser.add_argument("--store", default=".wavedp/store", help="folder or fsspec URL (%(default)s)")
    parser.add_argument("--stages", help=f"comma-separated, of {', '.join(ORDER)} (all)")
    parser.add_argument("--shard", default="1/1", metavar="K/N", help="only part K of N, divided by private fit")
    parser.add_argument("--minutes", type=float, help="stop in time, with checkpoints (no limit)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (%(default)s)")
    parser.add_argument("--ranks", type=int, default=1, help="processes that share a private fit, a GPU each (1)")
    parser.add_argument("--home", help="where the datasets are on this machine (what the plan says)")
    parser.add_argument("--no-zoo", action="store_true", help="train the public models that come with wavedp, too")
    parser.add_argument("--dry-run", action="store_true", help="say what there is to make and what it holds, and stop")
    chosen = parser.parse_args(arguments)
    started = time.time()
    try:
        stages, shard = _stages(chosen.stages), _shard(chosen.shard)
        trials = [at_home(trial, chosen.home) for trial in read_plan(chosen.plan)]
        require_same_keys(trials, stages)
        for trial in trials:
            overlap.refuse_shared(trial.config.data, chain.public_reads(trial.config))
        zoo = Zoo(use=False) if chosen.no_zoo else read_zoo(chosen.plan)
        device, store = chosen_device(chosen.device), Store(chosen.store, behind(zoo), kept.secret_for(chosen.store))
        for trial in trials:
            checks.check_images(trial.config, store, _to_make(stages, trial.config))
        if chosen.ranks != 1:
            from wavedp.privacy.ranks import require_room

            require_room(chosen.ranks, device)
        if not chosen.dry_run:
            store.require_writable()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return REFUSED
    asked = units(trials, stages, shard)
    if chosen.dry_run:
        for unit in asked:
            have = "in the store" if store.has(unit.stage, unit.key) else "to make"
            print(f"{unit.stage:<15}{unit.key[:12]}  {unit.users:>4} trials  {have}")
        _print_steps([trial.config for trial in trials], {unit.stage for unit in asked})
        return DONE
    deadline = math.inf if chosen.minutes is None else started + 60 * chosen.minutes
    runner = Runner(store, device, set(stages), deadline, chosen.ranks)
    before = signal.signal(signal.SIGTERM, runner.stop)  # what Slurm sends before it kills
    try:
        finished = runner.run(asked, lambda text: print(text, flush=True))
    finally:
        signal.signal(signal.SIGTERM, before)
    for line in _releases(asked, store):
        print(line)
    there = sum(store.has(unit.stage, unit.key) for unit in asked)
    print(f"{there} of {len(asked)} artifacts are in {store.root} after {(time.time() - started) / 60:.1f} minutes.")
    if runner.failed:
        return FAILED
    return DONE if finished and there == len(asked) else UNFINISHED


def _print_steps(trials: Sequence[TrialConfig], wanted: set[str]) -> None:
    """What a step of each training holds, where its method can tell (wavedp.footprint)."""
    from wavedp import footprint

    lines: dict[str, None] = {}
    for trial in footprint.unlike(trials):
        try:
            lines |= {str(step): None for step in footprint.steps(trial) if step.stage in wanted}
        except Exception as error:  # somebody's method that needs numbers: what there is to make was said all the same
            lines[f"{trial.generator.name}: not counted ({type(error).__name__}: {error})"] = None
    if lines:
        print("Trainings, in float32 and without images (wavedp/footprint.py says what is counted):", *lines, sep="\n")


def _releases(asked: Sequence[Unit], store: Store) -> list[str]:
    """A line for each private fit that the store has: what it spent."""
    found = []
    for unit in asked:
        artifact = store.open(unit.stage, unit.key) if unit.stage in chain.PRIVATE else None
        if artifact is not None and (lines := artifact.json("ledger")):
            used = " + ".join(line["purpose"] for line in lines)
            found.append(f"{unit.stage} {unit.key[:12]}: {used}, epsilon = {spent(lines):.4g}, {unit.users} trials")
    return found


def _stages(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ORDER
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in ORDER:
            raise UserError(f"--stages {name} is not a stage: use {', '.join(ORDER)}.")
    return names


def _shard(text: str) -> tuple[int, int]:
    number, slash, of = text.partition("/")
    if not (slash and number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
        raise UserError(f"--shard {text} is not a part: use K/N with 1 <= K <= N, such as 3/8.")
    return int(number), int(of)


def at_home(trial: PlannedTrial, home: str | None) -> PlannedTrial:
    """The trial with its datasets in another folder."""
    if home is None:
        return trial
    from dataclasses import replace

    home = str(Path(home).expanduser().absolute())
    public = trial.config.public
    moved = replace(
        trial.config,
        data=replace(trial.config.data, home=home),
        public=None if public is None else replace(public, home=home),
    )
    return replace(trial, config=moved)


class _CallableModule(types.ModuleType):
    """`wavedp.run(trial)` and `python -m wavedp.run` are one name."""

    def __call__(self, *args: Any, **options: Any) -> Run:
        return run(*args, **options)


if __name__ == "__main__":
    sys.exit(main())
sys.modules[__name__].__class__ = _CallableModule

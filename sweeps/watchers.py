"""Who is told what while a study runs: `watch=[csv,wandb]`, or one of the user's own, `watch=my_package.mine:Mine`.

Watchers run in the command's process, on its node, each in a thread of its own: a slow one holds nothing up, and one
that raises is left out from then on, after one sentence. Nothing that they do reaches a trial, a key or a record.

What they are told is public by type: rows of ended trials, as they stand in trials.jsonl, and counts. Losses, gradients
and checkpoints of a private fit never come here.
"""

from __future__ import annotations

import copy
import csv
import importlib.util
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from sweeps.records import recorded
from wavedp import registry
from wavedp.errors import UserError, nearest
from wavedp.files import write_atomically
from wavedp.jsonl import encoded

PATIENCE = 60  # seconds that the end of a study waits for watchers
WRITING = 0.1  # share of the time that goes into writing trials.csv, at most
PLACES = ("trials.csv", "tensorboard")
"""What watchers leave in a study's folder."""


@dataclass(frozen=True)
class Spent:
    """What a study has used so far. trials: how many have ended. epsilon: of its private releases, composed; those
    without noise have none and are not in it. gpu_hours: seconds × num_gpus of all its stages, in hours."""

    trials: int
    epsilon: float
    gpu_hours: float


class Watcher(Protocol):
    """What is told while a study runs. `row` is needed; the other three may be left out.

    The methods are called one after another in one thread. A class is made without arguments before the study is
    planned, and for dry_run=true too: open in `begin` what has to be opened.
    """

    def begin(self, study: Mapping[str, Any], folder: Path) -> None:
        """Once, before any trial: the content of study.yaml, and the study's folder."""

    def row(self, row: Mapping[str, Any]) -> None:
        """A trial has ended, whatever its status: its row of trials.jsonl (results/README.md)."""

    def spent(self, spent: Spent) -> None:
        """After trials have ended: what the study has used so far."""

    def end(self) -> None:
        """Once, after the last row, also of a study that was interrupted."""


def found(names: Any) -> dict[str, Watcher]:
    """The watchers that `watch` names, one or a list. Raises UserError for an unknown name, a package that is not
    installed, and an object that is no watcher."""
    listed = [names] if isinstance(names, str) else names or []
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise UserError(f"watch={names} is not a list of watchers: write watch=[csv], with any of {', '.join(READY)}.")
    return {name: _found(name) for name in listed}


def _found(name: str) -> Watcher:
    if name in READY:
        package = NEEDS.get(name)
        if package and not _installed(package.partition(">")[0]):
            raise UserError(f"watch={name} needs a package that is not installed: pip install '{package}'.")
        return READY[name]()
    if ":" not in name:
        raise UserError(f"watch={name} is not known: {nearest(name, READY, other='package.module:Object')}")
    try:
        watcher = registry.imported(f"watch={name}", name)
    except UserError:
        raise
    except Exception as error:  # of the user's own code
        raise UserError(f"watch={name} can't be made ({_said(error)}): make it without arguments.") from error
    if not callable(getattr(watcher, "row", None)):
        raise UserError(f"watch={name} has no method row(row): see sweeps.watchers.Watcher for what it may have.")
    return watcher  # type: ignore[no-any-return]


def _installed(module: str) -> bool:
    """True if it can be imported; a folder of that name, such as wandb leaves where it ran, is no package."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


class Watching:
    """Context manager: tells watchers of a study, from its begin to its end. Each row is told once, or again if a later
    attempt changed it. No method waits or raises, but for the end, which waits PATIENCE at most."""

    def __init__(self, watchers: Mapping[str, Watcher], study: Mapping[str, Any], folder: Path) -> None:
        self.tellers = [_Teller(name, watcher) for name, watcher in watchers.items()]
        self.study, self.folder = study, folder
        self.told: dict[str, bytes] = {}

    def __enter__(self) -> Watching:
        self._tell("begin", self.study, self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        self._tell("end")
        until = time.monotonic() + PATIENCE
        for teller in self.tellers:
            teller.wait(until)

    def rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Tell of ended trials."""
        for row in rows:
            line = encoded(dict(row))
            if self.told.get(row["trial"]) != line:
                self.told[row["trial"]] = line
                self._tell("row", row)

    def spent(self, spent: Spent) -> None:
        """Tell what was used."""
        self._tell("spent", spent)

    def _tell(self, method: str, *about: Any) -> None:
        for teller in self.tellers:
            teller.queue.put((method, copy.deepcopy(about)))


class _Teller:
    """One watcher in its thread, until its end or its first error."""

    def __init__(self, name: str, watcher: Watcher) -> None:
        self.name, self.watcher = name, watcher
        self.queue: SimpleQueue[tuple[str, tuple[Any, ...]]] = SimpleQueue()
        self.thread = threading.Thread(target=self._run, name=f"watch={name}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        method = ""
        while method != "end":
            method, about = self.queue.get()
            try:
                getattr(self.watcher, method, _pass)(*about)
            except BaseException as error:  # a thread has nobody to pass it to
                print(
                    f"Warning: watch={self.name} failed in {method}() ({_said(error)}): the study goes on without it.",
                    file=sys.stderr,
                )
                return

    def wait(self, until: float) -> None:
        """Wait for its end, until so late on the monotonic clock."""
        self.thread.join(max(0.0, until - time.monotonic()))
        if self.thread.is_alive():
            print(
                f"Warning: watch={self.name} took longer than {PATIENCE} s after the last trial: what it was still to "
                "be told may be lost; trials.jsonl has it.",
                file=sys.stderr,
            )


def _pass(*_: Any) -> None:
    """What a method does that a watcher leaves out."""


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def parameters(row: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """What was asked of a trial: the settings that readers ask for first, and its axes."""
    first = ("seed", "generator", "level", "blur", "upscaler", "epsilon", "delta")
    values = {name: row[name] for name in first} | row["axes"]
    return {name: value if isinstance(value, str | int | float) else str(value) for name, value in values.items()}


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """What came out of a trial: its metrics, the ε that it spent if that is finite, and the seconds of its stages."""
    spent = {} if row["epsilon_spent"] in (None, "inf") else {"epsilon_spent": row["epsilon_spent"]}
    return {**row["metrics"], **spent, "seconds": sum(row["seconds"].values())}


class CSV:
    """trials.csv in the study's folder: the rows of trials.jsonl, flat. A study of n trials writes no n² lines: between
    two writes passes nine times as long as one takes."""

    def begin(self, study: Mapping[str, Any], folder: Path) -> None:
        """Begin with the rows that are recorded."""
        self.path, self.after = folder / "trials.csv", 0.0
        self.lines = {row["trial"]: self._line(row) for row in recorded(folder)}

    def row(self, row: Mapping[str, Any]) -> None:
        """Add a row, or replace that of an earlier attempt."""
        self.lines[row["trial"]] = self._line(row)
        if time.monotonic() >= self.after:
            self._write()

    def end(self) -> None:
        """Write what is not written yet."""
        self._write()

    def _line(self, row: Mapping[str, Any]) -> dict[str, Any]:
        first = {name: row[name] for name in ("trial", "status", "reason")}
        return {**first, **parameters(row), "epsilon_spent": row["epsilon_spent"], **numbers(row)}

    def _write(self) -> None:
        began, text = time.monotonic(), io.StringIO()
        columns = dict.fromkeys(name for line in self.lines.values() for name in line)
        writer = csv.DictWriter(text, list(columns))
        writer.writeheader()
        writer.writerows(self.lines.values())
        write_atomically(self.path, text.getvalue().encode())
        now = time.monotonic()
        self.after = now + (now - began) * (1 / WRITING - 1)


class TensorBoard:
    """tensorboard/ in the study's folder: a run for each trial, for the tabs of scalars and hyperparameters, and what
    the study has spent. Written by tensorboardX, which comes with ray[tune]; `tensorboard --logdir DIR` shows it."""

    def begin(self, study: Mapping[str, Any], folder: Path) -> None:
        """Open the study's folder of events."""
        from tensorboardX import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def row(self, row: Mapping[str, Any]) -> None:
        """Write a run."""
        self.writer.add_hparams({**parameters(row), "status": row["status"]}, numbers(row), name=row["trial"])

    def spent(self, spent: Spent) -> None:
        """Add a point to the curves of the whole study, over ended trials."""
        self.writer.add_scalar("spent/epsilon", spent.epsilon, spent.trials)
        self.writer.add_scalar("spent/gpu_hours", spent.gpu_hours, spent.trials)
        self.writer.flush()

    def end(self) -> None:
        """Close the files."""
        self.writer.close()


class MLflow:
    """An experiment with the study's name and a run for each trial, where MLFLOW_TRACKING_URI says."""

    def begin(self, study: Mapping[str, Any], folder: Path) -> None:
        """Open or make the experiment."""
        import mlflow

        mlflow.set_experiment(study["study"])

    def row(self, row: Mapping[str, Any]) -> None:
        """Add a run."""
        import mlflow

        with mlflow.start_run(run_name=row["trial"]):
            mlflow.log_params(parameters(row))
            mlflow.log_metrics(numbers(row))
            mlflow.set_tags({name: row[name] for name in ("status", "reason", "commit") if row[name]})


class WandB:
    """A run for each trial, in a group with the study's name, of the project wavedp or WANDB_PROJECT."""

    def begin(self, study: Mapping[str, Any], folder: Path) -> None:
        """Note where runs go. Without a key W&B would ask for one on the terminal, in the midst of the display."""
        import wandb

        if wandb.setup().settings.mode not in ("offline", "disabled") and not wandb.login(prompt=False):
            raise RuntimeError("it has no key: run `wandb login`, or set WANDB_API_KEY or WANDB_MODE=offline")
        self.place = {"project": os.environ.get("WANDB_PROJECT", "wavedp"), "group": study["study"]}

    def row(self, row: Mapping[str, Any]) -> None:
        """Add a run."""
        import wandb

        quiet = wandb.Settings(silent=True)
        with wandb.init(**self.place, name=row["trial"], config=parameters(row), settings=quiet) as run:
            run.summary.update({**numbers(row), **{name: row[name] for name in ("status", "reason", "commit")}})


READY: dict[str, Callable[[], Watcher]] = {"csv": CSV, "tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}  # type: ignore[dict-item]
"""The watchers that come with wavedp, by name."""
NEEDS = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb>=0.31"}
"""{watcher: the package that it needs, as pip takes it}."""

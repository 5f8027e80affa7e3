"""The display while a study runs.

On a terminal: a line for every trial that ended, and below them, redrawn in place, a table of those that run (trial,
stage, how far it is, how long it takes yet or what it waits for) and a line of the whole study. In a log: a line for
each stage that a trial begins and for its end, and once a minute one for the whole study.

Where a folder is given, the same stands in its status.json while the study runs, for `python -m analysis.report FOLDER
--serve`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ray.exceptions import RayError
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from analysis.price import composed
from sweeps.clocks import NOTHING, ToGo, clock, kinds, to_go, to_go_of_search
from sweeps.gauges import Gauges
from sweeps.plan import PlannedTrial
from sweeps.watchers import Spent, Watching
from wavedp.files import write_atomically
from wavedp.privacy import ledger
from wavedp.privacy.budget import Budget

STATUS = "status.json"
LOOKING = 0.005  # share of this process's time that goes into looking: thousands of trials are looked at less often
EVERY = 60  # seconds between two lines of the whole study in a log
WITH_BAR = 80  # columns of a window that has room for the bar
UNITS = {"num_gpus": "GPU", "num_cpus": "CPU"}


@dataclass(frozen=True)
class Row:
    """A trial that has not ended, and the stage that it needs. fraction: of the stage that is done. seconds: since a
    worker took it up; None while it waits. left: seconds to go, None if nothing tells. waits: for what."""

    trial: str
    stage: str
    fraction: float = 0.0
    seconds: float | None = None
    left: float | None = None
    waits: str = ""

    @property
    def time(self) -> str:
        """`1:20, 0:45 to go`, or what it waits for."""
        if self.seconds is None:
            return f"waits for {self.waits}"
        return clock(self.seconds) + ("" if self.left is None else f", {clock(self.left)} to go")


@dataclass(frozen=True)
class View:
    """What there is to show. running: the trials that have not ended; ended: a line for each that ended since the last
    look; study: the line of all."""

    so_far: str
    running: Sequence[Row]
    ended: list[str]
    study: str


class Progress:
    """Context manager: asks `status` once a second in a thread and prints until the study ends.

    status: the coordinator's (sweeps.coordinator), and the resources of the cluster (all) and of each
    stage (asked). trials: the plan, empty in a search. found: keys that the store had. total: how many trials
    there will be. folder: the study's, for status.json. before: {kind of stage: seconds} in earlier studies. watching
    and gauges: who else is told.
    """

    def __init__(
        self,
        status: Callable[[], dict[str, Any]],
        trials: list[PlannedTrial],
        found: set[str],
        total: int,
        stream: TextIO | None = None,
        folder: Path | None = None,
        before: Mapping[str, float] = NOTHING,
        budget: Budget = Budget(),  # noqa: B008 (it is frozen)
        watching: Watching | None = None,
        gauges: Gauges | None = None,
    ) -> None:
        self.status, self.total, self.folder, self.before, self.budget = status, total, folder, before, budget
        self.watching, self.gauges = watching, gauges
        self.chains = {trial.id: set(trial.keys.values()) - found for trial in trials}
        self.kinds = kinds((trial.config for trial in trials), (trial.keys for trial in trials))
        self.started, self.stop = time.time(), threading.Event()
        self.display = _display(stream or sys.stdout)
        self.ended: set[str] = set()
        self.composed: tuple[int, float] = (0, 0.0)  # releases, and their ε
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Progress:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(timeout=10)
        self._show()
        self.display.close()
        if self.folder:
            (self.folder / STATUS).unlink(missing_ok=True)

    def _run(self) -> None:
        pause = 1.0
        while not self.stop.wait(pause):
            began = time.thread_time()
            self._show()
            pause = max(1.0, (time.thread_time() - began) / LOOKING)

    def _show(self) -> None:
        try:
            status = self.status()
        except RayError:
            return  # the coordinator restarts, or the study is being shut down: the next look will tell
        now = time.time()
        new = {trial: row for trial, row in status["rows"].items() if trial not in self.ended}
        self.ended |= new.keys()
        expected = {**self.before, **status["clocks"].expected(self.kinds)}
        rows = [
            self._row(trial, stage, key, status, expected.get(self.kinds.get(key, "")), now)
            for trial, (stage, key) in status["now"].items()
            if trial not in self.ended
        ]
        width = max(map(len, new), default=0)
        ended = [ended_line(row, width) for row in new.values()]
        spent = self._spent(status)
        view = View(clock(now - self.started), rows, ended, self._study_line(len(rows), status, spent, now))
        self.display.show(view)
        if self.watching and new:
            self.watching.rows(new.values())
            self.watching.spent(spent)
        if self.gauges:
            self.gauges.show(self._by_status(len(rows), status), running_stages(status), spent)
        if self.folder:
            told = [[row.trial, row.stage, row.fraction, row.seconds, row.left, row.waits] for row in rows]
            with contextlib.suppress(OSError):  # the records say so where the disk is full
                write_atomically(
                    self.folder / STATUS, json.dumps({"time": now, "study": view.study, "running": told}).encode()
                )

    def _row(self, trial: str, stage: str, key: str, status: dict[str, Any], expected: float | None, now: float) -> Row:
        clocks, maker = status["clocks"], status["makers"].get(key, trial)
        if maker != trial:
            return Row(trial, stage, waits=maker)
        if key not in clocks.begun:
            return Row(trial, stage, waits=lacking(status["asked"].get(stage, {}), free(status)))
        left = clocks.left(key, expected, now)
        return Row(trial, stage, clocks.fraction(key), now - clocks.begun[key], left)

    def _study_line(self, running: int, status: dict[str, Any], spent: Spent, now: float) -> str:
        """`3 of 27 trials ended, 4 running; 2:40 so far, to go 21:39; ε 2.1 of 10 spent; 0.4 of 5 GPU hours used`."""
        hours = [f"{spent.gpu_hours:.3g}{of(self.budget.gpu_hours)} GPU hours used"]
        return "; ".join(
            [
                f"{len(self.ended)} of {max(self.total, len(self.ended))} trials ended, {running} running",
                f"{clock(now - self.started)} so far, to go {self._to_go(status, now)}",
                f"ε {spent.epsilon:.3g}{of(self.budget.epsilon)} spent",
                *(hours if spent.gpu_hours or self.budget.gpu_hours is not None else []),
                *used(status["all"], free(status)),
            ]
        )

    def _spent(self, status: dict[str, Any]) -> Spent:
        """What was used. ε is composed again where a release was added."""
        releases = [line for line in ledger.releases(status["ledger"]) if line["kind"] != "nonprivate"]
        if len(releases) != self.composed[0]:
            self.composed = (len(releases), composed(releases))
        return Spent(len(self.ended), self.composed[1], status["gpu_seconds"] / 3600)

    def _by_status(self, running: int, status: dict[str, Any]) -> dict[str, int]:
        """How many trials have each status, those that have not ended included."""
        ended = Counter(row["status"] for row in status["rows"].values())
        waiting = max(self.total - len(self.ended) - running, 0)
        return {"done": 0, "failed": 0, "infeasible": 0, **ended, "running": running, "waiting": waiting}

    def _to_go(self, status: dict[str, Any], now: float) -> ToGo:
        if not self.chains:
            rows = [row for row in status["rows"].values() if row["status"] == "done"]
            return to_go_of_search(status["clocks"], rows, self.total - len(self.ended), now)
        chains = [keys for trial, keys in self.chains.items() if trial not in self.ended]
        return to_go(status["clocks"], chains, self.kinds, now, self.before)


class Log:
    """One plain line an event."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.told = stream, time.time()
        self.begun: dict[str, str] = {}

    def show(self, view: View) -> None:
        """Print what has changed: see the module's docstring."""
        begun = {row.trial: row.stage for row in view.running if row.seconds is not None}
        lines = [f"{trial}  {stage}" for trial, stage in begun.items() if self.begun.get(trial) != stage]
        lines += view.ended
        self.begun |= begun
        if view.ended or time.time() - self.told > EVERY:
            self.told = time.time()
            lines.append(view.study)
        for line in lines:
            print(f"{view.so_far}  {line}", file=self.stream, flush=True)

    def close(self) -> None:
        """Nothing is left to do."""


class Terminal:
    """Lines that stay, and below them a block that never exceeds the window and is redrawn in place."""

    def __init__(self, stream: TextIO) -> None:
        self.console = Console(file=stream, force_terminal=True, markup=False, highlight=False)
        self.live = Live(console=self.console, auto_refresh=False, redirect_stderr=sys.stderr.isatty())
        self.width = self.console.width
        self.live.start()

    def show(self, view: View) -> None:
        """Print what has ended and redraw the block."""
        width, height = self.console.size
        if width < self.width:  # the terminal may have wrapped what is there: no cursor movement would find its start
            self.console.clear()
        self.width = width
        for line in view.ended:
            self.console.print(Text(line))
        self.live.update(block(view, width, height - 1), refresh=True)

    def close(self) -> None:
        """Leave the block where it is."""
        self.live.stop()


def _display(stream: TextIO) -> Log | Terminal:
    return Terminal(stream) if stream.isatty() and os.environ.get("TERM") != "dumb" else Log(stream)


def block(view: View, width: int, height: int) -> Group:
    """The table and the study's line, no more than so many lines: trials that do not fit are counted."""
    study = Text(view.study, no_wrap=True, overflow="ellipsis")
    if not view.running or height < 3:
        return Group(study)
    room = height - 2  # without the head and the study's line
    kept = view.running if len(view.running) <= room else view.running[: room - 1]
    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("trial", no_wrap=True, ratio=1, min_width=8)
    table.add_column("stage", no_wrap=True)
    if width >= WITH_BAR:
        table.add_column("", width=16)
    table.add_column("done", no_wrap=True, justify="right")
    table.add_column("time", no_wrap=True, max_width=max(width // 3, 6))
    for row in kept:
        bar = [ProgressBar(total=1.0, completed=row.fraction) if row.seconds is not None else ""]
        share = f"{row.fraction:.0%}" if row.fraction else ""
        table.add_row(row.trial, row.stage, *(bar if width >= WITH_BAR else []), share, row.time)
    more = (
        [Text(f"… {len(view.running) - len(kept)} more", no_wrap=True, overflow="ellipsis")]
        if len(kept) < len(view.running)
        else []
    )
    return Group(table, *more, study)


def of(limit: float | None) -> str:
    """` of 10`, where there is a limit."""
    return "" if limit is None else f" of {limit:g}"


def running_stages(status: dict[str, Any]) -> dict[str, int]:
    """How many stages of each name a worker has taken up."""
    return Counter(stage for key, stage in status["stages"].items() if key in status["clocks"].begun)


def free(status: dict[str, Any]) -> dict[str, float]:
    """What no worker of this study holds. Ray counts also what is set aside for a worker that only starts."""
    left = dict(status["all"])
    for key, stage in status["stages"].items():
        for name, unit in UNITS.items():
            if key in status["clocks"].begun:
                left[unit] = left.get(unit, 0) - status["asked"].get(stage, {}).get(name, 0)
    return left


def lacking(asked: Mapping[str, float], there: Mapping[str, float]) -> str:
    """What a stage waits for that no worker has taken up: `1 GPU (0 free)`, or a worker that starts."""
    for name, unit in UNITS.items():
        wanted, left = asked.get(name, 0), max(there.get(unit, 0), 0)
        if wanted > left:
            return f"{wanted:g} {unit} ({left:g} free)"
    return "a worker"


def used(every: Mapping[str, float], there: Mapping[str, float]) -> list[str]:
    """`1 of 2 GPUs in use`, where there are any."""
    gpus = every.get("GPU", 0)
    return [f"{gpus - there.get('GPU', 0):g} of {gpus:g} GPUs in use"] if gpus else []


def ended_line(row: dict[str, Any], width: int = 0) -> str:
    """`epsilon=3-seed=0-1f2e3d4c  done  ε spent 3  fid_clean_10k_test 34.5`."""
    spent = row["epsilon_spent"]
    detail = row["reason"] or "  ".join(f"{name} {value:.4g}" for name, value in row["metrics"].items())
    cost = "" if spent is None else f"ε spent {spent:.3g}  " if isinstance(spent, float) else f"ε spent {spent}  "
    return f"{row['trial']:<{width}}  {row['status']}  {cost}{detail}".rstrip()

"""The display while a study runs.

On a terminal: a line for every trial that ended, and below them, redrawn in place, one for every trial that runs and
one for the whole study. In a log: a line for each stage that a trial begins and for its end, and once a minute one for
the whole study.

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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ray.exceptions import RayError
from rich.console import Console
from rich.live import Live
from rich.text import Text

from sweeps.clocks import Clocks, ToGo, clock, kinds, to_go, to_go_of_search
from sweeps.plan import PlannedTrial
from wavedp.files import write_atomically

STATUS = "status.json"
EVERY = 60  # seconds between two lines of the whole study in a log


@dataclass(frozen=True)
class View:
    """What there is to show. begun: {trial: the stage that a worker makes for it}; running: a line for each trial that
    has not ended; ended: one for each that ended since the last look; study: the line of all."""

    so_far: str
    begun: dict[str, str]
    running: list[str]
    ended: list[str]
    study: str


class Progress:
    """Context manager: asks `status` once a second in a thread and prints until the study ends.

    status: the coordinator's (sweeps.coordinator.Coordinator.status). trials: the plan, empty in a search. found: keys
    that the store had. total: how many trials there will be. folder: the study's, for status.json.
    """

    def __init__(
        self,
        status: Callable[[], dict[str, Any]],
        trials: list[PlannedTrial],
        found: set[str],
        total: int,
        stream: TextIO | None = None,
        folder: Path | None = None,
    ) -> None:
        self.status, self.total, self.folder = status, total, folder
        self.chains = {trial.id: set(trial.keys.values()) - found for trial in trials}
        self.kinds = kinds((trial.config for trial in trials), (trial.keys for trial in trials))
        self.started, self.stop = time.time(), threading.Event()
        self.display = _display(stream or sys.stdout)
        self.ended: set[str] = set()
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
        while not self.stop.wait(1.0):
            self._show()

    def _show(self) -> None:
        try:
            status = self.status()
        except RayError:
            return  # the coordinator restarts, or the study is being shut down: the next look will tell
        now, clocks = time.time(), status["clocks"]
        new = {trial: row for trial, row in status["rows"].items() if trial not in self.ended}
        self.ended |= new.keys()
        running = {trial: what for trial, what in status["now"].items() if trial not in self.ended}
        width = max(map(len, [*running, *new]), default=0)
        view = View(
            so_far=clock(now - self.started),
            begun={trial: stage for trial, (stage, key) in running.items() if key in clocks.begun},
            running=[
                f"{trial:<{width}}  {stage_text(stage, key, clocks, now)}" for trial, (stage, key) in running.items()
            ],
            ended=[ended_line(row, width) for row in new.values()],
            study=self._study_line(len(running), status, now),
        )
        self.display.show(view)
        if self.folder:
            told = [
                [trial, stage, clocks.fraction(key), now - clocks.begun[key] if key in clocks.begun else None]
                for trial, (stage, key) in running.items()
            ]
            with contextlib.suppress(OSError):  # the records say so where the disk is full
                write_atomically(
                    self.folder / STATUS, json.dumps({"time": now, "study": view.study, "running": told}).encode()
                )

    def _study_line(self, running: int, status: dict[str, Any], now: float) -> str:
        """`3 of 27 trials ended, 4 running; 2:40 so far, to go 21:39`."""
        ended = f"{len(self.ended)} of {max(self.total, len(self.ended))} trials ended, {running} running"
        return f"{ended}; {clock(now - self.started)} so far, to go {self._to_go(status, now)}"

    def _to_go(self, status: dict[str, Any], now: float) -> ToGo:
        if not self.chains:
            rows = [row for row in status["rows"].values() if row["status"] == "done"]
            return to_go_of_search(status["clocks"], rows, self.total - len(self.ended), now)
        chains = [keys for trial, keys in self.chains.items() if trial not in self.ended]
        return to_go(status["clocks"], chains, self.kinds, now)


class Log:
    """One plain line an event."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.told = stream, time.time()
        self.begun: dict[str, str] = {}

    def show(self, view: View) -> None:
        """Print what has changed: see the module's docstring."""
        lines = [f"{trial}  {stage}" for trial, stage in view.begun.items() if self.begun.get(trial) != stage]
        lines += view.ended
        self.begun |= view.begun
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
        block = shortened([*view.running, view.study], height - 1)
        self.live.update(Text("\n".join(block), no_wrap=True, overflow="ellipsis"), refresh=True)

    def close(self) -> None:
        """Leave the block where it is."""
        self.live.stop()


def _display(stream: TextIO) -> Log | Terminal:
    return Terminal(stream) if stream.isatty() and os.environ.get("TERM") != "dumb" else Log(stream)


def shortened(lines: list[str], height: int) -> list[str]:
    """As many of the lines as fit, the last among them, and how many are left out."""
    if len(lines) <= height:
        return lines
    kept = max(height - 2, 0)
    return [*lines[:kept], f"… {len(lines) - 1 - kept} more", lines[-1]][-max(height, 1) :]


def stage_text(stage: str, key: str, clocks: Clocks, now: float) -> str:
    """`private_fit      42%  1:20`, or that it waits for a worker."""
    if key not in clocks.begun:
        return f"{stage:<15}  waits"
    fraction = clocks.fraction(key)
    share = f"{fraction:4.0%}" if fraction else "   …"
    return f"{stage:<15} {share}  {clock(now - clocks.begun[key])}"


def ended_line(row: dict[str, Any], width: int = 0) -> str:
    """`epsilon=3-seed=0-1f2e3d4c  done  ε spent 3  fid_clean_10k_test 34.5`."""
    spent = row["epsilon_spent"]
    detail = row["reason"] or "  ".join(f"{name} {value:.4g}" for name, value in row["metrics"].items())
    cost = "" if spent is None else f"ε spent {spent:.3g}  " if isinstance(spent, float) else f"ε spent {spent}  "
    return f"{row['trial']:<{width}}  {row['status']}  {cost}{detail}".rstrip()

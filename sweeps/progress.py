"""The display while a study runs: one line a trial with stage, elapsed, time to go and spent ε.

On a terminal the block of lines is redrawn in place; in a log a trial's line is printed when its stage changes, and
once a minute while a long stage runs.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, TextIO

import ray
from ray.exceptions import RayError

from wavedp.chain import CHAIN

ENDED = ("done", "failed", "infeasible")
ORDER = [stage.name for stage in CHAIN]


class Progress:
    """Context manager: polls the coordinator in a thread and prints until the study ends."""

    def __init__(self, coordinator: Any, trials: list[str], stream: TextIO | None = None) -> None:
        self.coordinator, self.trials = coordinator, trials
        self.stream = stream or sys.stdout
        self.started, self.stop = time.time(), threading.Event()
        self.first_seen: dict[str, float] = {}
        self.printed: dict[str, tuple[str, float]] = {}
        self.drawn = 0
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Progress:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(timeout=10)
        self._show()

    def _run(self) -> None:
        while not self.stop.wait(1.0):
            self._show()

    def _show(self) -> None:
        try:
            status = ray.get(self.coordinator.status.remote(), timeout=5)
        except RayError:
            return  # the coordinator restarts, or the study is being shut down: the next look will tell
        lines: dict[str, str] = {}
        width = max(map(len, [*self.trials, *status["now"]]), default=0)
        for trial in [*self.trials, *(name for name in status["now"] if name not in self.trials)]:
            if trial in status["now"]:
                self.first_seen.setdefault(trial, time.time())
                lines[trial] = line(trial, status, time.time() - self.first_seen[trial], width)
        (self._redraw if self.stream.isatty() else self._append)(lines, status)

    def _redraw(self, lines: dict[str, str], status: dict[str, Any]) -> None:
        # A block taller than the screen can't be redrawn: finished trials beyond the last screenful are left out.
        shown = list(lines.values())[-40:]
        self.stream.write(f"\x1b[{self.drawn}F\x1b[J" if self.drawn else "")
        self.stream.write("\n".join(shown) + ("\n" if shown else ""))
        self.stream.flush()
        self.drawn = len(shown)

    def _append(self, lines: dict[str, str], status: dict[str, Any]) -> None:
        for trial, text in lines.items():
            stage = status["now"][trial]["stage"]
            last, when = self.printed.get(trial, ("", 0.0))
            if stage != last or (stage not in ENDED and time.time() - when > 60):
                self.printed[trial] = (stage, time.time())
                print(text, file=self.stream, flush=True)


def line(trial: str, status: dict[str, Any], elapsed: float, width: int = 0) -> str:
    """`epsilon=3-seed=0-1f2e3d4c  private_fit   42%  elapsed 1:20  to go 2:05  ε spent –`."""
    now = status["now"][trial]
    spent, detail = "–", ""
    if now["stage"] in ENDED:
        row = now["row"]
        spent = row["epsilon_spent"] if row["epsilon_spent"] is not None else "–"
        spent = f"{spent:.3g}" if isinstance(spent, float) else spent
        to_go = "0:00"
        detail = row["reason"] or "  ".join(f"{name} {value:.4g}" for name, value in row["metrics"].items())
        share = "    "
    else:
        fraction = status["fraction"].get(now["key"], 0.0)
        share = f"{fraction:4.0%}" if fraction else "   …"
        to_go = _to_go(now, fraction, status["first_told"].get(now["key"]), status["seconds"])
    clocks = f"elapsed {_clock(elapsed)}  to go {to_go}"
    return f"{trial:<{width}}  {now['stage']:<15}{share}  {clocks}  ε spent {spent}  {detail}".rstrip()


def _to_go(
    now: dict[str, Any], fraction: float, first_told: tuple[float, float] | None, seconds: dict[str, list[float]]
) -> str:
    """Time left: this stage by its pace since its first report (before that it waited for a worker, and a resumed one
    begins in the middle), later stages by what they took other trials ("?" while unknown)."""
    since, at = first_told or (0.0, fraction)
    left = (
        (time.time() - since) / (fraction - at) * (1 - fraction) if fraction > at else _mean(seconds.get(now["stage"]))
    )
    later = [_mean(seconds.get(name)) for name in ORDER[ORDER.index(now["stage"]) + 1 :]]
    known = [value for value in [left, *later] if value is not None]
    return _clock(sum(known)) + ("+" if len(known) <= len(later) else "") if known else "?"


def _mean(values: list[float] | None) -> float | None:
    return sum(values) / len(values) if values else None


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return (
        f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02}"
    )

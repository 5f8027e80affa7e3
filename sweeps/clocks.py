"""When the stages of a study began and ended, and how long the rest takes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wavedp import methods
from wavedp.chain import Stage, chain_of
from wavedp.config import TrialConfig

NOTHING: Mapping[str, float] = {}


@dataclass
class Clocks:
    """The coordinator's notes on stages, by key.

    begun: when a worker took it up. ended: when its result was there. told: the first and the last report of its
    worker, each (when, fraction done): a resumed stage begins in its middle. seconds: what it took to make, also in
    earlier runs of the study.
    """

    begun: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    told: dict[str, tuple[tuple[float, float], tuple[float, float]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def begin(self, key: str) -> None:
        """A worker took the stage up, perhaps in place of a dead one."""
        self.begun[key] = time.time()
        self.told.pop(key, None)

    def tell(self, key: str, fraction: float) -> None:
        """A worker is so far, 0 to 1."""
        now = (time.time(), fraction)
        self.told[key] = (self.told.get(key, (now,))[0], now)

    def end(self, key: str, seconds: float | None) -> None:
        """The stage's result is there. seconds: what it took, None when it was found in the store."""
        self.ended[key] = time.time()
        self.begun.setdefault(key, self.ended[key])
        if seconds is not None:
            self.seconds[key] = seconds

    def fraction(self, key: str) -> float:
        """How far the stage was at its last report."""
        return self.told[key][1][1] if key in self.told else 0.0

    def concurrency(self, now: float) -> float:
        """Stages that run at once: now, or on average since the first began, whichever is more."""
        if not self.begun:
            return 1.0
        running = len(self.begun.keys() - self.ended.keys())
        busy = sum(self.ended.get(key, now) - begun for key, begun in self.begun.items())
        return max(1.0, running, busy / max(now - min(self.begun.values()), 1e-9))

    def _pace(self, key: str) -> float | None:
        """Seconds of the whole stage at the pace between its first report and its last."""
        (since, at), (last, done) = self.told.get(key, ((0.0, 0.0), (0.0, 0.0)))
        return (last - since) / (done - at) if done > at else None

    def expected(self, kinds: Mapping[str, str]) -> dict[str, float]:
        """{kind of stage: seconds that one takes}: the mean of those made, or else the pace of those being made."""
        made = mean_by_kind(kinds, self.seconds.items())
        paces = ((key, pace) for key in self.told if (pace := self._pace(key)) is not None)
        return mean_by_kind(kinds, paces) | made

    def left(self, key: str, expected: float | None, now: float) -> float | None:
        """Seconds that a stage still takes; None while nothing tells."""
        if key in self.ended:
            return 0.0
        pace = self._pace(key)
        if pace is not None:
            last, done = self.told[key][1]
            return max(pace * (1 - done) - (now - last), 0.0)
        if expected is None:
            return None
        return max(expected - (now - self.begun.get(key, now)), 0.0)


@dataclass(frozen=True)
class ToGo:
    """Seconds left, and if nothing is missing from them."""

    seconds: float
    whole: bool

    def __str__(self) -> str:
        if self.whole:
            return clock(self.seconds)
        return f"≥ {clock(self.seconds)}" if self.seconds >= 1 else "?"


def kind(stage: Stage, trial: TrialConfig) -> str:
    """What a stage's seconds depend on most: the stage, and the methods that it runs."""
    found = stage.runs(trial) or [methods.generator(trial)]
    return " ".join([stage.name, *(method.name for method in found)])


def kinds(trials: Iterable[TrialConfig], keys: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """{key: kind} of every stage of these trials."""
    return {
        of[stage.name]: kind(stage, trial) for trial, of in zip(trials, keys, strict=True) for stage in chain_of(trial)
    }


def mean_by_kind(kinds: Mapping[str, str], seconds: Iterable[tuple[str, float]]) -> dict[str, float]:
    """{kind: mean of the seconds of its keys}."""
    found: dict[str, list[float]] = {}
    for key, value in seconds:
        if key in kinds:
            found.setdefault(kinds[key], []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def to_go(
    clocks: Clocks,
    chains: Sequence[Iterable[str]],
    kinds: Mapping[str, str],
    now: float,
    before: Mapping[str, float] = NOTHING,
) -> ToGo:
    """Time that the chains (the keys of each unfinished trial) still take: all their different stages, shared among as
    many as run at once, but no less than the longest chain. before: seconds of a kind in earlier studies."""
    expected = {**before, **clocks.expected(kinds)}
    left = {key: clocks.left(key, expected.get(kinds[key]), now) for key in {key for chain in chains for key in chain}}
    known = {key: seconds for key, seconds in left.items() if seconds is not None}
    longest = max((sum(known.get(key, 0.0) for key in chain) for chain in chains), default=0.0)
    return ToGo(max(longest, sum(known.values()) / clocks.concurrency(now)), len(known) == len(left))


def to_go_of_search(clocks: Clocks, rows: Sequence[Mapping[str, Any]], trials: int, now: float) -> ToGo:
    """The same for so many trials that are not chosen yet: each takes what the finished ones took, or no less than the
    stages that one of those in flight has behind it."""
    if not rows:
        behind = sum(clocks.seconds.values()) / max(clocks.concurrency(now), 1.0)
        return ToGo(trials * behind / clocks.concurrency(now), whole=trials == 0)
    mean = sum(sum(row["seconds"].values()) for row in rows) / len(rows)
    return ToGo(trials * mean / clocks.concurrency(now), whole=True)


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"

"""How long a plan takes on machines that one does not have yet: it is replayed with recorded stage times.

    python -m sweeps.run +sweep=full_grid plan=plan.json
    python -m sweeps.simulate plan.json --nodes 8 --cpus 16 --gpus 2 [--times runs/STUDY …] [--mean-hours 200]

Every stage takes what one like it took in a recorded study (sweeps.explain), on one of the nodes whose cores and GPUs
are free, in the order in which the trials ask; that is how Ray places them. Nothing is run. A node may die: what ran
there begins again on another, a private fit at its last checkpoint.

The machines of the records are not yours: give --speed for nodes that are so many times as fast.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sweeps.clocks import clock
from sweeps.explain import Times, recorded
from sweeps.plan import PlannedTrial, uncollected
from sweeps.settings import ROOT
from wavedp import chain
from wavedp.command import command
from wavedp.errors import UserError
from wavedp.run import read_plan

STARTING = 1.5  # seconds from a stage's request to its first work, where a worker with its packages is at hand
KEPT = 60.0  # seconds of work between two checkpoints, of which a death loses half on average
RESUMED = ("tokenizer", "pretrain", "private_fit", "upscaler", "upscaler_fit")  # stages with checkpoints


@dataclass
class Node:
    """A machine. free: its cores and GPUs that no stage holds. alive: False between its death and its return."""

    cpus: float
    gpus: float
    free: dict[str, float] = field(default_factory=dict)
    alive: bool = True
    runs: dict[str, float] = field(default_factory=dict)  # key of a stage: when it began

    def __post_init__(self) -> None:
        self.free = {"num_cpus": self.cpus, "num_gpus": self.gpus}

    def holds(self, asked: Mapping[str, float]) -> bool:
        """Whether the stage fits into what is free."""
        return self.alive and all(self.free[name] >= asked.get(name, 0) - 1e-9 for name in self.free)

    def take(self, asked: Mapping[str, float], sign: int = -1) -> None:
        for name in self.free:
            self.free[name] += sign * asked.get(name, 0)


@dataclass(frozen=True)
class Outcome:
    """seconds: until the last trial ended. busy: {stage: seconds on a node}. cpu, gpu: core and GPU seconds that stages
    held; cpus, gpus: those there were. lost: seconds of work that deaths cost."""

    seconds: float
    trials: int
    busy: dict[str, float]
    cpu: float
    gpu: float
    cpus: float
    gpus: float
    deaths: int
    lost: float

    def idle(self, kind: str) -> float:
        """Share of the machines' time that no stage held."""
        used, there = (self.gpu, self.gpus) if kind == "GPU" else (self.cpu, self.cpus)
        return 1 - used / there / self.seconds if there and self.seconds else 0.0


class Simulation:
    """One run of the trials. seconds: {stage key: what it takes}. asked: {stage: cores and GPUs}. at_once: trials that
    are walked at a time. mean_hours: between two deaths of a node, None for never; repair: seconds until it is back."""

    def __init__(
        self,
        trials: Sequence[PlannedTrial],
        seconds: Mapping[str, float],
        asked: Mapping[str, Mapping[str, float]],
        nodes: Sequence[Node],
        at_once: int,
        mean_hours: float | None = None,
        repair: float = 600.0,
        seed: int = 0,
    ) -> None:
        self.seconds, self.asked, self.nodes, self.at_once = seconds, asked, nodes, at_once
        self.mean_hours, self.repair, self.random = mean_hours, repair, random.Random(seed)
        self.left = iter(trials)
        self.now, self.deaths, self.lost = 0.0, 0, 0.0
        self.events: list[tuple[float, int, str, Any]] = []
        self.number = itertools.count()
        self.stage_of: dict[str, str] = {}
        self.queue: list[str] = []  # keys that wait for a node
        self.done: set[str] = set()
        self.waiting: dict[str, list[Iterator[str]]] = {}  # key: walks that go on once it is there
        self.whole = {key: STARTING + value for key, value in seconds.items()}
        self.rest = dict(self.whole)
        self.busy: dict[str, float] = {}
        self.walking = self.ended = 0

    def run(self) -> Outcome:
        """Until every trial has ended."""
        for node in self.nodes:
            self._may_die(node)
        self._begin_trials()
        self._place()
        while self.walking and self.events:
            self.now, _, kind, what = heapq.heappop(self.events)
            getattr(self, f"_{kind}")(what)
            self._begin_trials()
            self._place()
        held = {"num_cpus": 0.0, "num_gpus": 0.0}
        for stage, seconds in self.busy.items():
            for name in held:
                held[name] += seconds * self.asked[stage].get(name, 0)
        cpus, gpus = (sum(getattr(node, name) for node in self.nodes) for name in ("cpus", "gpus"))
        return Outcome(
            self.now, self.ended, self.busy, held["num_cpus"], held["num_gpus"], cpus, gpus, self.deaths, self.lost
        )

    def _begin_trials(self) -> None:
        while self.walking < self.at_once and (trial := next(self.left, None)) is not None:
            self.walking += 1
            self._go_on(self._walk(trial))

    def _walk(self, trial: PlannedTrial) -> Iterator[str]:
        """The keys that the trial waits for, one after another, as sweeps.trial does."""
        keys = trial.keys
        for stage in chain.chain_of(trial.config):
            for name in stage.inputs:
                yield keys[name]
            key = keys[stage.name]
            if key not in self.stage_of:
                self.stage_of[key] = stage.name
                self.queue.append(key)
        yield from keys.values()

    def _go_on(self, walk: Iterator[str]) -> None:
        for key in walk:
            if key not in self.done:
                self.waiting.setdefault(key, []).append(walk)
                return
        self.walking -= 1
        self.ended += 1

    def _place(self) -> None:
        """Give waiting stages to nodes, in the order in which they were asked for."""
        unplaced: list[str] = []
        queue, self.queue = self.queue, []
        for key in queue:
            asked = self.asked[self.stage_of[key]]
            node = next((each for each in self.nodes if each.holds(asked)), None)
            if node is None:
                unplaced.append(key)
                continue
            node.take(asked)
            node.runs[key] = self.now
            heapq.heappush(self.events, (self.now + self.rest[key], next(self.number), "finish", (key, node, self.now)))
        self.queue = unplaced + self.queue

    def _finish(self, what: tuple[str, Node, float]) -> None:
        key, node, began = what
        if node.runs.get(key) != began:  # the node died meanwhile
            return
        del node.runs[key]
        stage = self.stage_of[key]
        node.take(self.asked[stage], sign=1)
        self.busy[stage] = self.busy.get(stage, 0.0) + self.now - began
        self.done.add(key)
        for walk in self.waiting.pop(key, []):
            self._go_on(walk)

    def _may_die(self, node: Node) -> None:
        if self.mean_hours is not None:
            when = self.now + self.random.expovariate(1 / (3600 * self.mean_hours))
            heapq.heappush(self.events, (when, next(self.number), "die", node))

    def _die(self, node: Node) -> None:
        self.deaths += 1
        node.alive = False
        for key, began in node.runs.items():
            stage, worked = self.stage_of[key], self.now - began
            self.busy[stage] = self.busy.get(stage, 0.0) + worked
            again = min(worked, STARTING + KEPT / 2) if stage in RESUMED else worked
            self.rest[key] -= worked - again
            self.lost += again
            self.queue.insert(0, key)
            node.take(self.asked[stage], sign=1)
        node.runs = {}
        heapq.heappush(self.events, (self.now + self.repair, next(self.number), "return", node))

    def _return(self, node: Node) -> None:
        node.alive = True
        self._may_die(node)


def stage_seconds(trials: Sequence[PlannedTrial], times: Times, speed: float) -> tuple[dict[str, float], list[str]]:
    """{key: seconds} of every stage, and the names of stages of which no record tells: they count as 0."""
    found: dict[str, float] = {}
    unknown: set[str] = set()
    for trial in trials:
        for stage, key in trial.keys.items():
            if key not in found:
                seconds = times.of(stage, trial)
                if seconds is None:
                    unknown.add(stage)
                found[key] = (seconds or 0.0) / speed
    return found, sorted(unknown)


def resources(gpus: float) -> dict[str, dict[str, float]]:
    """{stage: cores and GPUs}, as conf/ray/cluster.yaml asks for them; no GPU where there is none."""
    told = yaml.safe_load((ROOT / "conf" / "ray" / "cluster.yaml").read_text(encoding="utf-8"))["stages"]
    asked = {name: dict(told.get(name, {"num_cpus": 1})) for name in chain.NAMES}
    return asked if gpus else {name: {**each, "num_gpus": 0} for name, each in asked.items()}


def require_room(asked: Mapping[str, Mapping[str, float]], nodes: Iterable[Node], stages: Iterable[str]) -> None:
    """Raises UserError for a stage that no node can run."""
    nodes = list(nodes)
    for stage in stages:
        if not any(node.holds(asked[stage]) for node in nodes):
            raise UserError(
                f"stage {stage} asks for {asked[stage].get('num_cpus', 0):g} cores and "
                f"{asked[stage].get('num_gpus', 0):g} GPUs, which no node has: give more of them with --cpus or --gpus."
            )


def told(outcome: Outcome, unknown: Sequence[str]) -> str:
    """The outcome as text."""
    lines = [f"{outcome.trials} trials in {clock(outcome.seconds)} (h:mm:ss)"]
    for kind, held, there in (("core", outcome.cpu, outcome.cpus), ("GPU", outcome.gpu, outcome.gpus)):
        if there:
            idle = outcome.idle("GPU" if kind == "GPU" else "CPU")
            lines.append(f"  {there:g} {kind}s: {held / 3600:.2f} {kind} hours held, {idle:.0%} of their time idle")
    if outcome.deaths:
        lines.append(f"  {outcome.deaths} deaths of a node, {clock(outcome.lost)} of work done twice")
    lines += [f"  {stage:<15} {clock(seconds):>9}" for stage, seconds in outcome.busy.items()]
    if unknown:
        lines.append(f"No record tells how long {', '.join(unknown)} take: they count as nothing. Give --times STUDY.")
    return "\n".join(lines)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m sweeps.simulate", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("plan", type=Path, help="written by python -m sweeps.run +sweep=NAME plan=FILE")
    parser.add_argument("--nodes", type=int, default=1, help="machines (%(default)s)")
    parser.add_argument("--cpus", type=float, default=2, help="cores of each (%(default)s)")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of each (%(default)s)")
    parser.add_argument("--at-once", type=int, default=64, help="ray.max_concurrent_trials (%(default)s)")
    parser.add_argument("--times", type=Path, nargs="+", help="studies whose times count (those in runs/ and results/)")
    parser.add_argument("--speed", type=float, default=1.0, help="of a node, in that of the records' (%(default)s)")
    parser.add_argument("--mean-hours", type=float, help="between two deaths of a node (none dies)")
    parser.add_argument("--seed", type=int, default=0, help="of those deaths (%(default)s)")
    chosen = parser.parse_args(arguments)
    for name in ("nodes", "cpus", "at_once", "speed", "mean_hours"):
        value = getattr(chosen, name)
        if value is not None and value <= 0:
            raise UserError(f"--{name.replace('_', '-')} {value:g} is not above 0.")
    with uncollected():
        trials = [PlannedTrial(each.id, each.axes, each.config, each.keys) for each in read_plan(chosen.plan)]
        asked = resources(chosen.gpus)
        nodes = [Node(chosen.cpus, chosen.gpus) for _ in range(chosen.nodes)]
        require_room(asked, nodes, {stage for trial in trials for stage in trial.keys})
        times = Times(chosen.times or recorded(Path("runs").absolute() / "any"))
        seconds, unknown = stage_seconds(trials, times, chosen.speed)
        outcome = Simulation(trials, seconds, asked, nodes, chosen.at_once, chosen.mean_hours, seed=chosen.seed).run()
    print(told(outcome, unknown))
    return 0


if __name__ == "__main__":
    sys.exit(main())

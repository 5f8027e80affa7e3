"""What a study would do, in sentences (explain=true): what runs, what is private, what it costs, how long it takes.

Nothing is run or written. Times are those of recorded studies, here and in results/: of the very stage where one made
it, else the mean of stages with the same settings but for ε and the seed. The text says that other machines took them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sweeps.clocks import kind, mean_by_kind
from sweeps.plan import PlannedTrial, uncollected
from sweeps.settings import ROOT
from sweeps.summary import composed_lines, private_fits
from wavedp import chain, methods, metrics
from wavedp.config import TrialConfig, settings_of
from wavedp.errors import InfeasibleError, UserError
from wavedp.jsonl import read_lines
from wavedp.store import Store

PUBLIC = ("tokenizer", "pretrain", "upscaler")  # stages that train on public images


@uncollected()
def explain(
    question: str,
    trials: list[PlannedTrial],
    store: Store,
    infeasible: dict[str, InfeasibleError],
    recorded: Iterable[Path],
    workers: int,
) -> str:
    """The text. question: the sweep's. recorded: folders of studies, whose times are taken. workers: stages at once."""
    feasible = [trial for trial in trials if trial.id not in infeasible]
    paragraphs = {
        "Question": question,
        "What runs": _runs(trials, infeasible),
        "What is private": _private(feasible),
        "What is public": _public(feasible),
        "What it costs": _costs(feasible, store),
        "How long": _time(feasible, store, Times(recorded), workers),
        "What it shows": _shows(feasible),
    }
    return "\n\n".join(f"{title}\n{_indented(text)}" for title, text in paragraphs.items())


READ = {
    "reference": ("metrics",),
    "tokenizer": ("tokenizer", "public"),
    "pretrain": ("tokenizer", "generator", "diffusion", "public"),
    "private_fit": ("tokenizer", "generator", "diffusion", "privacy", "level"),
    "coarse_samples": ("tokenizer", "generator", "diffusion", "sampling", "level"),
    "upscaler": ("upscaler", "public"),
    "upscaler_fit": ("upscaler", "privacy"),
    "upscale": ("upscaler", "sampling", "level"),
    "evaluate": ("metrics",),
}
"""The sections that a stage's time depends on, beside the data set."""
ELSEWHERE = ("epsilon", "delta", "home", "cache", "path", "ship")  # fields that no time depends on


class Times:
    """Seconds of stages in recorded studies."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.exact: dict[str, float] = {}
        self.alike: dict[str, list[float]] = defaultdict(list)
        for folder in folders:
            for row in _rows(folder / "trials.jsonl"):
                for stage, seconds in row["seconds"].items():
                    self.exact[row["keys"].get(stage, "")] = seconds
                    if row.get("settings"):  # older studies do not say them
                        self.alike[_kind(stage, row["settings"])].append(seconds)

    def of(self, stage: str, trial: PlannedTrial) -> float | None:
        """Seconds that the trial's stage took, or stages like it on average; None if none is recorded."""
        if trial.keys[stage] in self.exact:
            return self.exact[trial.keys[stage]]
        found = self.alike.get(_kind(stage, settings_of(trial.config)))
        return sum(found) / len(found) if found else None

    def by_kind(self, trials: Iterable[PlannedTrial]) -> dict[str, float]:
        """{kind of stage (sweeps.clocks): seconds}, of those of these trials whose seconds are recorded."""
        kind_of: dict[str, str] = {}
        seconds: dict[str, float] = {}
        for trial in trials:
            for stage in chain.chain_of(trial.config):
                key, taken = trial.keys[stage.name], self.of(stage.name, trial)
                if taken is not None:
                    kind_of[key], seconds[key] = kind(stage, trial.config), taken
        return mean_by_kind(kind_of, seconds.items())


def recorded(folder: Path) -> list[Path]:
    """The studies whose times are known: those beside a study's folder, and the published ones."""
    return [*(ROOT / "results").glob("*"), *folder.parent.glob("*")]


def _kind(stage: str, settings: dict[str, Any]) -> str:
    """What a stage's time depends on, of a trial's settings that are not at their default."""
    return json.dumps([stage, *(_timed(settings.get(name)) for name in ("data", *READ[stage]))], sort_keys=True)


def _timed(section: Any) -> Any:
    if not isinstance(section, dict):
        return section
    return {name: value for name, value in section.items() if name not in ELSEWHERE} or None


def _rows(path: Path) -> list[dict[str, Any]]:
    """A study's rows; none of a file that cannot be read, whose study says so itself."""
    try:
        rows, _ = read_lines(path) if path.is_file() else ([], [])
    except UserError:
        return []
    return [row for row in rows if row.get("seconds") and row.get("keys")]


def _runs(trials: Sequence[PlannedTrial], infeasible: dict[str, InfeasibleError]) -> str:
    axes: dict[str, dict[str, None]] = {}
    for trial in trials:
        for axis, value in trial.axes.items():
            axes.setdefault(axis, {})[str(value)] = None
    said = "; ".join(f"{axis}: {', '.join(values)}" for axis, values in axes.items())
    out = f" {len(infeasible)} cannot: no noise meets their ε, or the budget is used up." if infeasible else ""
    return f"{_count(len(trials), 'trial')}, over {said}.{out}" if said else f"{_count(len(trials), 'trial')}.{out}"


def _private(trials: Sequence[PlannedTrial]) -> str:
    found: dict[str, None] = {}
    for trial in trials:
        for stage, use in chain.fit_kinds(trial.config).items():
            found[_use(trial.config, stage, use)] = None
    return "\n".join(found) or "Nothing: no trial fits a model to sensitive images."


def _use(trial: TrialConfig, stage: str, kind: str) -> str:
    """What a private stage does with sensitive images."""
    n = chain.n_records(trial.data, "train")
    _, side, _ = chain.coarse_shape(trial) if stage == "private_fit" else (0, trial.data.size, 0)
    what = f"the {side}×{side} part of {trial.data.name}'s {n:,} training images"
    who = methods.generator(trial).name if stage == "private_fit" else methods.upscaler(trial).name
    if kind == "public":
        return f"{who} at ε = 0 reads no sensitive image."
    if kind == "real":
        return f"{who} gives copies of {what}: an anchor, which is not private and not to be published."
    if kind == "nonprivate":
        return f"{who} is fitted to {what} without noise (ε = ∞): for comparison, not private."
    said = []
    for purpose, mechanism in chain.mechanisms(trial, stage).items():
        steps = f"{mechanism.steps:,} noisy steps" if mechanism.steps > 1 else "one noisy release"
        often = f", each of a record with probability {mechanism.sample_rate:.3g}" if mechanism.sample_rate < 1 else ""
        said.append(f"{steps}{often} ({purpose.replace('_', ' ')})")
    return f"{who} is fitted to {what} with differential privacy: {', and '.join(said)}."


def _public(trials: Sequence[PlannedTrial]) -> str:
    images = {config.name for trial in trials for config, _ in chain.public_reads(trial.config)}
    trained = {stage for trial in trials for stage in PUBLIC if stage in trial.keys}
    upscalers = dict.fromkeys(methods.upscaler(trial.config).name for trial in trials)
    first = (
        f"Public images ({', '.join(sorted(images))}) are all that {', '.join(s for s in PUBLIC if s in trained)} see."
        if images
        else "No public image is read."
    )
    return (
        f"{first}\nStage two ({', '.join(upscalers)}) works on what was released: it costs no ε, nor does another one."
    )


def _costs(trials: Sequence[PlannedTrial], store: Store) -> str:
    private = private_fits(trials)
    if not private:
        return "No private release."
    there = sum(len(store.which(stage, {key})) for stage, key in private)
    made = f"{_count(len(private), 'private release')}, {len(private) - there} of them new; whoever sees all images:"
    looks = "Evaluation compares with real images; the ledger lists that look, and no ε covers it."
    return "\n".join([made, *composed_lines(private), looks])


def _time(trials: Sequence[PlannedTrial], store: Store, times: Times, workers: int) -> str:
    """Each stage that is to be made once, shared among the workers, but no less than the longest trial."""
    first: dict[tuple[str, str], PlannedTrial] = {}
    for trial in trials:
        for stage, key in trial.keys.items():
            first.setdefault((stage, key), trial)
    stages = {stage for stage, _ in first}
    there = {(stage, key) for stage in stages for key in store.which(stage, {k for s, k in first if s == stage})}
    asked = {place: times.of(place[0], trial) for place, trial in first.items() if place not in there}
    if not asked:
        return "No time: every stage is in the store."
    known = {place: seconds for place, seconds in asked.items() if seconds is not None}
    unknown = sorted({stage for stage, key in asked.keys() - known.keys()})
    longest = max(sum(known.get(place, 0.0) for place in trial.keys.items()) for trial in trials)
    total = max(longest, sum(known.values()) / workers)
    about = f"About {_spoken(total)} for {_count(len(asked), 'stage')} on {_count(workers, 'core')}" if known else ""
    by = f"{about}, by what such stages took in recorded studies, on the machines of that time." if about else ""
    lacks = (
        f"No record tells how long {', '.join(unknown)} take{'s' if len(unknown) == 1 else ''} here." if unknown else ""
    )
    return "\n".join(filter(None, [by, lacks]))


def _shows(trials: Sequence[PlannedTrial]) -> str:
    if not trials:
        return "Nothing: no trial is feasible."
    config = trials[0].config
    split = config.metrics.reference_split
    name = metrics.primary(config.metrics, chain.n_records(config.data, split))
    others = [begins for begins in metrics.described(config.metrics) if not name.startswith(begins)]
    more = f" Also measured: {', '.join(others)}." if others else ""
    return (
        f"{name} against ε, a line for each series, in report.html and figures/ of the study's folder; its samples in "
        f"rows of ε with the same noise in a column.{more}"
    )


def _indented(text: str) -> str:
    return "\n".join(f"  {line.strip()}" for line in text.splitlines())


def _spoken(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return "a minute"
    return f"{minutes} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"

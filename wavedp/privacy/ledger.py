"""The privacy ledger of a study: one line per use of sensitive images, and the epsilon that they add up to.

    python -m wavedp.privacy.ledger runs/<study> [runs/<other> ...]

A line is a flat JSON object with the fields of `FIELDS`. kind: dp_sgd (many noisy steps), gaussian (one noisy
release), the name that another mechanism gives itself (accounting.Mechanism.kind), or nonprivate (a look without noise:
the epsilon = inf reference, statistics that metrics need). Epsilon is a number, or "inf" (JSON has no infinity).
Whoever runs a study appends lines; this module only reads them.

Formal guarantee. `composed_epsilon` bounds, for each dataset, how much publishing the output of *every* private line
reveals about one of its records (add_or_remove_one, at the stated delta). No bound covers nonprivate lines; they are
always listed next to it.

    case                                    result
    several lines with one stage key        one release with the trials of all lines (a release is reused, not repeated)
    ... with different release ids          one release per id: the stage was made again from other public weights or
                                            by code that rounds differently, and new noise hides the same records
    ... one of which has no release id      a separate release, since nothing shows that it is the same (a line of an
                                            earlier version, or a look without noise)
    ... that disagree about the mechanism   UserError: one key is one mechanism
    two stage keys, equal mechanisms        two releases, both counted
    lines of one dataset with two deltas    UserError until one delta is given: their epsilons cannot be added
    a nonprivate line                       never in the sum, always in the summary
    a broken line, a last line cut off      UserError: a release may be missing from every sum
    one stage key in two studies            one release, shared by both
    a dataset that holds equal records      epsilon is for one copy; the summary also states it for all copies together
    two dataset fingerprints                no sum: they are assumed to have no record in common (a subset of a dataset
                                            is not recognised)
    best of K trials                        refused for a fixed grid: the bound needs a random K
    best of a random K, one mechanism       its price (wavedp.privacy.selection), valid if only the best trial is seen
    ... of several mechanisms               refused: the mechanisms drawn are not all that could have been drawn
    ... a look without noise at its data    refused: no ε covers the data that decided which trial is best
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wavedp.command import command
from wavedp.config import PrivacyConfig
from wavedp.errors import UserError
from wavedp.jsonl import read_lines
from wavedp.privacy import accounting, selection
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.groups import group_epsilon
from wavedp.study_file import read_meta

Line = dict[str, Any]

FIELDS = (
    "kind", "purpose", "sample_rate", "noise_multiplier", "steps", "delta", "epsilon", "accountant", "relation",
    "dataset", "n_records", "max_grad_norm", "stage_key", "release", "trials", "time", "copies",
)  # fmt: skip
"""The fields of a line, in order; null where they do not apply to a nonprivate look."""

_MECHANISM = ("kind", "purpose", "sample_rate", "noise_multiplier", "steps", "delta", "dataset")


def line_for_fit(
    mechanism: Mechanism,
    config: PrivacyConfig,
    *,
    dataset: str,
    n_records: int,
    stage_key: str,
    trials: Sequence[str],
    purpose: str = "private_fit",
    release: str | None = None,
    time: str | None = None,
    copies: int = 1,
) -> Line:
    """The line of one fit or one noisy statistic, with the epsilon that it spends by PLD at the config's delta.

    dataset: fingerprint of the records. release: id of the noise (None: unknown). trials: ids of the trials that use
    it. time: ISO 8601 UTC (None: now). copies: how often the set holds the record that it holds most often; epsilon is
    for one of them. max_grad_norm is stated for kind dp_sgd only: other mechanisms clip no gradient.
    A mechanism without noise becomes a nonprivate line that keeps its sample rate and steps.
    """
    delta = accounting.delta(config, n_records)
    epsilon = accounting.compose([mechanism], delta)
    kind = "nonprivate" if math.isinf(epsilon) else mechanism.ledger_kind
    return {
        "kind": kind,
        "purpose": purpose,
        "sample_rate": mechanism.sample_rate,
        "noise_multiplier": mechanism.noise_multiplier,
        "steps": mechanism.steps,
        "delta": delta,
        "epsilon": "inf" if math.isinf(epsilon) else epsilon,
        "accountant": config.accountant,
        "relation": config.relation,
        "dataset": dataset,
        "n_records": n_records,
        "max_grad_norm": config.max_grad_norm if kind == "dp_sgd" else None,
        "stage_key": stage_key,
        "release": release,
        "trials": list(trials),
        "time": time or _now(),
        "copies": copies,
    }


def line_nonprivate(
    purpose: str, *, dataset: str, n_records: int, stage_key: str, trials: Sequence[str], time: str | None = None
) -> Line:
    """The line of a look without noise, such as `fid_reference` or `downstream_test`: epsilon "inf", no mechanism."""
    line: Line = dict.fromkeys(FIELDS)
    return line | {
        "kind": "nonprivate",
        "purpose": purpose,
        "epsilon": "inf",
        "dataset": dataset,
        "n_records": n_records,
        "stage_key": stage_key,
        "trials": list(trials),
        "time": time or _now(),
    }


def read(path: Path) -> list[Line]:
    """The lines of a ledger file. Raises UserError naming the first line that is not a complete ledger line: what a
    torn line said may be a release, so no line is left out."""
    if not path.exists():
        raise UserError(f"There is no ledger at {path}: give a study's folder, such as results/eps_grid.")
    lines = []
    for row, place in zip(*read_lines(path, complete=True), strict=True):
        line = {"release": None, "copies": None} | row  # fields that earlier versions did not write
        for field in FIELDS:
            if field not in line:
                raise UserError(f"{place} is broken (field {field!r} is missing): restore the file from a backup.")
        lines.append({field: line[field] for field in FIELDS})
    return lines


def identity(line: Line) -> tuple[str, str, str | None]:
    """Purpose, stage key and noise id: lines that agree in all three are one release."""
    return line["purpose"], line["stage_key"], line.get("release")


def releases(lines: Sequence[Line]) -> list[Line]:
    """One line per release: lines of equal `identity` become one line with all their trials, in order.

    Raises UserError when two lines of one purpose and stage key disagree about the mechanism.
    """
    united: dict[tuple[str, str, str | None], Line] = {}
    first: dict[tuple[str, str], Line] = {}
    for line in lines:
        known = united.setdefault(identity(line), line | {"trials": []})
        same = first.setdefault((line["purpose"], line["stage_key"]), line)
        for field in _MECHANISM:
            if line[field] != same[field]:
                raise UserError(
                    f"Stage {line['stage_key']} is listed with {field}={same[field]!r} and with {line[field]!r}: "
                    f"one key is one mechanism, so give the second run a stage version of its own."
                )
        known["trials"] = known["trials"] + [trial for trial in line["trials"] if trial not in known["trials"]]
    return list(united.values())


def composed_epsilon(lines: Sequence[Line], delta: float | None = None) -> dict[str, float]:
    """Epsilon of all private releases together, by PLD, for each dataset fingerprint that has any.

    delta: at which to state it; None takes the delta that all lines of the dataset share (UserError when they differ).
    Nonprivate lines are not counted.
    """
    private: dict[str, list[Line]] = {}
    for line in releases(lines):
        if line["kind"] != "nonprivate":
            private.setdefault(line["dataset"], []).append(line)
    return {
        dataset: accounting.compose(
            [mechanism_of(line) for line in chosen],
            _common_delta(dataset, chosen) if delta is None else delta,
        )
        for dataset, chosen in private.items()
    }


def trial_epsilons(lines: Sequence[Line], delta: float | None = None) -> dict[str, float]:
    """Epsilon of each trial by itself: the composition of all releases that it uses, on the dataset where it is
    largest; inf if one of its fits has no noise. Trials that use no fit with a mechanism are left out."""
    fits: dict[str, list[Line]] = {}
    for line in releases(lines):
        if line["sample_rate"] is not None:
            for trial in line["trials"]:
                fits.setdefault(trial, []).append(line)
    return {
        trial: math.inf
        if any(line["kind"] == "nonprivate" for line in used)
        else max(composed_epsilon(used, delta).values())
        for trial, used in fits.items()
    }


def best_of_k(lines: Sequence[Line], axes: dict[str, Any], delta: float | None = None) -> str:
    """One sentence: the cost of publishing only the best trial, or the reason why it cannot be stated.

    axes: those of study.yaml; its search.random_k is the law of K.
    """
    random_k = (axes.get("search") or {}).get("random_k")
    if not random_k:
        return (
            "Best-of-K selection: refused. Its bound (Papernot & Steinke 2021, arXiv 2110.03620) needs a random number "
            "of trials and the publication of the best alone; a fixed grid has neither, so the composed epsilon holds."
        )
    runs = _runs([line for line in releases(lines) if line["kind"] != "nonprivate"])
    kinds = {tuple((line["dataset"], line["delta"], mechanism_of(line)) for line in run) for run in runs}
    if len(kinds) > 1:
        return (
            f"Best-of-K selection: refused. The runs are of {len(kinds)} mechanisms, and the bound is that of the "
            "worst that could have been drawn, which no ledger shows: keep epsilon, batch_size and steps fixed."
        )
    ((dataset, own_delta, _), *_), *_ = kinds
    if any(line["dataset"] == dataset and line["kind"] == "nonprivate" for line in lines):
        return (
            f"Best-of-K selection: refused. A look without noise at dataset {dataset[:12]} may have decided which "
            "trial is best, and no epsilon covers it: score trials on other records, or on public ones."
        )
    law, stated = selection.law_of(random_k), own_delta if delta is None else delta
    epsilon = selection.epsilon_of_best([[mechanism for *_, mechanism in kind] for kind in kinds], stated, law)
    return (
        f"Best of K ~ {law} trials: epsilon = {epsilon:.4g} at delta = {stated:.3g} (RDP; Papernot & Steinke 2021, "
        "arXiv 2110.03620), for whoever sees the best trial alone: not K, its seed, another trial or this ledger."
    )


def _runs(private: Sequence[Line]) -> list[list[Line]]:
    """Releases by run: those of one stage key, and with them those of a trial's other private stage."""
    runs: list[list[Line]] = []
    for line in private:
        for run in runs:
            beside = line["purpose"] not in {other["purpose"] for other in run}
            trials = {trial for other in run for trial in other["trials"]}
            if line["stage_key"] == run[0]["stage_key"] or (beside and trials & set(line["trials"])):
                run.append(line)
                break
        else:
            runs.append([line])
    return runs


def cross_check(lines: Sequence[Line]) -> str:
    """The epsilon of every private release by two independent accountants, PLD (dp-accounting) and PRV (Opacus), or
    the reason why PRV gives none."""
    text = []
    for line in releases(lines):
        if line["kind"] != "nonprivate":
            run, delta = [mechanism_of(line)], line["delta"]
            found = f"epsilon = {accounting.spent(run, delta):.4g} (PLD)"
            try:
                found += f", {accounting.spent(run, delta, 'prv'):.4g} (PRV) at delta = {delta:.3g}"
            except UserError as reason:
                found += f" at delta = {delta:.3g}; not cross-checked: {reason}"
            text.append(f"{line['purpose']} {line['stage_key'][:12]}: {found}")
    return "\n".join(text)


def summary(lines: Sequence[Line], delta: float | None = None, axes: dict[str, Any] | None = None) -> str:
    """A text for people: every release, each trial, each dataset's composed epsilon and delta, the best of K (see
    best_of_k) and the looks without noise."""
    every = releases(lines)
    private = [line for line in every if line["kind"] != "nonprivate"]
    text = [f"{len(private)} private releases (PLD, add_or_remove_one)"]
    if private:
        text.append(
            f"{'epsilon':>9} {'delta':>9} {'q':>9} {'sigma':>8} {'steps':>6} {'trials':>6}  purpose, stage, dataset"
        )
    for line in private:
        text.append(
            f"{line['epsilon']:>9.4g} {line['delta']:>9.3g} {line['sample_rate']:>9.4g} "
            f"{line['noise_multiplier']:>8.4g} {line['steps']:>6} {len(line['trials']):>6}  {_place(line)}"
        )
    trials = trial_epsilons(lines, delta)
    if trials:
        text.append(f"{'epsilon':>9}  of each trial, for whoever sees it alone")
    text += [f"{epsilon:>9.4g}  {trial}" for trial, epsilon in trials.items()]
    text += _totals(lines, delta)
    if private:
        text.append(best_of_k(lines, axes or {}, delta))
    looks = [line for line in every if line["kind"] == "nonprivate"]
    text.append(f"{len(looks)} looks without noise, in no epsilon above")
    for line in looks:
        text.append(f"{'inf':>9} {len(line['trials']):>42}  {_place(line)}")
    return "\n".join(text)


def together(studies: Sequence[Sequence[Line]], delta: float | None = None) -> str:
    """The releases of several studies composed, dataset by dataset; a release that several studies use counts once."""
    every = [line for lines in studies for line in lines]
    shared = sum(map(len, map(releases, studies))) - len(releases(every))
    return "\n".join([f"{len(studies)} studies together, {shared} lines of them in common", *_totals(every, delta)])


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the summary of each study's ledger, and what several cost together; returns 2, after one sentence of
    explanation, when a ledger cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m wavedp.privacy.ledger", description="What did a study really cost?"
    )
    parser.add_argument("studies", metavar="study", type=Path, nargs="+", help="folder that holds ledger.jsonl")
    parser.add_argument("--delta", type=float, help="state the composed epsilon at this delta")
    options = parser.parse_args(arguments)
    folders: list[Path] = list(dict.fromkeys(options.studies))
    ledgers = [read(folder / "ledger.jsonl") for folder in folders]
    for folder, lines in zip(folders, ledgers, strict=True):
        if len(folders) > 1:
            print(f"\n{folder}")
        print(summary(lines, options.delta, read_meta(folder).get("axes")))
    if len(folders) > 1:
        print("\n" + together(ledgers, options.delta))
    return 0


def _totals(lines: Sequence[Line], delta: float | None) -> list[str]:
    """One sentence for each dataset: all its releases composed."""
    private = [line for line in releases(lines) if line["kind"] != "nonprivate"]
    text = []
    for dataset, epsilon in composed_epsilon(lines, delta).items():
        mine = [line for line in private if line["dataset"] == dataset]
        stated = _common_delta(dataset, mine) if delta is None else delta
        text.append(
            f"All {len(mine)} releases of dataset {dataset[:12]} composed: "
            f"epsilon = {epsilon:.4g} at delta = {stated:.3g}."
        )
        copies = max(line["copies"] or 1 for line in mine)
        if copies > 1:
            together = group_epsilon([mechanism_of(line) for line in mine], stated, copies)
            text.append(
                f"It holds a record {copies} times, and whoever is in all {copies} has epsilon = {together:.4g} at the "
                "same delta."
            )
    return text


def mechanism_of(line: Line) -> Mechanism:
    """The mechanism of a line's fit or statistic."""
    kind = "" if line["kind"] == "nonprivate" else line["kind"]
    return Mechanism(line["sample_rate"], line["noise_multiplier"], line["steps"], kind)


def _common_delta(dataset: str, lines: Sequence[Line]) -> float:
    deltas = {line["delta"] for line in lines}
    if len(deltas) > 1:
        listed = ", ".join(f"{value:.3g}" for value in sorted(deltas))
        raise UserError(
            f"Dataset {dataset} has releases at delta = {listed}: state the total at one of them (--delta)."
        )
    return deltas.pop()


def _place(line: Line) -> str:
    return f"{line['purpose']}, {line['stage_key'][:12]}, {line['dataset'][:12]}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(main())

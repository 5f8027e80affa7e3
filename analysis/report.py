"""Print the summary of a study:  python -m analysis.report runs/<study>

The table of the primary metric, the three epsilons (one trial, all releases, best of K), and the paths of the files.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis import captions
from analysis.load import Study, load
from analysis.price import composed, releases
from analysis.replicates import epsilon_text
from analysis.tables import table
from wavedp.command import command

SHOWN = (".md", ".html", ".png")


def report(folder: str | Path) -> str:
    """Return the summary as text, paths last. Raises UserError as `load` does."""
    study = load(folder)
    metric = [study.metric()] if study.metrics else []
    counts = {status: sum(t.status == status for t in study.trials) for status in ("done", "failed", "infeasible")}
    trials = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    paths = [
        p for p in (study.folder / "results.md", *sorted((study.folder / "figures").glob("*"))) if p.suffix in SHOWN
    ]
    listed = "\n".join(f"  {path}" for path in [study.folder / "trials.jsonl", study.folder / "ledger.jsonl", *paths])
    return f"{study.name}: {trials}\n\n{table(study, metric)}\n{epsilons(study)}\n\nfiles\n{listed}\n"


def epsilons(study: Study) -> str:
    """State the study's privacy loss in the three senses that must not be confused, one line each, and its notes."""
    lines = releases(study)
    notes = [captions.privacy_sentence(study), captions.nonprivate_sentence(study)]
    if lines:
        spent = [t.epsilon_spent for t in study.done if t.epsilon_spent and math.isfinite(t.epsilon_spent)]
        span = " to ".join(dict.fromkeys(epsilon_text(bound(spent)) for bound in (min, max) if spent))
        prices = {
            "one trial": f"ε = {span}: for whoever sees that trial alone" if spent else "no private trial has finished",
            "whole study": f"ε = {epsilon_text(composed(lines))}: {captions.count_text(len(lines))} composed",
            **best_of_k(study, lines),
        }
        notes = [
            *(f"{name:<12} {price}" for name, price in prices.items()),
            *notes,
            f"every line:  python -m wavedp.privacy.ledger {study.folder}",
        ]
    return "\n".join(["privacy", *(f"  {note}" for note in notes)])


def best_of_k(study: Study, lines: list[dict[str, Any]]) -> dict[str, str]:
    """Return the ε of publishing only the best of K trials, or why none is claimed, as {label of the line: text}."""
    axes = study.meta.get("axes", {})
    if not (axes.get("search") or {}).get("random_k"):
        return {
            f"best of {len(study.trials)}": "not claimed: bounds for selection (arXiv 2110.03620) need a random number",
            "": "of trials and one published output; this number was fixed, and all are here",
        }
    from wavedp.privacy import ledger  # the accountant's libraries take seconds to import

    return {"best of K": ledger.best_of_k(study.ledger, axes, max(line["delta"] for line in lines))}


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="runs/<study>")
    print(report(parser.parse_args(arguments).folder), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

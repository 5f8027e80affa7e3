"""Print the summary of a study and write its page:  python -m analysis.report runs/<study> [more studies] [-o FILE]

The table of the primary metric, the three epsilons (one trial, all releases, best of K), and the paths of the files.
The page (analysis.page) is runs/<study>/report.html, one file that needs no network.
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
PAGE = "report.html"


def report(folder: str | Path) -> str:
    """Return the summary as text, paths last. Raises UserError as `load` does."""
    study = load(folder)
    metric = [study.metric()] if study.metrics else []
    counts = {status: sum(t.status == status for t in study.trials) for status in ("done", "failed", "infeasible")}
    trials = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    paths = [
        p
        for p in (study.folder / PAGE, study.folder / "results.md", *sorted((study.folder / "figures").glob("*")))
        if p.suffix in SHOWN and p.is_file()
    ]
    listed = "\n".join(f"  {path}" for path in [study.folder / "trials.jsonl", study.folder / "ledger.jsonl", *paths])
    return f"{study.name}: {trials}\n\n{table(study, metric)}\n{epsilons(study)}\n\nfiles\n{listed}\n"


def epsilons(study: Study) -> str:
    """State the study's privacy loss in the three senses that must not be confused, one line each, and its notes."""
    notes = [captions.privacy_sentence(study), captions.nonprivate_sentence(study)]
    if asked := prices(study):
        notes = [
            *(f"{name:<12} {price}" for name, price in asked.items()),
            *notes,
            f"every line:  python -m wavedp.privacy.ledger {study.folder}",
        ]
    return "\n".join(["privacy", *(f"  {note}" for note in notes)])


def prices(study: Study) -> dict[str, str]:
    """{of what: its ε}: one trial, the whole study, and the best of K; nothing without a private release."""
    lines = releases(study)
    if not lines:
        return {}
    spent = [t.epsilon_spent for t in study.done if t.epsilon_spent and math.isfinite(t.epsilon_spent)]
    span = " to ".join(dict.fromkeys(epsilon_text(bound(spent)) for bound in (min, max) if spent))
    return {
        "one trial": f"ε = {span}: for whoever sees that trial alone" if spent else "no private trial has finished",
        "whole study": f"ε = {epsilon_text(composed(lines))}: {captions.count_text(len(lines))} composed",
        **best_of_k(study, lines),
    }


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
    parser.add_argument("studies", type=Path, nargs="+", metavar="study", help="runs/<study>, one or several")
    parser.add_argument("-o", "--output", type=Path, help="the page (report.html in the first study's folder)")
    parser.add_argument("--serve", type=int, nargs="?", const=0, metavar="PORT", help="show them while they run (8780)")
    chosen = parser.parse_args(arguments)
    if chosen.serve is not None:
        from analysis.serve import PORT, serve

        serve(chosen.studies, chosen.serve or PORT)
        return 0
    from analysis.page import write_page  # which asks this module for prices

    path = write_page([load(folder) for folder in chosen.studies], chosen.output or chosen.studies[0] / PAGE)
    print("\n".join(map(report, chosen.studies)), end="")
    print(f"\npage: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""python -m sweeps.collect PLAN --store DIR [--results runs]: the records of a plan that python -m wavedp.run made.

For where Ray is not: an enclave, a borrowed GPU. Every trial whose artifacts are all in the store gets its row, its
ledger lines and its samples, as if the study's own command had run there; only seconds and memory are unknown. What a
trial still lacks is said. Figures need nothing but the folder: python -m analysis.figures runs/<study>.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweeps.copies import Copy, copy_name
from sweeps.lock import only_one
from sweeps.plan import PlannedTrial
from sweeps.records import Records, as_yaml, claim_folder
from sweeps.row import blank_row, finished
from wavedp.command import command
from wavedp.errors import UserError
from wavedp.files import write_atomically
from wavedp.run import SENSITIVE, at_home, read_plan
from wavedp.store import Store


def collect(plan: Path, store: Store, results: Path, home: str | None = None) -> tuple[Path, list[str], list[str]]:
    """Write the study's folder; returns it, the ids of the trials that are in it, and what each of the others lacks.

    home: where the datasets are (None: where the plan says). A release whose trial is unfinished is in the ledger all
    the same. Raises UserError for a file that is no plan or does not describe its study, and for a folder of another.
    """
    trials = [PlannedTrial(each.id, each.axes, at_home(each, home).config, each.keys) for each in read_plan(plan)]
    study = _study(plan)
    folder, there, missing = results / study["study"], [], []
    with only_one(folder):
        claim_folder(folder, study, [trial.id for trial in trials])
        copy = Copy(store, copy_name(study))
        copy.put_study(as_yaml(study))
        records = Records(folder, copy)
        for trial in trials:
            for stage in (name for name in SENSITIVE if name in trial.keys):
                records.put_ledger(store.json(stage, trial.keys[stage], "ledger") or [], [trial.id])
            absent = [stage for stage, key in trial.keys.items() if not store.has(stage, key)]
            if absent:
                missing.append(f"{trial.id}: {', '.join(absent)}")
                continue
            done, files = finished(trial, store)
            for name, content in files.items():
                write_atomically(folder / name, content)
            records.put_trial(blank_row(trial, study["commit"]) | done)
            there.append(trial.id)
    return folder, there, missing


def _study(plan: Path) -> dict[str, Any]:
    study = json.loads(plan.read_text(encoding="utf-8")).get("about")
    if not study:
        raise UserError(f"{plan} does not describe its study, so an older version wrote it: write it anew.")
    return study


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status is 3 while trials are missing."""
    parser = argparse.ArgumentParser(prog="python -m sweeps.collect", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("plan", type=Path, help="written by python -m sweeps.run +sweep=NAME plan=FILE")
    parser.add_argument("--store", default=".wavedp/store", help="what python -m wavedp.run wrote to (%(default)s)")
    parser.add_argument("--results", type=Path, default=Path("runs"), help="where the study's folder is (%(default)s)")
    parser.add_argument("--home", help="where the datasets are on this machine (what the plan says)")
    chosen = parser.parse_args(arguments)
    folder, there, missing = collect(chosen.plan, Store(chosen.store), chosen.results.absolute(), chosen.home)
    for line in missing:
        print(f"not finished: {line}")
    print(f"{len(there)} of {len(there) + len(missing)} trials are in {folder}: python -m analysis.figures {folder}")
    return 3 if missing else 0


if __name__ == "__main__":
    sys.exit(main())

"""What a command does with a study's folder before it runs: hold it, and begin with every release that counts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweeps.copies import Copy, copy_name
from sweeps.lock import only_one
from sweeps.plan import PlannedTrial
from sweeps.records import LEDGER, Records, as_yaml, claim_folder
from wavedp.files import require_writable
from wavedp.privacy import ledger
from wavedp.store import Store


@contextlib.contextmanager
def claimed(
    folder: Path, study: dict[str, Any], store_url: str, trials: list[PlannedTrial], every: list[str]
) -> Iterator[set[str]]:
    """Hold the study's folder, with its study.yaml and the ledger lines of what was released before, here or elsewhere;
    gives the trials that are settled (sweeps.records). trials: those to run. every: ids of all that the study plans.

    Raises UserError while another command holds it, for a folder of another study, and where nothing can be written.
    """
    store = Store(store_url)
    require_writable(folder, "results")
    store.require_writable()
    with only_one(folder):
        claim_folder(folder, study, every)
        copy = Copy(store, copy_name(study))
        copy.put_study(as_yaml(study))
        records = Records(folder, copy)
        for lines, users in records.find_releases(trials, store):
            records.put_ledger(lines, users)
        if records.ledger:
            records.save(LEDGER)
        copy.put_missing(records.trials.values(), records.ledger.values())
        yield records.settled(trials, store)


def before(
    folder: Path, study: dict[str, Any], store_url: str, trials: list[PlannedTrial]
) -> tuple[list[ledger.Line], set[str]]:
    """The ledger that a run of these trials would begin with, and those that are settled; nothing is written."""
    store = Store(store_url)
    records = Records(folder, Copy(store, copy_name(study)))
    found = [line for lines, _ in records.find_releases(trials, store) for line in lines]
    return ledger.releases([*records.ledger.values(), *found]), records.settled(trials, store)

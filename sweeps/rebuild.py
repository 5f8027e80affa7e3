"""python -m sweeps.rebuild runs/STUDY --store URL: make a study's records again of their copy in the store.

A row or line that the folder still has is kept; what it lacks is added; a last line that was cut off is replaced by
the copy's. Samples and figures come back when the study's own command is run again, which finds every stage.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sweeps.copies import FOLDER, Copy, copy_name
from sweeps.lock import only_one
from sweeps.records import LEDGER, TRIALS, recorded
from wavedp.command import command
from wavedp.errors import UserError
from wavedp.files import write_atomically
from wavedp.jsonl import read_jsonl, write_jsonl
from wavedp.privacy import ledger
from wavedp.store import Store
from wavedp.study_file import read_meta


def rebuild(folder: Path, store: Store, name: str | None = None) -> tuple[int, int]:
    """Write study.yaml, trials.jsonl and ledger.jsonl; the numbers of rows and lines. name: of the copy (None: the only
    one of this study's name). Raises UserError if there is none, or several."""
    copy = Copy(store, name or _found(folder, store))
    with only_one(folder):
        if not (folder / "study.yaml").exists():
            write_atomically(folder / "study.yaml", copy.study())
        rows = {row["trial"]: row for row in [*copy.trials(), *recorded(folder)]}
        lines = {ledger.identity(line): line for line in copy.ledger()}
        for line in _kept(folder / LEDGER, lines):
            known = lines.setdefault(ledger.identity(line), line)
            known["trials"] = sorted({*known["trials"], *line["trials"]})
        write_jsonl(folder / TRIALS, rows.values())
        write_jsonl(folder / LEDGER, lines.values())
    return len(rows), len(lines)


def _kept(path: Path, copied: dict[tuple[str, str, str | None], ledger.Line]) -> list[ledger.Line]:
    """The lines that the folder has. One that was cut off is given up only where the copy is whole, for it lists every
    other line. Raises UserError otherwise."""
    if not path.exists():
        return []
    try:
        return ledger.read(path)
    except UserError:
        kept = read_jsonl(path)
        if not copied or any(ledger.identity(line) not in copied for line in kept):
            raise
        return kept


def _found(folder: Path, store: Store) -> str:
    if (folder / "study.yaml").exists():
        return copy_name(read_meta(folder, ["study", "identity"]))
    names = [name for name in store.names(FOLDER) if name.rpartition("-")[0] == folder.name]
    if len(names) == 1:
        return names[0]
    if names:
        raise UserError(f"{store.root} has {len(names)} studies called {folder.name}: add --copy {' or '.join(names)}.")
    raise UserError(f"{store.root} has no records of {folder.name}: give the store that the study ran with.")


@command
def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status (2 after a UserError)."""
    parser = argparse.ArgumentParser(prog="python -m sweeps.rebuild", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="runs/STUDY, whose name is the study's")
    parser.add_argument("--store", default=".wavedp/store", help="the store that the study ran with (%(default)s)")
    parser.add_argument("--copy", help="its name under studies/, where several studies have this name")
    options = parser.parse_args(arguments)
    rows, lines = rebuild(options.folder.absolute(), Store(options.store), options.copy)
    print(f"{options.folder} has {rows} rows and {lines} ledger lines.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A study on three Ray nodes and an S3 server, struck at ten moments: are its records those of an undisturbed run?

    python tests/bench/kills.py [--folder /tmp/kills] [--only 3 7]

A worker process, a node, the head with the driver, or the store is struck while a stage is at work; a command that ends
is typed again. Compared are all rows, metrics included, and the ledger's lines: each release once. A node that dies
keeps its lease for 90 seconds, so this takes half an hour.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from breakable import Strike, records, run_struck

STUDY = ["+sweep=smoke", "sweep.grid.epsilon=[10]", "~sweep.grid.upscaler", "sweep.seeds=[0,1]", "privacy.steps=60"]
MOMENTS = [
    [],
    [Strike("worker", "tokenizer", 2)],
    [Strike("worker", "private_fit", 4)],
    [Strike("worker", "evaluate", 1)],
    [Strike("node", "pretrain", 1)],
    [Strike("node", "private_fit", 5)],
    [Strike("node", "evaluate", 1)],
    [Strike("head", "private_fit", 4)],
    [Strike("head", "evaluate", 0.5)],
    [Strike("store", "private_fit", 1)],
    [Strike("store", "evaluate", 0)],
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="for the studies (a temporary one)")
    parser.add_argument("--only", type=int, nargs="+", help="these moments, from 1")
    chosen = parser.parse_args()
    folder, wrong = chosen.folder or Path(tempfile.mkdtemp(prefix="kills-")), 0
    expected = None
    for number, strikes in enumerate(MOMENTS):
        if number and chosen.only and number not in chosen.only:
            continue
        print(
            f"{number:2} {', '.join(f'{each.victim} at {each.stage}' for each in strikes) or 'undisturbed'}", flush=True
        )
        rows = run_struck(folder / str(number), STUDY, strikes, log=lambda text: print(f"     {text}", flush=True))
        found = rows, records(folder / str(number), "ledger.jsonl")
        expected = expected or found
        releases = [(line["stage_key"], line["purpose"]) for line in found[1]]
        equal, once = found == expected, len(releases) == len(set(releases))
        wrong += not (equal and once)
        print(
            f"     {len(rows)} rows, {len(releases)} releases: records {'equal' if equal else 'DIFFER'}, "
            f"each release {'once' if once else 'MORE THAN ONCE'}",
            flush=True,
        )
    return wrong


if __name__ == "__main__":
    sys.exit(main())

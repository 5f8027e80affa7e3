"""The upscalers as a table: `python -m wavedp.upscalers`.

Its columns are the name, native factor, licence, origin, training set, and if the weights are on this machine. Where a
source is silent the table says `not stated`; nothing is guessed.
"""

from __future__ import annotations

import argparse
import sys

from wavedp import registry
from wavedp.command import command

COLUMNS = ("name", "factor", "licence", "origin", "trained on", "weights")


def table() -> list[tuple[str, ...]]:
    """One row of COLUMNS for each upscaler, in the order of the registry."""
    rows: list[tuple[str, ...]] = []
    for name in registry.names("upscaler"):
        method = registry.find("upscaler", name)
        origin = method.origin
        rows.append((name, method.factor, origin.licence, origin.source, origin.trained_on, method.found()))
    return rows


@command
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    rows = [COLUMNS, *table()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS) - 1)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))


if __name__ == "__main__":
    sys.exit(main())

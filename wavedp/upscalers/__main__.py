"""The upscalers as a table: `python -m wavedp.upscalers`.

Name, native factor, licence, origin, what it was trained on, and whether its weights are on this machine.
"""

from __future__ import annotations

import argparse

from wavedp.errors import UserError
from wavedp.upscalers import UPSCALERS, completion
from wavedp.upscalers.weights import ORIGINS, WEIGHTS, Origin, find_weights
from wavedp.weight_files import HUB_IDS

COLUMNS = ("name", "factor", "licence", "origin", "trained on", "weights")
_FREE = Origin("Apache-2.0 (this code)", "wavedp", "nothing")
_OURS = Origin("Apache-2.0 (this code)", "wavedp", "the study's public images")


def table() -> list[tuple[str, ...]]:
    """One row of COLUMNS for each upscaler, in the order of the registry."""
    rows: list[tuple[str, ...]] = []
    for name in (*UPSCALERS, *completion.NAMES):
        if name in WEIGHTS:
            weights = WEIGHTS[name]
            origin, factor, found = weights.origin, f"x{weights.factor}", _published(name)
        elif name in HUB_IDS:
            origin, factor, found = ORIGINS[name], "x4", _in_hub_cache(HUB_IDS[name])
        elif name == "spandrel":
            origin, factor, found = ORIGINS[name], "the file's", "upscaler.path"
        elif name in completion.NAMES:
            origin, factor, found = _OURS, "any 2^level", "trained by the study"
        else:
            origin, factor, found = _FREE, "x1" if name == "identity" else "any", "needs none"
        rows.append((name, factor, origin.licence, origin.source, origin.trained_on, found))
    return rows


def _published(name: str) -> str:
    try:
        find_weights(name)
    except UserError as error:
        return f"not found: {error}"
    return "found"


def _in_hub_cache(hub_id: str) -> str:
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(hub_id, "model_index.json")
    return "found" if isinstance(path, str) else f"not found: run hf download {hub_id}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    rows = [COLUMNS, *table()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS) - 1)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))


if __name__ == "__main__":
    main()

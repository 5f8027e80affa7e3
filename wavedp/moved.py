"""Commands that moved to another room: the old name still runs for one release, with a notice."""

import runpy
import sys


def run_moved(old: str, new: str) -> None:
    """Run `python -m new` in place of `python -m old`. The target is named by a string, because the old rooms must not
    import the rooms above them."""
    print(f"python -m {old} has moved: use python -m {new}.", file=sys.stderr)
    runpy.run_module(new, run_name="__main__", alter_sys=True)

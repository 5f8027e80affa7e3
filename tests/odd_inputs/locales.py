"""Locales that are not UTF-8, and names that are not text."""

import os
from pathlib import Path

from odd_inputs import Odd, command

C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LATIN = {"PYTHONIOENCODING": "latin-1"}
STUDY = "results/eps_grid_small"


def printed(module: str, *args: str, environment: dict[str, str], has: str) -> None:
    assert has in command(module, *args, environment=environment)


def name_of_bytes(folder: Path) -> str:
    """A folder whose name is Latin-1, in a UTF-8 locale."""
    made = os.fsencode(folder) + b"/caf\xe9"
    os.mkdir(made)
    return os.fsdecode(made)


CASES = [
    Odd(
        "a report on a Latin-1 terminal",
        lambda _: printed("analysis.report", STUDY, environment=LATIN, has="epsilon spent"),
    ),
    Odd(
        "a table in the C locale",
        lambda _: printed("wavedp.upscalers", environment=C, has="wavelet_detail"),
    ),
    Odd(
        "a dry run in the C locale",
        lambda folder: printed(
            "sweeps.run", "+sweep=smoke", "dry_run=true", f"store={folder}", environment=C, has="epsilon = 10"
        ),
    ),
    Odd(
        "a store whose name is no text",
        lambda folder: command("sweeps.run", "+sweep=smoke", "dry_run=true", f"store={name_of_bytes(folder)}"),
        ("caf\\udce9", "not text in this locale"),
    ),
]

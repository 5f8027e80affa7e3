"""What people type after `python -m sweeps.run`: values for what the sweep varies, names, misspellings."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from unittest import mock

from odd_inputs import Odd, Refused
from sweeps.run import main


def dry_run(folder: Path, *typed: str) -> str:
    """What the command prints when it is only planned, in this process. Raises Refused as `odd_inputs.command`."""
    printed, said = io.StringIO(), io.StringIO()
    places = [f"results={folder / 'results'}", f"store={folder / 'store'}", "dry_run=true"]
    with (
        mock.patch.object(sys, "argv", ["sweeps.run", *typed, *places]),
        mock.patch.dict(os.environ),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(said),
    ):
        status: object = None
        try:
            status = main()
        except SystemExit as end:
            status = end.code
    if status:
        raise Refused(said.getvalue())
    assert not (folder / "results").exists()
    return printed.getvalue()


def smoke(*typed: str, has: str = ""):
    def act(folder: Path) -> None:
        assert has in dry_run(folder, "+sweep=smoke", *typed)

    return act


CASES = [
    Odd("an ε that the sweep varies", smoke("privacy.epsilon=2", has="ε = 2 each by itself; all 1 composed: ε = 2 ")),
    Odd("an ε in a dict", smoke("privacy={epsilon: 2}", has="ε = 2 each by itself; all 1 composed: ε = 2 ")),
    Odd("Hydra's own hint", smoke("+epsilon=2", has="ε = 2 each by itself")),
    Odd("an ε below 0", smoke("epsilon=-1"), says=("privacy.epsilon=-1.0 must be at least 0",)),
    Odd("an upscaler that the sweep varies", smoke("upscaler=lanczos", has="2 trials")),
    Odd("an ε taken away", smoke("~privacy.epsilon"), says=("~privacy.epsilon takes away",)),
    Odd("two seeds", smoke("seed=1,2"), says=("seed=1,2 is several values", "sweep.seeds=[1,2]")),
    Odd("a multirun", smoke("-m"), says=("-m is Hydra's", "one command runs one")),
    Odd("a misspelt axis", smoke("sweep.grid.epsilom=[1]"), says=("epsilom", "did you mean epsilon?")),
    Odd("a misspelt preset", smoke("preset=gup"), says=("preset=gup is not an option", "did you mean gpu?")),
    Odd("no public set by that name", smoke("public=none"), says=("public=none", "public=null is none")),
    Odd("fewer samples than FID takes", smoke("sampling.n=32"), says=("fid_samples=64", "got 32")),
    Odd("a study outside results", smoke("study=../escaped"), says=("study='../escaped'", "has '/'")),
    Odd("a study without a name", smoke("study="), says=("study='' ", "is empty")),
    Odd("a study called by a year", smoke("study=2024", has="4 trials")),
    Odd(
        "a line separator in a value", smoke("sweep.grid.blur=['a\u2028b']"), says=(r"blur='a\u2028b' has a character",)
    ),
    Odd("a line separator in a name", smoke("sweep.grid.a\u2028b=[1]"), says=(r"a\u2028b=[1] can't be read",)),
]

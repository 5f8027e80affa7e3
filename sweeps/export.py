"""Hand over the whole synthetic set of a trial:  python -m sweeps.export runs/<study> --trial ID [--format png|npz|hf]

All images of the trial, of which samples/ keeps the first only, come from the study's store, with their labels or
prompts and a data card (wavedp.card). `python -m wavedp.sample` draws more of them at no ε.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from wavedp.card import Made
from wavedp.command import command
from wavedp.data.image_files import Form
from wavedp.errors import UserError
from wavedp.finished import open_trial
from wavedp.handover import check, hand_over
from wavedp.store import Store


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status, 2 after a UserError."""
    parser = argparse.ArgumentParser(prog="python -m sweeps.export", description=(__doc__ or "").split(":")[0])
    parser.add_argument("study", type=Path, help="runs/<study>")
    parser.add_argument("--trial", required=True, help="its id in trials.jsonl")
    parser.add_argument("--format", choices=get_args(Form), default="png", help="(png)")
    parser.add_argument("--to", type=Path, help="folder to write (export/<study>/<trial>-<format>)")
    parser.add_argument("--store", default=".wavedp/store", help="where the study's artifacts are (.wavedp/store)")
    parser.add_argument("--not-private", action="store_true", help="hand over sensitive images of generator=real")
    typed = list(arguments if arguments is not None else sys.argv[1:])
    chosen = parser.parse_args(typed)
    folder = chosen.to or Path("export", chosen.study.absolute().name, f"{chosen.trial}-{chosen.format}")
    try:
        finished = open_trial(chosen.study, chosen.trial)
        check(finished, folder, chosen.not_private)
        upscaled = finished.artifact("upscale", Store(chosen.store))
        command = "python -m sweeps.export " + shlex.join(typed)
        count = hand_over(
            finished, Made(finished.config, finished.row["keys"], command), upscaled, folder, chosen.format
        )
    except (UserError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(f"{count} images and their card (README.md) are in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Draw more images from a released model: they cost no ε, because drawing is post-processing of the release.

    python -m wavedp.sample runs/<study> --trial ID --n 5000 [--seed 7] [--format png|npz|hf] [--to FOLDER]

The stages coarse_samples and upscale run as in the study, with another number of images and another sampling seed; the
models come from the study's store, and none is trained. Names of trials are in the study's trials.jsonl. The folder
holds the images and a data card, whose ε is the release's (wavedp.card). Neither ray nor hydra is imported.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from wavedp import chain, stages
from wavedp.card import Made
from wavedp.command import command
from wavedp.data.image_files import Form
from wavedp.devices import chosen_device
from wavedp.errors import UserError
from wavedp.finished import FinishedTrial, open_trial
from wavedp.handover import check, hand_over
from wavedp.progress import printed
from wavedp.store import Artifact, Store

DRAWN = ("coarse_samples", "upscale")
NOT_READ = ("reference", "evaluate")


def draw(finished: FinishedTrial, n: int, seed: int, store: Store, device: str, command: str) -> tuple[Made, Artifact]:
    """n images of the trial's release by the sampling seed, and how they were made.

    Raises UserError for a number or seed that cannot be, for models that the store lacks, and where code or data would
    make another model than the released one.
    """
    if n < 1:
        raise UserError(f"--n {n} draws nothing: give 1 or more.")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed {seed} is out of range: give a number from 0 to 2^63 - 1.")
    present = [stage.name for stage in chain.chain_of(finished.config) if stage.name not in (*DRAWN, *NOT_READ)]
    finished.require_same_keys(present)
    for stage in present:
        finished.artifact(stage, store)
    config = replace(finished.config, sampling=replace(finished.config.sampling, n=n, seed=seed))
    for stage in DRAWN:
        artifact, _ = stages.make(stage, config, store, device, printed(stage))
    keys = {name: key for name, key in chain.keys(config).items() if name not in NOT_READ}
    return Made(config, keys, command), artifact


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status, 2 after a UserError."""
    parser = argparse.ArgumentParser(prog="python -m wavedp.sample", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", type=Path, help="runs/<study>")
    parser.add_argument("--trial", required=True, help="its id in trials.jsonl")
    parser.add_argument("--n", type=int, required=True, help="how many images")
    parser.add_argument("--seed", type=int, default=1, help="sampling.seed; the study's own images have 0 (1)")
    parser.add_argument("--format", choices=get_args(Form), default="png", help="(png)")
    parser.add_argument("--to", type=Path, help="folder to write (export/<study>/<trial>-n…-seed…-<format>)")
    parser.add_argument("--store", default=".wavedp/store", help="where the study's artifacts are (.wavedp/store)")
    parser.add_argument("--home", help="where the data is (what the study says)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (auto)")
    parser.add_argument("--not-private", action="store_true", help="hand over sensitive images of generator=real")
    typed = list(arguments if arguments is not None else sys.argv[1:])
    chosen = parser.parse_args(typed)
    name = f"{chosen.trial}-n{chosen.n}-seed{chosen.seed}-{chosen.format}"
    folder = chosen.to or Path("export", chosen.study.absolute().name, name)
    try:
        finished = open_trial(chosen.study, chosen.trial, chosen.home)
        check(finished, folder, chosen.not_private)
        command = "python -m wavedp.sample " + shlex.join(typed)
        made, upscaled = draw(
            finished, chosen.n, chosen.seed, Store(chosen.store), chosen_device(chosen.device), command
        )
        count = hand_over(finished, made, upscaled, folder, chosen.format)
    except (UserError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(f"{count} images of a release that was already made, at no further ε, and their card are in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

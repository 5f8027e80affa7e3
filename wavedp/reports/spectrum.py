"""A study's samples against its data, by the fineness of what they show (wavedp.metrics.power_spectrum).

    python -m wavedp.reports.spectrum runs/<study> [--home .wavedp/data]

Writes spectra.jsonl: a line for the data (the split and number of images that the study's FID is measured against) and
one for each finished trial whose samples were kept, pixels in [0, 1]. The data's spectrum reads sensitive images
without noise. Its ledger line goes to spectra_ledger.jsonl, because only the coordinator writes ledger.jsonl.

    n images, C channels, H W pixels
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavedp import data
from wavedp.command import command
from wavedp.config import DataConfig, from_dict
from wavedp.data.cache import UNREADABLE
from wavedp.errors import UserError
from wavedp.jsonl import read_jsonl
from wavedp.metrics.power_spectrum import ROUNDING, Spectrum, log_spectral_distance, spectrum
from wavedp.metrics.views import draw
from wavedp.privacy import ledger
from wavedp.store import write_jsonl
from wavedp.study_file import read_meta

TRIAL_FIELDS = (
    "trial", "status", "seed", "generator", "level", "blur", "upscaler", "epsilon", "epsilon_spent", "delta", "axes",
)  # fmt: skip
"""Fields that a line of spectra.jsonl copies from the trial's record, so that a figure needs no other file."""

NEEDED = (
    "study", "config.data", "config.privacy.accountant", "config.metrics.reference_split",
    "config.metrics.reference_samples",
)  # fmt: skip
"""Fields of study.yaml."""


def measure(folder: Path, home: str | None = None) -> tuple[list[dict[str, Any]], ledger.Line]:
    """Return the lines of spectra.jsonl, the data's first, and the ledger line for reading the data.

    home: folder of the data, overriding study.yaml. Raises UserError for a folder that is not a study, has no samples,
    or whose trials have different data.
    """
    meta, trials = _read_study(folder)
    config: DataConfig = from_dict(DataConfig, meta["config"]["data"])
    if home is not None:
        config = dataclasses.replace(config, home=home)
    split, count = (meta["config"]["metrics"][name] for name in ("reference_split", "reference_samples"))
    samples = {trial["trial"]: _samples(folder, trial, data.shape(config)) for trial in trials}
    real = spectrum(draw(torch.tensor(data.load(config, split).images), count))
    about: dict[str, Any] = {
        "study": meta["study"],
        "dataset": config.name,
        "split": split,
        "size": list(data.shape(config)),
    }
    about |= {"floor": ROUNDING, "accountant": meta["config"]["privacy"]["accountant"]}
    rows: list[dict[str, Any]] = [{"trial": None, **about, **_row(real)}]
    for trial in trials:
        made = spectrum(samples[trial["trial"]])
        distance = round(log_spectral_distance(made.power, real.power), 3)
        kept = {name: trial[name] for name in TRIAL_FIELDS if name in trial}
        rows.append({**kept, "log_spectral_distance": distance, **_row(made)})
    look = ledger.line_nonprivate(
        f"power spectrum of {real.n_images} {split} images",
        dataset=data.fingerprint(config, split),
        n_records=data.n_records(config, split),
        stage_key=trials[0]["keys"]["reference"],
        trials=[trial["trial"] for trial in trials],
    )
    return rows, look


def _row(found: Spectrum) -> dict[str, Any]:
    return {
        "n_images": found.n_images,
        "modes": found.modes.tolist(),
        **{
            name: [float(f"{value:.6g}") for value in getattr(found, name).tolist()]
            for name in ("frequencies", "power", "standard_error")
        },
    }


def _read_study(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read study.yaml, and the rows of the finished trials whose samples were kept."""
    for name in ("study.yaml", "trials.jsonl"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not a study, for it lacks {name}: give runs/<study>.")
    meta = read_meta(folder, NEEDED)
    rows = read_jsonl(folder / "trials.jsonl", needed=("trial", "status"))
    latest = {row["trial"]: row for row in rows if row["status"] == "done"}
    kept = [row for row in latest.values() if _path(folder, row).is_file()]
    if not kept:
        raise UserError(f"{folder / 'samples'} holds no .npz of a finished trial: run the study with samples kept.")
    moved = [axis for row in kept for axis in row["axes"] if axis.split(".")[0] == "data"]
    if moved:
        raise UserError(f"the trials of {folder} vary {moved[0]}, so they have no data in common: split the study.")
    return meta, kept


def _samples(folder: Path, trial: dict[str, Any], shape: tuple[int, int, int]) -> Tensor:
    """Read a trial's images, uint8 n C H W."""
    path = _path(folder, trial)
    try:
        images = torch.from_numpy(np.load(path)["images"])
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read ({error}): restore or remove it.") from error
    if tuple(images.shape[1:]) != shape:
        raise UserError(
            f"{path} holds images {tuple(images.shape[1:])} (C, H, W) and the data are {shape}: remove it, or restore "
            "the study.yaml that it was made with."
        )
    return images


def _path(folder: Path, trial: dict[str, Any]) -> Path:
    return folder / "samples" / f"{trial['trial']}.npz"


def _write_look(path: Path, look: ledger.Line) -> None:
    """Add the line to the file, replacing an earlier line of the same look."""
    known = ledger.read(path) if path.is_file() else []
    lines = {(line["purpose"], line["stage_key"]): line for line in [*known, look]}
    write_jsonl(path, lines.values())


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the command line described in the module docstring. Returns exit status 2 for a UserError."""
    parser = argparse.ArgumentParser(
        prog="python -m wavedp.reports.spectrum", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("study", type=Path, help="runs/<study>")
    parser.add_argument("--home", help="where the data is (what study.yaml says)")
    chosen = parser.parse_args(arguments)
    rows, look = measure(chosen.study, chosen.home)
    _write_look(chosen.study / "spectra_ledger.jsonl", look)  # before the results are written
    write_jsonl(chosen.study / "spectra.jsonl", rows)
    for row in rows[1:]:
        print(f"{row['log_spectral_distance']:7.3f} dB  {row['trial']}")
    path = chosen.study / "spectra_ledger.jsonl"
    print(f"The {look['purpose']} is a look without noise, which no epsilon covers: its line is in {path}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

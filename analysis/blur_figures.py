"""Draw blur and spectra:  python -m analysis.blur_figures runs/blur_forward [runs/<study> ...]

    curves    from curves.jsonl (python -m wavedp.reports.forward): f(i) and the width of the blur against time
    strips    from strips.npz (same command): public images on their way to noise
    reverse   from reverse.npz (python -m wavedp.reports.reverse): images on their way from noise
    spectra   from spectra.jsonl (python -m wavedp.reports.spectrum): see analysis.spectrum_figure

Every figure whose input file is in a folder is written to its figures/: curves and spectra as .html and .json, with a
browser also .png and .pdf (see analysis.figures), strips and reverse as .png.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wavedp.command import command, imports

with imports():
    import plotly.graph_objects as go

from analysis.colours import GREY, INK, PALETTE
from analysis.epsilon_axis import decimal_steps
from analysis.figures import write_figure
from analysis.load import sha256
from analysis.panels import lay_out, two_panels
from analysis.samples import picture_of
from analysis.spectrum_figure import spectra_data, spectra_figure
from wavedp.errors import UserError
from wavedp.jsonl import read_lines

LEAST_BLUR = 0.05  # pixels: start of the logarithmic axis of widths
NOTE_COLUMNS = 220  # characters


@dataclass(frozen=True)
class Curve:
    """One schedule: f(i) (None for heat) and the standard deviation of all blur so far in pixels, at times t."""

    name: str
    label: str
    times: list[int]
    f: list[float] | None
    blur_pixels: list[float]


@dataclass(frozen=True)
class Curves:
    """Contents of the figure `curves`. steps: T; base: standard deviation of the base kernel, pixels."""

    curves: list[Curve]
    steps: int
    base: float
    caption: str
    provenance: dict[str, Any]


def curves_data(path: Path) -> Curves:
    """Read curves.jsonl. Raises UserError for a broken line, or without any."""
    rows, _ = read_lines(path)
    if not rows:
        raise UserError(f"{path} holds no schedule: run python -m wavedp.reports.forward again.")
    first = rows[0]
    caption = (
        f"T = {first['num_train_timesteps']} steps (i = t + 1), {first['beta_schedule']} noise; base kernel: a sampled "
        f"Gaussian of {first['blur_sigma']:g} px, {first['blur_basis']} basis, computed at {first['size']}×"
        f"{first['size']} px. Left: blur of each step in units of the base kernel's variance; in brackets f_max. "
        f"triangular is linear up to T/2. heat has no f(i): its width rises to {first['heat_sigma_max']:g} px as sin². "
        f"Right: standard deviation of all blur so far, drawn from {LEAST_BLUR:g} px; none has no width."
    )
    curves = [Curve(row["blur_schedule"], label_of(row), row["times"], row["f"], row["blur_pixels"]) for row in rows]
    return Curves(curves, first["num_train_timesteps"], first["blur_sigma"], caption, {"curves_sha256": sha256(path)})


def curves_figure(data: Curves) -> go.Figure:
    """Draw `curves_data`: one colour per form of f(i), dashed when a form occurs a second time."""
    figure = two_panels("f(i), blur added by a step", "width of all blur, px (logarithmic)")
    forms = list(dict.fromkeys(curve.name for curve in data.curves if curve.name not in ("none", "heat")))
    colours = {"none": GREY, "heat": INK, **dict(zip(forms, PALETTE, strict=False))}
    seen: set[str] = set()
    for curve in data.curves:
        style = {
            "name": curve.label,
            "legendgroup": curve.label,
            "mode": "lines",
            "line": {"color": colours[curve.name], "dash": "dash" if curve.name in seen else "solid", "width": 2},
        }
        seen.add(curve.name)
        # A schedule without f(i) gets a trace without points, so that the legend lists every schedule.
        figure.add_scatter(x=curve.times, y=curve.f or [math.nan] * len(curve.times), row=1, col=1, **style)
        widths = [width if width > 0 else math.nan for width in curve.blur_pixels]
        figure.add_scatter(x=curve.times, y=widths, showlegend=False, row=1, col=2, **style)
    lay_out(figure, "Blur schedules", "time t", data.caption, data.provenance)
    most = max(width for curve in data.curves for width in curve.blur_pixels)
    low, high = np.log10([LEAST_BLUR, 1.25 * most]).tolist()
    figure.update_yaxes(type="log", range=[low, high], tickvals=decimal_steps(low, high), row=1, col=2)
    return figure


@dataclass(frozen=True)
class Strips:
    """Contents of strips.png and reverse.png: rows of cells uint8 [n C H W] under each schedule's heading, column
    headings, notes below."""

    blocks: dict[str, list[tuple[str, np.ndarray]]]
    columns: list[str]
    notes: list[str]


def strips_data(path: Path) -> Strips:
    """Read strips.npz. Signals are divided by √ᾱ, so that their row shows only blur; the other row shows noise too."""
    arrays = np.load(path)
    about = json.loads(arrays["about"].item())
    times, root = arrays["times"].tolist(), np.sqrt(arrays["alpha_bar"])[:, None, None, None]  # K 1 1 1
    blocks = {
        _heading(schedule): [
            ("noisy", _side_by_side(noisy)),
            ("signal", _side_by_side(signal / root)),
        ]
        for schedule, noisy, signal in zip(about["schedules"], arrays["noisy"], arrays["signal"], strict=True)
    }
    shown, first = about["images"], about["schedules"][0]
    note = (
        f"Records {', '.join(map(str, shown['records']))} of {shown['name']} ({shown['split']}, public), "
        f"{arrays['noisy'].shape[-1]} px, in [-1, 1]; T = {first['num_train_timesteps']}, {first['beta_schedule']} "
        f"noise, {first['blur_basis']} basis, one noise image (seed {about['noise_seed']}) for all; in "
        "brackets f_max. noisy: a u + s ε, clipped to [-1, 1]. signal: a u alone, divided by the root of ᾱ, "
        "so that only blur changes it."
    )
    return Strips(blocks, _columns(times, len(shown["records"])), _notes(note, path))


def reverse_data(path: Path) -> Strips:
    """Read reverse.npz."""
    arrays = np.load(path)
    about = json.loads(arrays["about"].item())
    blocks = {
        _heading(schedule): [("state", _side_by_side(noisy)), ("predicted", _side_by_side(predicted))]
        for schedule, noisy, predicted in zip(about["schedules"], arrays["noisy"], arrays["predicted"], strict=True)
    }
    first = about["schedules"][0]
    note = (
        f"Public models of {arrays['noisy'].shape[-1]} px, each of {about['train_steps']} training steps; "
        f"{about['steps']} steps of sampling from the same noise (seed {about['seed']}), "
        f"{len(arrays['times'])} of them shown; T = {first['num_train_timesteps']}, {first['beta_schedule']} noise, "
        f"{first['blur_basis']} basis; in brackets f_max. state: what the step starts from. predicted: the "
        "image that the model expects there. Both clipped to [-1, 1]."
    )
    return Strips(blocks, _columns(arrays["times"].tolist(), arrays["noisy"].shape[1]), _notes(note, path))


def render(folder: Path) -> list[Path]:
    """Write the figures of one folder and return their paths. Raises UserError when it holds nothing to draw."""
    figures = folder / "figures"
    written: list[Path] = []
    if (folder / "curves.jsonl").is_file():
        figures.mkdir(exist_ok=True)
        written += write_figure(curves_figure(curves_data(folder / "curves.jsonl")), figures / "curves")
    for name, read in (("strips", strips_data), ("reverse", reverse_data)):
        if (folder / f"{name}.npz").is_file():
            figures.mkdir(exist_ok=True)
            strips = read(folder / f"{name}.npz")
            picture_of(strips.blocks, strips.columns, strips.notes).save(figures / f"{name}.png", optimize=True)
            written.append(figures / f"{name}.png")
    if (folder / "spectra.jsonl").is_file():
        figures.mkdir(exist_ok=True)
        written += write_figure(spectra_figure(spectra_data(folder / "spectra.jsonl")), figures / "spectra")
    if not written:
        raise UserError(
            f"{folder} has none of curves.jsonl, strips.npz, reverse.npz and spectra.jsonl: run python -m "
            f"wavedp.reports.forward or reverse, or python -m wavedp.reports.spectrum {folder} for a study."
        )
    return written


def label_of(schedule: dict[str, Any]) -> str:
    """Name a schedule by its form and, where the form uses it, f_max: `quartic (0.140625)`."""
    name = str(schedule["blur_schedule"])
    return name if name in ("none", "heat") else f"{name} ({schedule['blur_f_max']:.3g})"


def _heading(schedule: dict[str, Any]) -> str:
    order = schedule["blur_order"].replace("_", " ")
    return label_of(schedule) if schedule["blur_schedule"] == "none" else f"{label_of(schedule)}, {order}"


def _columns(times: Sequence[int], n_images: int) -> list[str]:
    """Headings for the columns of `_side_by_side`."""
    heads = [f"t={t}" for t in times]
    return [*heads, *(["", *heads] * (n_images - 1))]


def _notes(note: str, path: Path) -> list[str]:
    return [*textwrap.wrap(note, NOTE_COLUMNS), f"{path.name} sha256 {sha256(path)}"]


def _side_by_side(states: np.ndarray) -> np.ndarray:
    """Convert n K C H W in [-1, 1] to uint8 cells: K columns per image, an empty column between images."""
    pixels = np.clip((states.astype(np.float64) + 1) * 127.5, 0, 255).round().astype(np.uint8)
    empty = np.full_like(pixels[0, :1], 255)
    return np.concatenate([part for each in pixels for part in (empty, each)][1:])


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line described in the module docstring. Returns exit status 2 for a UserError."""
    parser = argparse.ArgumentParser(prog="python -m analysis.blur_figures", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+", help="runs/blur_forward, runs/<study>")
    for folder in parser.parse_args(arguments).folders:
        print("\n".join(map(str, render(folder))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

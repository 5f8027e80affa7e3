"""Figure F4: what each blur schedule does to images: f(i), the width of all blur, and power spectra on the way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.blur_figures import Curve, curves_data, label_of
from analysis.load import sha256
from wavedp.errors import UserError


@dataclass(frozen=True)
class Passage:
    """Power spectra of the images that one schedule has blurred. power: [K F], by step and band, the mean left out."""

    label: str
    power: np.ndarray


@dataclass(frozen=True)
class Schedules:
    """Contents of the figure. base: nominal σ of the base kernel, pixels; shares: i / T of the K spectra; frequencies:
    F, cycles per pixel. passages: empty without strips.npz."""

    curves: list[Curve]
    steps: int
    base: float
    shares: list[float]
    frequencies: np.ndarray
    passages: list[Passage]
    caption: str
    provenance: dict[str, Any]


def schedules_data(folder: Path) -> Schedules:
    """Read curves.jsonl and strips.npz of `python -m wavedp.reports.forward`. Raises UserError without the first."""
    path, strips = folder / "curves.jsonl", folder / "strips.npz"
    if not path.is_file():
        raise UserError(f"{folder} has no curves.jsonl: run python -m wavedp.reports.forward --results {folder}.")
    curves = curves_data(path)
    steps, base = curves.steps, curves.base
    frequencies, shares, passages, said = _passages(strips, steps)
    caption = (
        f"Top: blur of step i of T = {steps}, in units of the variance v₀ of the base kernel (a sampled Gaussian of "
        f"σ = {base:g} px), and the standard deviation of all blur up to it; in brackets f_max; heat has no f(i).{said}"
    )
    sources = {f"{each.stem}_sha256": sha256(each) for each in (path, strips) if each.is_file()}
    return Schedules(curves.curves, steps, base, shares, frequencies, passages, caption, sources)


def _passages(path: Path, steps: int) -> tuple[np.ndarray, list[float], list[Passage], str]:
    if not path.is_file():
        return np.array([]), [], [], f" Spectra are left out: there is no {path.name}."
    import torch

    from wavedp.metrics.power_spectrum import band_powers, bands

    arrays = np.load(path)
    about = json.loads(arrays["about"].item())
    root = np.sqrt(arrays["alpha_bar"])[:, None, None, None]  # K 1 1 1
    states = torch.from_numpy(arrays["signal"].astype(np.float64) / root)  # P n K C H W
    _, frequencies, _ = bands(*states.shape[-2:])
    passages = []
    for schedule, one in zip(about["schedules"], states, strict=True):
        power = band_powers(one.flatten(0, 1)).unflatten(0, one.shape[:2]).mean(0)  # K F
        order = "" if schedule["blur_order"] == "coarse_to_fine" else ", reversed"
        passages.append(Passage(label_of(schedule) + order, power[:, 1:].numpy()))
    shown = about["images"]
    said = (
        f" Below: power of a mode of the blurred image, without noise and divided by √ᾱ, by radial "
        f"frequency, means over {states.shape[1]} images of {shown['name']} ({shown['split']}, public) in [-1, 1], "
        f"{states.shape[-1]} px, orthonormal DCT. reversed: the control that removes coarse modes first."
    )
    shares = [(t + 1) / steps for t in arrays["times"].tolist()]
    return frequencies[1:].numpy(), shares, passages, said

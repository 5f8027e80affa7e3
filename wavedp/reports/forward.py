"""Show the forward process of each blur schedule: its curves, and public images on their way to noise.

    python -m wavedp.reports.forward [--size 28] [--home .wavedp/data] [--results runs/blur_forward]

curves.jsonl has one line for each schedule of wavedp.reports.samplers (linear noise, T = 1000), with its fields and, at
each of a hundred `times` t,

    f                   blur of the step to t, in units of the base kernel's variance (null for heat, which has no f)
    blur_pixels         standard deviation of all blur up to t
    snr_low, snr_high   a²/s² averaged over the modes below a quarter of both axes' frequencies, and over the rest

strips.npz has the states of a few images at a few times under a few schedules, with the same noise image for all:

    noisy, signal       u_t = a u_0 + s ε and only a u_0, float16 [P n K C H W] for P schedules, n images, K times
    times, alpha_bar    [K]; a / √ᾱ is the factor that the blur applies to a mode
    about               JSON: the P schedules, and the images' data set and indices

The images are from Open Clip Art (public), or procedural if that is not on disk. No sensitive image is read, so no
ledger line is needed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavedp import data
from wavedp.command import command
from wavedp.config import DataConfig
from wavedp.diffusion.blur import (
    BlurOperator,
    BlurSchedule,
    blur_powers,
    effective_blur,
    log_alpha_bars,
)
from wavedp.errors import UserError
from wavedp.reports.samplers import SCHEDULES, low_modes
from wavedp.store import write_jsonl, write_npz

CURVE_POINTS, STRIP_POINTS = 100, 8
IMAGES, NOISE_SEED = 3, 0

STRIPS = (
    BlurSchedule(blur_schedule="none", blur_f_max=0.0),
    BlurSchedule(blur_schedule="quartic"),
    BlurSchedule(blur_schedule="quartic", blur_order="fine_to_coarse"),
    BlurSchedule(blur_schedule="log", blur_f_max=0.600625),
    BlurSchedule(blur_schedule="heat", blur_f_max=0.0),
)
"""Schedules of strips.npz: the paper's three, the control in reverse order, and heat."""


def curves(schedule: BlurSchedule, size: int) -> dict[str, Any]:
    """Compute one line of curves.jsonl, for images size × size."""
    times, low = _times(schedule, CURVE_POINTS), low_modes(size)
    log_a, log_s = BlurOperator(schedule, size, size).log_coefficients(times)
    snr = (2 * (log_a - log_s)).exp()  # B H W
    return {
        **dataclasses.asdict(schedule),
        "size": size,
        "times": times.tolist(),
        "f": None if schedule.blur_schedule == "heat" else _numbers(blur_powers(schedule)[times]),
        "blur_pixels": _numbers(effective_blur(schedule)[times]),
        "snr_low": _numbers(snr[:, low].mean(1)),
        "snr_high": _numbers(snr[:, ~low].mean(1)),
    }


def strips(schedule: BlurSchedule, images: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Return u_t and a u_0, each n K C H W, of images n C H W in [-1, 1] at K times. noise: white, C H W."""
    operator = BlurOperator(schedule, *images.shape[-2:])
    a, s = (log.exp()[:, None] for log in operator.log_coefficients(times))  # K 1 H W
    signal = a * operator.to_modes(images)[:, None]
    noisy = signal + s * operator.to_modes(noise)
    return operator.to_pixels(noisy), operator.to_pixels(signal)


def public_images(size: int, home: str) -> data.Dataset:
    """Load a few grey test images of Open Clip Art (public), or procedural ones, with a notice, if `home` lacks it."""
    config = DataConfig(name="openclipart", size=size, home=home, limit=IMAGES)
    try:
        data.n_records(config, "test")
    except UserError as error:
        print(f"Procedural images are shown: {error}", file=sys.stderr)
        config = dataclasses.replace(config, name="procedural")
    return data.load(config, "test")


def write_strips(path: Path, shown: data.Dataset) -> None:
    """Write strips.npz for these images."""
    images = torch.from_numpy(shown.images).double() / 127.5 - 1  # n C H W
    noise = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(NOISE_SEED), dtype=images.dtype)
    times = _times(STRIPS[0], STRIP_POINTS)
    noisy, signal = zip(*(strips(schedule, images, noise, times) for schedule in STRIPS), strict=True)
    about = {
        "schedules": [dataclasses.asdict(schedule) for schedule in STRIPS],
        "images": {"name": shown.name, "split": shown.split, "records": list(range(len(images)))},
        "noise_seed": NOISE_SEED,
    }
    write_npz(
        path,
        noisy=torch.stack(noisy).half().numpy(),
        signal=torch.stack(signal).half().numpy(),
        times=times.numpy(),
        alpha_bar=log_alpha_bars(STRIPS[0])[times + 1].exp().numpy(),
        about=np.array(json.dumps(about)),
    )


def _times(schedule: BlurSchedule, points: int) -> Tensor:
    """Return evenly spaced integer times from the first to the last."""
    return torch.linspace(0, schedule.steps - 1, points).round().long()


def _numbers(values: Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the command line described in the module docstring. Returns exit status 2 for a UserError."""
    parser = argparse.ArgumentParser(
        prog="python -m wavedp.reports.forward", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--size", type=int, default=28, help="pixels of a side (%(default)s)")
    parser.add_argument("--home", default=DataConfig().home, help="where Open Clip Art is (%(default)s)")
    parser.add_argument("--results", type=Path, default=Path("runs/blur_forward"))
    chosen = parser.parse_args(arguments)
    shown = public_images(chosen.size, chosen.home)
    rows = [curves(BlurSchedule(blur_schedule=name, blur_f_max=f_max), chosen.size) for name, f_max in SCHEDULES]
    write_jsonl(chosen.results / "curves.jsonl", rows)
    write_strips(chosen.results / "strips.npz", shown)
    print(f"{chosen.results}/curves.jsonl, strips.npz ({shown.name})")
    return 0


if __name__ == "__main__":
    sys.exit(main())

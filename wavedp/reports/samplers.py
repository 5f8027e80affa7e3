"""Measure the error of blur samplers on Gaussian data with the exact score, so that all error is the sampler's.

    python -m wavedp.reports.samplers [--size 32] [--steps 20 50] [--results runs/blur_samplers]

Data are Gaussian with independent modes, a 1/k² power spectrum (like photographs) and pixel variance 1/4. The best
denoiser is then one factor per mode, every sampler is linear, and the standard deviation it generates can be computed
exactly, without random numbers. blur_samplers.jsonl has one line for each blur schedule, sampler, grid and number of
steps:

    rms_std_error   root mean square over the modes of generated / true standard deviation - 1
    low, high       mean of that ratio over the modes below a quarter of both axes' frequencies, and over the rest

If the error does not fall with more steps, the cause is not the grid but the blur's first training step, which is too
large: times are integers, so no sampler can divide it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavedp.command import command
from wavedp.diffusion.scheduler import BlurDiffusionScheduler
from wavedp.store import write_jsonl

SCHEDULES: tuple[tuple[str, float], ...] = (
    ("none", 0.0),
    *((name, 0.140625) for name in ("quartic", "cubic", "quadratic", "triangular", "linear", "log")),
    ("log", 0.600625),
    ("heat", 0.0),
)
"""blur_schedule and blur_f_max of the rows; those of the paper are none, quartic and the second log."""

SAMPLERS = (
    *itertools.product(("reverse_diffusion", "ancestral"), ("uniform", "logsnr")),
    *itertools.product(("ddim", "dpmsolver++"), ("uniform", "quadratic", "logsnr", "blur_aware")),
)


def photograph_spectrum(height: int, width: int, pixel_variance: float = 0.25) -> Tensor:
    """Variance of each mode, H W float64: 1/k² with k in cycles per pixel; the mean's equals the lowest mode's."""
    rows, columns = (torch.arange(side, dtype=torch.float64) / side for side in (height, width))
    squares = rows[:, None].square() + columns.square()
    squares[0, 0] = min(squares[0, 1], squares[1, 0])
    return pixel_variance / squares / (1 / squares).mean()


def low_modes(size: int) -> Tensor:
    """Mask of the modes of images size × size below a quarter of both axes' frequencies, H W bool."""
    quarter = torch.arange(size) < size / 4
    return quarter[:, None] & quarter


def generated_std(scheduler: BlurDiffusionScheduler, spectrum: Tensor, num_inference_steps: int) -> Tensor:
    """Standard deviation of each generated mode, H W float64, for Gaussian data of this spectrum and the exact score.

    Uses the scheduler's own `step`: one record carries the modes' standard deviation, a second the noise that one step
    adds; they are independent, so their squares add up. Works for any prediction_type.
    """
    operator = scheduler.operator(spectrum)
    std = torch.ones_like(spectrum)
    unit = operator.to_pixels(torch.stack([torch.zeros_like(std), std])[:, None])  # 2 1 H W
    scheduler.set_timesteps(num_inference_steps)
    for t in scheduler.timesteps.tolist():
        log_a, log_s = operator.log_coefficients(t)
        a, s = log_a.exp(), log_s.exp()  # 1 H W
        modes = torch.stack([std, torch.zeros_like(std)])[:, None]  # 2 1 H W
        data = a * spectrum / (a.square() * spectrum + s.square()) * modes  # E[u_0 | u_t]
        noise = (modes - a * data) / s
        output = {"sample": data, "epsilon": noise, "v_prediction": a * noise - s * data}
        predicted = operator.to_pixels(output[scheduler.config.prediction_type])
        stepped = scheduler.step(predicted, t, operator.to_pixels(modes), variance_noise=unit, return_dict=False)[0]
        kept, added = operator.to_modes(stepped)[:, 0]
        std = (kept.square() + added.square()).sqrt()
    return std


def measure(size: int, steps: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield the rows for images size × size. Raises UserError as the scheduler does."""
    spectrum = photograph_spectrum(size, size)
    low = low_modes(size)
    for (blur, f_max), (algorithm, spacing) in itertools.product(SCHEDULES, SAMPLERS):
        scheduler = BlurDiffusionScheduler(
            blur_schedule=blur,
            blur_f_max=f_max,
            prediction_type="sample",
            algorithm_type=algorithm,
            timestep_spacing=spacing,
        )
        for count in steps:
            ratio = generated_std(scheduler, spectrum, count) / spectrum.sqrt()
            yield {
                "blur_schedule": blur,
                "blur_f_max": f_max,
                "algorithm_type": algorithm,
                "timestep_spacing": spacing,
                "steps": count,
                "size": size,
                "rms_std_error": round(float((ratio - 1).square().mean().sqrt()), 4),
                "low": round(float(ratio[low].mean()), 4),
                "high": round(float(ratio[~low].mean()), 4),
            }


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the command line described in the module docstring. Returns exit status 2 for a UserError."""
    parser = argparse.ArgumentParser(
        prog="python -m wavedp.reports.samplers", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--size", type=int, default=32, help="pixels of a side (%(default)s)")
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 50], help="of sampling (%(default)s)")
    parser.add_argument("--results", type=Path, default=Path("runs/blur_samplers"))
    chosen = parser.parse_args(arguments)
    rows = []
    for row in measure(chosen.size, chosen.steps):
        rows.append(row)
        print(json.dumps(row), flush=True)
    write_jsonl(chosen.results / "blur_samplers.jsonl", rows)
    print(f"{chosen.results}/blur_samplers.jsonl")
    return 0


if __name__ == "__main__":
    sys.exit(main())

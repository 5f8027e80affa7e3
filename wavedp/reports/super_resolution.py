"""Measure how well each upscaler restores public images from their block means.

    python -m wavedp.reports.super_resolution [--data photographs] [--size 256] [--level 2] [--images 24]
        [--upscalers bicubic …] [--store .wavedp/store] [--results results/super_resolution]

Test images are reduced to their block means (256×256 to 64×64 at level 2) and enlarged again. super_resolution.jsonl
has one line for each upscaler, with and without the low-pass kept:

    psnr               dB, from an image's mean squared error over pixels and channels, averaged over images
    perceptual         LPIPS-style distance to the original (wavedp.losses.Perceptual), uncalibrated
    block_mean_error   mean absolute difference between the coarse image and the output's block means, full scale is 1
    seconds            per image, on this machine, in successive batches, with the network loaded and warm

super_resolution.png shows the middle of the three images with the most detail there, since detail is all that an
upscaler can miss. Upscalers that need training are trained on the train split of the same set (the stage `upscaler`,
found in the store or made).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from wavedp import chain, checks, data, stages
from wavedp.config import DataConfig, GeneratorConfig, TrialConfig, UpscalerConfig
from wavedp.errors import UserError
from wavedp.losses import Perceptual
from wavedp.progress import printed
from wavedp.store import Store, write_jsonl
from wavedp.upscalers import UPSCALERS, wavelet_detail
from wavedp.wavelets import coarse, spread

TRAINED = ("blur_diffusion", "wavelet_detail")
SETS = ("photographs", "openclipart", "procedural")  # public: nothing measured here costs ε
SHOWN, WINDOW = 3, 128  # number of images shown, and pixels per side of each
BATCH = 8


def measure(trial: TrialConfig, upscaler: UpscalerConfig, images: Tensor, store: Store, device: str) -> Iterator[
    tuple[dict[str, Any], Tensor]
]:  # fmt: skip
    """Yield a row and the upscaled images, B C H W float32 in [0, 1] like `images`, for one upscaler; twice if keeping
    the low-pass is optional for it. Raises UserError as the stages do."""
    small, distance = coarse(images, trial.level), Perceptual(device)
    trained = upscaler.name in TRAINED
    for consistent in (False,) if trained else (False, True):
        of_one = replace(trial, upscaler=replace(upscaler, low_pass_consistency=consistent))
        checks.check(of_one)
        inputs = {"upscaler": stages.make("upscaler", of_one, store, device, printed("training"))[0]} if trained else {}
        model, factor = stages.build_upscaler(of_one, inputs, device), 2**trial.level
        model.upscale(small[:1], factor)
        start = time.perf_counter()
        made = torch.cat([model.upscale(part, factor) for part in small.split(BATCH)])
        seconds = (time.perf_counter() - start) / len(images)
        errors = (made - images).square().mean((1, 2, 3))
        parts = zip(made.split(BATCH), images.split(BATCH), strict=True)
        with torch.inference_mode():
            apart = sum(float(distance(a.to(device), b.to(device))) * len(a) for a, b in parts) / len(images)
        row = {
            "upscaler": upscaler.name,
            "low_pass_consistency": consistent or trained,
            "bridge": model.bridge(factor),
            "data": trial.data.name,
            "size": trial.data.size,
            "factor": factor,
            "images": len(images),
            "psnr": round(float(-10 * errors.clamp(min=1e-12).log10().mean()), 3),
            "perceptual": round(apart, 5),
            "block_mean_error": round(float((F.avg_pool2d(made, factor) - small).abs().mean()), 6),
            "seconds": round(seconds, 6),
            "key": chain.keys(of_one)["upscaler"] if trained else None,
        }
        yield row, made


def sheet(columns: Sequence[tuple[str, Tensor]]) -> Image.Image:
    """Draw named columns of images B C H W in [0, 1], cropped to the middle of each, under their names."""
    side = min(WINDOW, columns[0][1].shape[-1])
    picture = Image.new("RGB", (len(columns) * (side + 4), columns[0][1].shape[0] * (side + 4) + 14), "white")
    for place, (name, images) in enumerate(columns):
        ImageDraw.Draw(picture).text((place * (side + 4) + 2, 1), name[: side // 6], fill="black")
        window = (_middle(images) * 255).expand(-1, 3, -1, -1)
        for row, pixels in enumerate(window.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()):
            at = (place * (side + 4), row * (side + 4) + 14)
            picture.paste(Image.fromarray(np.ascontiguousarray(pixels)), at)
    return picture


def _middle(images: Tensor) -> Tensor:
    """Crop B C h w to the middle of each image, at most `WINDOW` pixels per side."""
    side = min(WINDOW, images.shape[-1])
    corner = (images.shape[-1] - side) // 2
    return images[..., corner : corner + side, corner : corner + side]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line described in the module docstring. Returns exit status 2 for a UserError."""
    parser = argparse.ArgumentParser(
        prog="python -m wavedp.reports.super_resolution", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--data", choices=SETS, default="photographs")
    parser.add_argument("--size", type=int, default=256, help="pixels a side of the originals (%(default)s)")
    parser.add_argument("--level", type=int, default=2, help="of the coarse images (%(default)s: 4×4 block means)")
    parser.add_argument("--images", type=int, default=24, help="of the test split (%(default)s)")
    parser.add_argument(
        "--upscalers",
        nargs="+",
        choices=[*(name for name in UPSCALERS if name != "identity"), *TRAINED],
        default=["bicubic", "animevideov3_x4", "realesrgan_x4plus", "realsr_df2k_x4", "wavelet_detail"],
    )
    parser.add_argument("--train-steps", type=int, help="of those trained here (as conf/upscaler says)")
    parser.add_argument("--train-batch", type=int, help="images a step of theirs (as conf/upscaler says)")
    parser.add_argument("--home", default=DataConfig().home, help="where datasets are (%(default)s)")
    parser.add_argument("--store", default=".wavedp/store")
    parser.add_argument("--results", type=Path, default=Path("results/super_resolution"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args(arguments)
    images_of = DataConfig(name=chosen.data, size=chosen.size, channels=3, home=chosen.home)
    nothing_private = GeneratorConfig(name="real", pretrain_steps=0)
    trial = TrialConfig(level=chosen.level, data=images_of, public=images_of, generator=nothing_private)
    rows = []
    try:
        images = torch.tensor(data.load(images_of, "test").images[: chosen.images]).float() / 255
        blocks = spread(coarse(images, chosen.level), 2**chosen.level)
        shown = (_middle(images) - _middle(blocks)).abs().mean((1, 2, 3)).argsort(descending=True)[:SHOWN]
        columns = [("original", images[shown]), ("coarse", blocks[shown])]
        for name in chosen.upscalers:
            recipe = wavelet_detail.RECIPE if name == "wavelet_detail" else {}
            asked = {"train_steps": chosen.train_steps, "train_batch": chosen.train_batch}
            asked = {field: value for field, value in asked.items() if value is not None}
            upscaler = UpscalerConfig(name=name, **{**recipe, **asked})
            for row, made in measure(trial, upscaler, images, Store(chosen.store), chosen.device):
                rows.append(row)
                print(json.dumps(row), flush=True)
                if row["low_pass_consistency"] == (name in TRAINED):
                    columns.append((name, made[shown]))
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    write_jsonl(chosen.results / "super_resolution.jsonl", rows)
    sheet(columns).save(chosen.results / "super_resolution.png")
    print(f"{chosen.results}/super_resolution.jsonl, super_resolution.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())

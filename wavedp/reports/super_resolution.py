"""Compare upscalers on public images: each enlarges block means, and is measured against the original.

    python -m wavedp.reports.super_resolution [--data photographs] [--size 256] [--level 2] [--images 24]
        [--upscalers bicubic …] [--store .wavedp/store] [--results runs/super_resolution]

Test images are reduced to their block means (256×256 to 64×64 at level 2) and enlarged again. super_resolution.jsonl
has one line for each upscaler, with and without the low-pass kept:

    psnr               dB, from an image's mean squared error over pixels and channels, averaged over images
    perceptual         LPIPS-style distance to the original (wavedp.losses.Perceptual), uncalibrated
    block_mean_error   mean absolute difference between the coarse image and the output's block means, of full scale 1
    seconds            for one image on this machine, batch after batch, with the network loaded and warm

low_pass_consistency is as asked for; for an upscaler without that option it says if block means were kept.
super_resolution.png shows the middle of the three images with the most detail there. Upscalers that train do so on the
train split of the same set (the stage `upscaler`, found in the store or made).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from wavedp import chain, checks, data, methods, registry, stages
from wavedp.command import command
from wavedp.config import DataConfig, TrialConfig, configure
from wavedp.losses import Perceptual
from wavedp.methods import Trains
from wavedp.progress import printed
from wavedp.store import Store, write_jsonl
from wavedp.wavelets import coarse, spread

SETS = ("photographs", "openclipart", "procedural")  # public ones: nothing that is measured here costs ε
SHOWN, WINDOW = 3, 128  # images, and pixels a side of each
BATCH = 8
KEPT = 1e-5  # block_mean_error of a kept low-pass


def measure(trial: TrialConfig, images: Tensor, store: Store, device: str) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """A row and the output, B C H W float32 in [0, 1], of the trial's upscaler on full images of that shape; two of
    each if it has the option low_pass_consistency, first without it. Raises UserError when the stages do."""
    small, distance, method = coarse(images, trial.level), Perceptual(device), methods.upscaler(trial)
    option, public = "low_pass_consistency", trial.public or trial.data
    for asked in ({option: False}, {option: True}) if _reads(method, option) else ({},):
        of_one = replace(trial, upscaler=replace(trial.upscaler, **asked))
        made_before = [stage.name for stage in chain.chain_of(of_one) if stage.name in method.needs(of_one).inputs]
        inputs = {name: stages.make(name, of_one, store, device, printed("training"))[0] for name in made_before}
        model, factor = stages.build_upscaler(of_one, inputs, device), 2**trial.level
        model.upscale(small[:1], factor)
        start = time.perf_counter()
        made = torch.cat([model.upscale(part, factor) for part in small.split(BATCH)])
        seconds = (time.perf_counter() - start) / len(images)
        errors = (made - images).square().mean((1, 2, 3))
        parts = zip(made.split(BATCH), images.split(BATCH), strict=True)
        with torch.inference_mode():
            apart = sum(float(distance(a.to(device), b.to(device))) * len(a) for a, b in parts) / len(images)
        moved = float((F.avg_pool2d(made, factor) - small).abs().mean())
        row = {
            "upscaler": trial.upscaler.name,
            "low_pass_consistency": asked.get(option, moved < KEPT),
            "bridge": model.bridge(factor),
            "data": public.name,
            "size": public.size,
            "factor": factor,
            "images": len(images),
            "psnr": round(float(-10 * errors.clamp(min=1e-12).log10().mean()), 3),
            "perceptual": round(apart, 5),
            "block_mean_error": round(moved, 6),
            "seconds": round(seconds, 6),
            "key": chain.keys(of_one)["upscaler"] if isinstance(method, Trains) else None,
        }
        yield row, made


def _configured(name: str, training: dict[str, int | None]) -> Any:
    """The upscaler by its defaults, except for these settings where it has them. Raises UserError for unknown ones."""
    method = registry.find("upscaler", name)
    asked = {option: value for option, value in training.items() if value is not None and _reads(method, option)}
    return configure("upscaler", name, **asked)


def _reads(method: methods.Method, option: str) -> bool:
    return option in (item.name for item in fields(method.Config))


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


@command
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
        metavar="UPSCALER",
        default=["bicubic", "animevideov3_x4", "realesrgan_x4plus", "realsr_df2k_x4", "wavelet_detail"],
    )
    parser.add_argument("--train-steps", type=int, help="of those trained here (default: what each uses by itself)")
    parser.add_argument("--train-batch", type=int, help="images a step of theirs (default: what each uses by itself)")
    parser.add_argument("--home", default=DataConfig().home, help="where datasets are (%(default)s)")
    parser.add_argument("--store", default=".wavedp/store")
    parser.add_argument("--results", type=Path, default=Path("runs/super_resolution"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args(arguments)
    images_of = DataConfig(name=chosen.data, size=chosen.size, channels=3, home=chosen.home)
    nobody = DataConfig(name="procedural", split="public", size=chosen.size, channels=3)  # in place of sensitive images
    trial = TrialConfig(level=chosen.level, data=nobody, public=images_of, generator="real")
    training = {"train_steps": chosen.train_steps, "train_batch": chosen.train_batch}
    rows = []
    trials = [replace(trial, upscaler=_configured(name, training)) for name in chosen.upscalers]
    for one in trials:
        checks.check(one)
    images = torch.tensor(data.load(images_of, "test").images[: chosen.images]).float() / 255
    blocks = spread(coarse(images, chosen.level), 2**chosen.level)
    shown = (_middle(images) - _middle(blocks)).abs().mean((1, 2, 3)).argsort(descending=True)[:SHOWN]
    columns = [("original", images[shown]), ("coarse", blocks[shown])]
    for one in trials:
        for place, (row, made) in enumerate(measure(one, images, Store(chosen.store), chosen.device)):
            rows.append(row)
            print(json.dumps(row), flush=True)
            if place == 0:
                columns.append((one.upscaler.name, made[shown]))
    write_jsonl(chosen.results / "super_resolution.jsonl", rows)
    sheet(columns).save(chosen.results / "super_resolution.png")
    print(f"{chosen.results}/super_resolution.jsonl, super_resolution.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())

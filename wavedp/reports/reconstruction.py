"""The loss of tokens: the sensitive set's test images, reconstructed by tokenizers that saw public images only.

    python -m wavedp.reports.reconstruction [--images 1000] [--store .wavedp/store] [--results runs/reconstruction]

One line of reconstruction.jsonl for each tokenizer and level it decodes to:

    psnr     dB, from the mean squared error over all pixels, against the coarse image of that level
    rfid_…   Fréchet distance between reconstructions and the same real images, both at that level's size

The difference between the spectral rows is the cost of scale-causality: `both` masks encoder and decoder, `none`
neither. A tokenizer without a causal decoder decodes only whole images. Trained tokenizers are artifacts of the stage
`tokenizer`, found in the store or made. Reading the test split adds a line to ledger.jsonl, and none of its images is
written: reconstruction.png shows ten public test images and each row's reconstructions, in the order of the rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wavedp import data, registry, stages, tokenizers
from wavedp.command import command
from wavedp.config import MetricsConfig, TrialConfig, configure
from wavedp.errors import UserError
from wavedp.fields import fitting
from wavedp.metrics.features import extract
from wavedp.metrics.frechet import frechet_distance_of
from wavedp.privacy import ledger
from wavedp.progress import printed
from wavedp.store import Store, write_jsonl
from wavedp.wavelets import coarse, spread

SHOWN = 10
COMPARED: tuple[dict[str, Any], ...] = (
    {"name": "scalar"},
    {"name": "raster"},
    *({"name": "spectral", "scale_causal": mask} for mask in ("both", "decoder", "encoder", "none")),
)


def variants(**shared: Any) -> Iterator[Any]:
    """The configurations to compare: scalar, raster, and spectral with each mask. shared: fields of all those that read
    them."""
    for chosen in COMPARED:
        values = fitting("tokenizer", {**shared, **chosen})
        yield configure("tokenizer", values.pop("name"), **values)


def measure(
    trial: TrialConfig, n_images: int, store: Store, device: str, compared: Iterable[Any] | None = None
) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """A row, and reconstructions of public images (uint8), for each tokenizer and level. compared: configurations, by
    default `variants()`. Raises UserError as the stages do."""
    shown = public_examples(trial)
    real = torch.tensor(data.load(trial.data, "test").images[:n_images]).float() / 255
    shape = data.shape(trial.data)
    features: dict[int, Tensor] = {}
    for config in variants() if compared is None else compared:
        for level in registry.find("tokenizer", config.name).levels(config, shape):
            start = time.perf_counter()
            of_level = dataclasses.replace(trial, tokenizer=config, level=level)
            artifact, made = stages.make("tokenizer", of_level, store, device, printed("training"))
            tokenizer = tokenizers.build(config, shape, level, artifact.tensors("weights"))
            target, seconds = coarse(real, level), time.perf_counter() - start
            rebuilt = torch.cat([_rebuild(tokenizer, config, part, level) for part in real.split(250)])
            error = float((rebuilt - target).square().mean())
            if level not in features:
                features[level] = extract(_pixels(target), trial.metrics, device=device)
            distance = frechet_distance_of(extract(_pixels(rebuilt), trial.metrics, device=device), features[level])
            low = "-bf16" if trial.metrics.precision == "bfloat16" else ""
            row = {
                "tokenizer": config.name,
                "scale_causal": getattr(config, "scale_causal", None),
                "level": level,
                "size": list(target.shape[-2:]),
                "tokens": tokenizer.length,
                "codes": [span.size for span in tokenizer.spans],
                "bits": round(sum((s.stop - s.start) * math.log2(s.size) for s in tokenizer.spans), 1),
                "psnr": round(-10 * math.log10(max(error, 1e-12)), 3),
                f"rfid_{trial.metrics.mode}{low}_{n_images}_test": round(distance, 3),
                "training": artifact.json("tokenizer"),
                "training_seconds": round(seconds, 1) if made else None,
                "key": artifact.key,
            }
            yield row, _pixels(_rebuild(tokenizer, config, shown, level))


def public_examples(trial: TrialConfig) -> Tensor:
    """Return the first images of the public test split, float in [0, 1]."""
    if trial.public is None:
        raise UserError("learned tokenizers need public images: set public.")
    return torch.tensor(data.load(trial.public, "test").images[:SHOWN]).float() / 255


def _rebuild(tokenizer: tokenizers.Tokenizer, config: Any, images: Tensor, level: int) -> Tensor:
    """Through the codes and back, at `level`: a prefix of the whole image's codes where the tokenizer is trained on
    whole images."""
    if tokenizers.training_level(config, level) == 0:
        return tokenizer.decode(tokenizer.encode(images)[:, : tokenizer.length])
    return tokenizer.decode(tokenizer.encode(coarse(images, level)))


def _pixels(images: Tensor) -> Tensor:
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def _sheet(rows: list[Tensor], side: int) -> Image.Image:
    """Draw rows of images B C h w uint8, each enlarged to `side` pixels by repetition."""
    large = []
    for row in rows:
        times = side // row.shape[-1]
        large.append(spread(row, times))
    picture = torch.cat([torch.cat(list(row), dim=-1) for row in large], dim=-2).permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(picture[..., 0] if picture.shape[-1] == 1 else picture))


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the command line described in the module docstring. Returns exit status 2 for a UserError."""
    parser = argparse.ArgumentParser(
        prog="python -m wavedp.reports.reconstruction", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--images", type=int, default=1000, help="test images (%(default)s)")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="of the FID network")
    parser.add_argument("--store", default=".wavedp/store")
    parser.add_argument("--results", type=Path, default=Path("runs/reconstruction"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args(arguments)
    trial = TrialConfig(metrics=MetricsConfig(precision=chosen.precision))
    rows, shown = [], [_pixels(public_examples(trial))]
    for row, images in measure(trial, chosen.images, Store(chosen.store), chosen.device):
        rows.append(row)
        shown.append(images)
        print(json.dumps({key: value for key, value in row.items() if key != "training"}), flush=True)
    look = ledger.line_nonprivate(
        f"reconstruction of {chosen.images} test images by public tokenizers",
        dataset=data.fingerprint(trial.data, "test"),
        n_records=data.n_records(trial.data, "test"),
        stage_key=rows[0]["key"],
        trials=[],
    )
    for name, lines in (("reconstruction.jsonl", rows), ("ledger.jsonl", [look])):
        write_jsonl(chosen.results / name, lines)
    _sheet(shown, 2 * shown[0].shape[-1]).save(chosen.results / "reconstruction.png")
    print(f"{chosen.results}/reconstruction.jsonl, reconstruction.png, ledger.jsonl")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Memorisation: test if generated images lie closer to the training images than held-out real images do.

    share      of generated images whose nearest training image is closer than the 1 % quantile of the same distance for
               held-out real images: 0.01 for a generator that has learned only the distribution
    closest    pairs with the smallest distances, for inspection

Distances are Euclidean between features. A share above 0.01 suggests copies; one at or below it proves nothing: copies
that the features do not detect pass, and so does a generator whose images are far from everything (Stein et al., 2023,
arXiv 2306.04675, found such scores unreliable). It is not a privacy test. Read it together with FID, and look at the
pairs. Training and held-out images are read without differential privacy: no ε covers publishing the share or pairs.

    n generated, t training, h held-out images, D features
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wavedp.errors import UserError

QUANTILE = 0.01
ROWS = 1000  # rows of a distance matrix in memory at a time
TILE = 64  # pixels per side of an image in the sheet


@dataclass(frozen=True)
class Memorisation:
    """share: in [0, 1], with its binomial standard error. threshold: the distance below which an image counts as close.
    pairs: (generated, training) indices [n 2], from the closest pair to the farthest."""

    share: float
    standard_error: float
    threshold: float
    pairs: Tensor


def memorisation(generated: Tensor, training: Tensor, held_out: Tensor) -> Memorisation:
    """Measure memorisation from features n D, t D and h D. Raises UserError for fewer than 100 held-out images."""
    if len(held_out) < 1 / QUANTILE:
        raise UserError(
            f"{len(held_out)} held-out images have no {QUANTILE:.0%} quantile: give 100, or leave memorisation out."
        )
    threshold = torch.quantile(nearest(held_out, training)[0], QUANTILE)
    distances, neighbours = nearest(generated, training)
    share = float((distances < threshold).double().mean())
    order = distances.argsort()
    error = (share * (1 - share) / len(generated)) ** 0.5
    return Memorisation(share, error, float(threshold), torch.stack([order, neighbours[order]], 1))


def nearest(samples: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance [n] of each of the samples [n D] to the nearest row of `among` [t D], and its index [n]."""
    among = among.double()
    found = [torch.cdist(rows.double(), among).min(1) for rows in samples.split(ROWS)]
    return torch.cat([item.values for item in found]), torch.cat([item.indices for item in found])


def save_sheet(path: Path, generated: list[Tensor], training: list[Tensor], columns: int = 8) -> None:
    """Write a PNG of pairs, closest first as given: each generated image (uint8 C H W) left of its training image."""
    rows = -(-len(generated) // columns)
    sheet = Image.new("RGB", (columns * (2 * TILE + 8), rows * (TILE + 8)), "white")
    for number, (left, right) in enumerate(zip(generated, training, strict=True)):
        corner = (number % columns) * (2 * TILE + 8), (number // columns) * (TILE + 8)
        for side, image in enumerate((left, right)):
            pixels = np.ascontiguousarray(image.expand(3, -1, -1).permute(1, 2, 0).numpy())
            tile = Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.NEAREST)
            sheet.paste(tile, (corner[0] + side * TILE, corner[1]))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, format="PNG")

"""A public image set in place of a foundation model's API: what it draws at random, and its variations of an image.

    M public images   C h w a coarse image   n images   k neighbours

Private evolution needs two calls (arXiv 2305.15560, Section 4). RANDOM_API is a public image. VARIATION_API takes an
image x and gives

    (1 - blend) x + blend y,   y a random one of the k public images nearest to x in pixels,

with k = degree M, so that a smaller degree stays nearer. At blend = 1 every member is a public image, as in the
authors' NearestImage; below it, members leave the public set, and a variation is what images x and y have in common and
a lighter print of what they have not.

All of it is public: no sensitive image reaches this file.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wavedp.generators.private_evolution.votes import nearest

_ROWS = 512
"""Images whose neighbours are sought at once, to bound memory."""


def pool_of(images: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """The rows, int64, of at most `limit` of the images: all of them in their order, or as many drawn at random."""
    if len(images) <= limit:
        return torch.arange(len(images))
    return torch.randperm(len(images), generator=generator)[:limit]


def draw(rows: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """`size` of the rows at random, int64, none of them twice before all have been drawn."""
    rounds = -(-size // len(rows))
    return torch.cat([rows[torch.randperm(len(rows), generator=generator)] for _ in range(rounds)])[:size]


def neighbours(images: Tensor, pool: Tensor, degree: float, device: str = "cpu") -> Tensor:
    """The public images nearest to each image, n k int64 rows of the pool, k = degree M rounded, at least 1.

    images: n C h w float32 in [0, 1]. pool: M C h w uint8. degree: in (0, 1].
    """
    count = max(1, round(degree * len(pool)))
    others = _pixels(pool).to(device)
    found = [nearest(_pixels(part).to(device), others, count).cpu() for part in images.split(_ROWS)]
    return torch.cat(found)


def vary(images: Tensor, near: Tensor, pool: Tensor, blend: float, generator: torch.Generator) -> Tensor:
    """One variation of each image, n C h w float32 in [0, 1]. near: its neighbours, n k. blend: in (0, 1]."""
    chosen = torch.randint(near.shape[1], (len(images), 1), generator=generator)
    other = pool[near.gather(1, chosen).squeeze(1)].float() / 255
    return torch.lerp(images, other, blend)


def _pixels(images: Tensor) -> Tensor:
    flat = images.flatten(1)
    return flat.float() / 255 if flat.dtype == torch.uint8 else flat

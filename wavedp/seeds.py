"""Independent random streams derived from one seed, each named after its purpose."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """Derive a seed in 0..2^63 - 1 from `seed` and `names` by SHA-256; different names give different seeds.

    The same on every machine and Python version. Anyone who knows `seed` can compute every seed derived from it.
    """
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_of(image: torch.Tensor, purpose: str = "complete") -> torch.Generator:
    """Return a CPU generator seeded by the image's content, so that draws for an image are the same in every batch and
    every run. purpose: use a different name for each draw made for one image."""
    import torch  # imported here because planning does without it

    seed = derive_seed(0, purpose, image.cpu().numpy().tobytes().hex())
    return torch.Generator().manual_seed(seed)

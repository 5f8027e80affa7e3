"""One seed, many independent random streams: each is named after what it is for."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A seed in 0..2^63 - 1 for the purpose that `names` spell, by SHA-256: other names, other seed.

    The same on every machine and Python. Not a secret by itself: whoever knows `seed` knows every seed derived from it.
    """
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_of(image: torch.Tensor, purpose: str = "complete") -> torch.Generator:
    """Randomness on the CPU that is a function of the image's own content: what is drawn for an image with it is the
    same in every batch and every run. purpose: one that draws twice for an image says what for."""
    import torch  # which planning does without

    seed = derive_seed(0, purpose, image.cpu().numpy().tobytes().hex())
    return torch.Generator().manual_seed(seed)

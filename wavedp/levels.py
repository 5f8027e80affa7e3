"""Level of a coarse image: the number of times its sides are halved."""

from __future__ import annotations

from wavedp.errors import UserError


def check_level(level: int, height: int, width: int) -> None:
    """Raise UserError unless images of height × width have a coarse image of this level."""
    block = 2**level if level >= 0 else 0
    if level < 0 or height % block or width % block:
        deepest = 0
        while height % 2 ** (deepest + 1) == 0 and width % 2 ** (deepest + 1) == 0:
            deepest += 1
        raise UserError(
            f"level={level} needs images divisible by {block or 'a power of two'}, got {height}×{width}: "
            f"use a level from 0 to {deepest}, or another data.size."
        )

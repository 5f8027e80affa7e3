"""What the sections of tests/gpu/check.py share: how they are asked to check."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, get_args

from wavedp.full_precision import Precision

Row = dict[str, Any]


class Missing(Exception):
    """A package or file of a section, or of one of its rows, is not on this machine."""


@dataclass(frozen=True)
class Setting:
    """How to check. inception: file of the FID network, None: search. weights: folder of the published upscalers'
    files, None: their packages. deadline: of time.monotonic()."""

    device: str
    small: bool
    inception: str | None = None
    weights: str | None = None
    deadline: float = float("inf")

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those of privacy.precision, most exact first; a CPU computes tf32 as float32, so `small` leaves it out."""
        every = get_args(Precision)
        return tuple(name for name in every if name != "tf32") if self.small else every

    def late(self) -> bool:
        """True when the time is over."""
        return time.monotonic() >= self.deadline

"""What the sections of tests/gpu/check.py share: how they are asked to check, and what this wavedp can do."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

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

    def late(self) -> bool:
        """True when the time is over."""
        return time.monotonic() >= self.deadline


def precisions() -> list[str]:
    """The values of privacy.precision, or float32 alone for a wavedp without that field."""
    from wavedp.config import PrivacyConfig

    hints = get_type_hints(PrivacyConfig)
    return list(get_args(hints["precision"])) if "precision" in hints else ["float32"]


def takes_auto() -> bool:
    """True if privacy.microbatch_size may be auto."""
    from wavedp.config import PrivacyConfig

    return get_type_hints(PrivacyConfig)["microbatch_size"] is not int


def with_precision(precision: str) -> dict[str, str]:
    """The argument `precision` of whatever takes one; float32 is the default everywhere."""
    return {} if precision == "float32" else {"precision": precision}

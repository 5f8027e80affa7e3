"""Ranges of numbers, written as intervals: `(0, 1]` has 1 in it and 0 not, `[0, inf)` no infinity, `[0, inf]` has."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """closed_low, closed_high: whether the ends belong to it. NaN is in none."""

    low: float
    high: float
    closed_low: bool
    closed_high: bool

    @classmethod
    def of(cls, interval: str) -> Range:
        """The range that an interval says. Raises ValueError for text that is none."""
        low, comma, high = interval[1:-1].partition(",")
        if not comma or interval[0] not in "[(" or interval[-1] not in "])":
            raise ValueError(f"{interval!r} is not an interval: write one such as (0, 1]")
        return cls(_number(low), _number(high), interval[0] == "[", interval[-1] == "]")

    def __str__(self) -> str:
        return f"{'[' if self.closed_low else '('}{self.low}, {self.high}{']' if self.closed_high else ')'}"

    def __contains__(self, value: float) -> bool:
        if value == self.low:
            return self.closed_low
        return self.closed_high if value == self.high else self.low < value < self.high

    def words(self, value: float) -> str:
        """What a value outside it must be, such as `above 0 and at most 1`."""
        parts = ["a number"] if math.isnan(value) else ["finite"] if math.isinf(value) else []
        if self.low != -math.inf:
            parts.append(f"{'at least' if self.closed_low else 'above'} {self.low}")
        if self.high != math.inf:
            parts.append(f"{'at most' if self.closed_high else 'below'} {self.high}")
        return " and ".join(parts)


def _number(text: str) -> float:
    """An int where the text is one: a float has no room for 2^64 - 1."""
    try:
        return int(text)
    except ValueError:
        return float(text)

"""A logarithmic axis of ε, on which 0 and ∞ lie beyond breaks at its ends."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from analysis.replicates import epsilon_text

LEAST_SPAN = 0.5  # decades
BEYOND, BREAK, END, FREE = 0.18, 0.10, 0.24, 0.06  # in spans, from the largest finite ε: ∞, its break, the axis' end


@dataclass(frozen=True)
class EpsilonAxis:
    """low, high: log10 of the smallest and largest finite ε."""

    low: float
    high: float
    has_zero: bool
    has_infinity: bool

    @classmethod
    def of(cls, budgets: Collection[float], prices: Iterable[float] = ()) -> EpsilonAxis:
        """An axis for these ε, and for others (`prices`) that are never 0 or ∞."""
        logs = [math.log10(x) for x in (*budgets, *prices) if 0 < x < math.inf] or [0.0]
        return cls(min(logs), max(logs), 0.0 in budgets, math.inf in budgets)

    @property
    def span(self) -> float:
        return max(self.high - self.low, LEAST_SPAN)

    @property
    def range(self) -> tuple[float, float]:
        """Both ends of the axis, in log10."""
        return (
            self.low - self.span * (END if self.has_zero else FREE),
            self.high + self.span * (END if self.has_infinity else FREE),
        )

    def x(self, epsilon: float) -> float:
        """Position of an ε, in data units."""
        if epsilon == 0:
            return 10 ** (self.low - BEYOND * self.span)
        return 10 ** (self.high + BEYOND * self.span) if math.isinf(epsilon) else epsilon

    def ticks(self, asked: Iterable[float]) -> list[float]:
        """The ε asked for, 1-2-5 steps beyond them, and 0 and ∞ if they are there."""
        found = sorted({epsilon for epsilon in asked if 0 < epsilon < math.inf})
        beyond = max(found, default=10**self.low / 2) * 1.6
        found += [step for step in decimal_steps(self.low, self.high) if step > beyond]
        return [0.0] * self.has_zero + found + [math.inf] * self.has_infinity

    def layout(self, asked: Iterable[float], infinity: int) -> dict[str, Any]:
        """Settings of plotly's axis. infinity: pixels of its ∞, which fonts make as small as a lower-case letter."""
        ticks = self.ticks(asked)
        return {
            "type": "log",
            "range": list(self.range),
            "tickvals": [self.x(tick) for tick in ticks],
            "ticktext": [
                f'<span style="font-size:{infinity}px">∞</span>' if math.isinf(tick) else epsilon_text(tick)
                for tick in ticks
            ],
        }

    def mark_breaks(self, figure: go.Figure, size: int) -> None:
        """Draw // where the axis is broken. size: of the font, pixels."""
        edges = (self.has_zero, self.low - BREAK * self.span), (self.has_infinity, self.high + BREAK * self.span)
        for edge in (edge for present, edge in edges if present):
            text = {"text": "<b>//</b>", "bgcolor": "white", "borderpad": 0, "font_size": size}
            figure.add_annotation(x=edge, y=0, yref="paper", yanchor="middle", showarrow=False, **text)


def decimal_steps(low: float, high: float) -> list[float]:
    """Steps 1, 2, 5, 10, 20, ... between 10^low and 10^high."""
    steps = [m * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
    return [step for step in steps if low <= math.log10(step) <= high]


def power_of_ten(exponent: int) -> str:
    """10⁻², for a tick."""
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))

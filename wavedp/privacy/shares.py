"""One budget for two fits: what is left of ε to one of them beside another whose noise is fixed.

Formal guarantee. If `planned(e)` gives mechanisms that spend at most e at δ, then `epsilon_beside(beside, budget, δ,
planned)` returns an e for which those of `planned(e)` and `beside` together spend at most `budget` at the same δ, by
`accounting.compose` at the very mechanisms that are run: δ is not divided, since composition is of whole privacy loss
distributions. That is more than budget - ε(beside), since the ε of two fits together is less than their sum.

    case                                     result
    budget = inf                             inf: neither has noise
    beside spends all of the budget          InfeasibleError
    planned(e) spends less than e            the search goes on to larger e, never above the budget
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from wavedp.errors import InfeasibleError
from wavedp.privacy import accounting
from wavedp.privacy.accounting import Mechanism

UNUSED = 0.005
"""The share of the budget that may be left over: one more look for the last of it takes a second."""
LOOKS = 24


def epsilon_beside(
    beside: Mechanism, budget: float, delta: float, planned: Callable[[float], Sequence[Mechanism]]
) -> float:
    """An epsilon of four digits for the fit that `planned` calibrates, at most 0.5 % of the budget below the largest.

    planned: epsilon in (0, budget] -> its mechanisms. Raises InfeasibleError if no epsilon is left.
    """
    if math.isinf(budget):
        return math.inf
    taken = accounting.compose([beside], delta)
    low, high, asked = 0.0, budget, math.sqrt(max(budget**2 - taken**2, 0))  # as Gaussians would add up
    for _ in range(LOOKS):
        asked = _rounded_down(asked if low < _rounded_down(asked) < high else (low + high) / 2)
        if asked <= max(low, budget * 1e-4):
            break
        over = accounting.compose([*planned(asked), beside], delta) - budget
        if over <= 0:
            low = asked
            if over > -UNUSED * budget or high - low < UNUSED * budget:
                return low
        else:
            high = asked
        asked -= over + UNUSED / 2 * budget * (over > 0)  # the total grows about as much as this part of it
    if low:
        return low
    raise InfeasibleError(
        f"epsilon={budget:g} is spent by the upscaler's private fit (epsilon={taken:.4g} at delta={delta:.3g}), and "
        "leaves nothing to the generator's: lower upscaler.epsilon_share, or raise privacy.epsilon."
    )


def _rounded_down(value: float) -> float:
    """Four significant digits, so that a machine whose sums round otherwise finds the same number."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return float(f"{math.floor(value / unit) * unit:.4g}")

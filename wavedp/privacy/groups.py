"""The privacy of a record that a set holds several times.

Formal guarantee. `group_epsilon(mechanisms, delta, copies)` is an epsilon such that running all the mechanisms is
(epsilon, delta)-differentially private when `copies` records are added or removed together. Each copy is drawn into a
batch by itself, so a step moves the sum by j clipping norms at most, with j ~ Binomial(copies, q): a mixture of
Gaussians, which dominates (Ganesh, 2024, arXiv 2401.10294), composed by PLD as single records are.

    copies = 1               what accounting.compose gives
    copies > LARGEST         inf: nothing is claimed
    noise_multiplier = 0     inf
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dp_accounting.pld import privacy_loss_distribution as pld
from scipy.stats import binom

from wavedp.privacy import accounting
from wavedp.privacy.accounting import Mechanism

LARGEST = 64


def group_epsilon(mechanisms: Sequence[Mechanism], delta: float, copies: int) -> float:
    """Epsilon of all the mechanisms together for `copies` equal records, at `delta` in (0, 1)."""
    alone = accounting.compose(mechanisms, delta)
    if copies == 1 or not mechanisms or math.isinf(alone):
        return alone
    if copies > LARGEST:
        return math.inf
    interval = copies * accounting.grid_interval(mechanisms)
    total = pld.identity(value_discretization_interval=interval)
    for item in mechanisms:
        counts = range(copies + 1) if item.sample_rate < 1 else [copies]
        one = pld.from_mixture_gaussian_mechanism(
            item.noise_multiplier,
            [float(count) for count in counts],
            [float(binom.pmf(count, copies, item.sample_rate)) for count in counts],
            value_discretization_interval=interval,
        )
        total = total.compose(one.self_compose(item.steps))
    return float(total.get_epsilon_for_delta(delta))

"""Propose batch size, steps and learning rate of a private fit from its noise, without looking at data.

    python -m wavedp.privacy.recipe --n-records 60000 --epsilon 1 [--delta 1e-6] [--passes 40960]

    B  expected batch   T  steps   σ  noise multiplier for (epsilon, delta)   C  clipping norm   P = B T  passes

P is the number of per-record gradients that the fit computes, which sets its running time. All candidates divide the
same P into batches of 64, 128, ... up to N / 4 records.

Criterion. Suppose that the mean gradient is g at every step, as it nearly is in a short fit. T steps of learning rate η
move a weight by η T g and, through noise of σC/B per step, at random by η √T σC/B. The noise per unit of signal is
(C / g) times

    σ / (B √T),

whatever η is. While σ is small it hardly grows with B, so larger batches win by √B at equal P. In the Gaussian regime
(σ above 2 to 5), σ is proportional to B √T, so larger batches win nothing more and leave fewer steps to follow the
curvature of the loss. We therefore choose the smallest batch within 10 % of the smallest σ / (B √T), among candidates
of at least `fewest_steps` steps.

Learning rate, for Adam. Noise dominates √v̂, so T steps are a random walk of √T times the learning rate. The rule keeps
this product as in the shipped fit, 0.003 for 320 steps: 0.003 √(320 / T), which at the shipped P is 0.003 √(B / 128).

All this is a heuristic: `fewest_steps`, the 10 % and the learning rate are our judgement, and no bench has tested the
proposals yet. Sources: De et al., 2022, arXiv 2204.13650 (large batches, few steps: 250 updates of 16,384 records);
Sander et al., 2023, arXiv 2210.03403 (the noise σ / B per step and the number of steps decide the outcome).

A proposal looks at no record and costs no budget. It uses N, which is assumed to be public.

    case                                 result
    under 256 records or 64 passes       UserError
    no candidate has fewest_steps        UserError: fewest_steps * 64 passes are needed
    epsilon = inf                        σ = 0 for every candidate: the smallest batch
    no noise meets the budget            InfeasibleError from accounting.calibrate
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from wavedp.command import command
from wavedp.config import PrivacyConfig
from wavedp.errors import UserError
from wavedp.privacy import accounting

SHIPPED = PrivacyConfig()
SMALLEST_BATCH = 64
FEWEST_STEPS = 100
SLACK = 1.1


@dataclass(frozen=True)
class Recipe:
    """Settings for PrivacyConfig and the noise that they need. noise_per_step: σ / B, the standard deviation of the
    noise in one mean gradient, in units of C."""

    batch_size: int
    steps: int
    learning_rate: float
    noise_multiplier: float
    noise_per_step: float

    @property
    def noise_per_signal(self) -> float:
        """The criterion, σ / (B √T)."""
        return self.noise_per_step / math.sqrt(self.steps)


def propose(
    n_records: int, epsilon: float, delta: float | None, passes: int, fewest_steps: int = FEWEST_STEPS
) -> Recipe:
    """The candidate that the criterion chooses. delta: None for 1 / (N ln N). Raises UserError if there is none."""
    return choose(candidates(n_records, epsilon, delta, passes), fewest_steps)


def candidates(n_records: int, epsilon: float, delta: float | None, passes: int) -> list[Recipe]:
    """One recipe for each batch size that is a power of two from 64 to min(N / 4, passes), smallest first."""
    largest = min(n_records // 4, passes)
    if largest < SMALLEST_BATCH:
        raise UserError(
            f"{n_records} records and {passes} passes have no batch of {SMALLEST_BATCH} that is at most a quarter of "
            f"the records: use at least {4 * SMALLEST_BATCH} records and {SMALLEST_BATCH} passes."
        )
    sizes = [2**power for power in range(largest.bit_length()) if SMALLEST_BATCH <= 2**power <= largest]
    return [recipe(n_records, epsilon, delta, size, passes // size) for size in sizes]


def recipe(n_records: int, epsilon: float, delta: float | None, batch_size: int, steps: int) -> Recipe:
    """Complete a batch size and a number of steps with their noise and learning rate."""
    config = PrivacyConfig(epsilon=epsilon, delta=delta, batch_size=batch_size, steps=steps)
    noise_multiplier = accounting.mechanisms(config, n_records)[-1].noise_multiplier
    learning_rate = SHIPPED.learning_rate * math.sqrt(SHIPPED.steps / steps)
    return Recipe(batch_size, steps, float(f"{learning_rate:.2g}"), noise_multiplier, noise_multiplier / batch_size)


def choose(recipes: Sequence[Recipe], fewest_steps: int = FEWEST_STEPS) -> Recipe:
    """The smallest batch within 10 % of the least noise per signal, among recipes of at least `fewest_steps`."""
    allowed = [item for item in recipes if item.steps >= fewest_steps]
    if not allowed:
        raise UserError(
            f"No batch size leaves {fewest_steps} steps: use at least "
            f"{fewest_steps * min(item.batch_size for item in recipes)} passes, or lower fewest_steps."
        )
    bound = SLACK * min(item.noise_per_signal for item in allowed)
    return min((item for item in allowed if item.noise_per_signal <= bound), key=lambda item: item.batch_size)


def table(recipes: Sequence[Recipe], n_records: int, chosen: Recipe) -> str:
    """A table of the candidates for people, the chosen one marked."""
    text = [f"{'B':>8} {'T':>6} {'q':>9} {'sigma':>8} {'sigma/B':>9} {'x sqrt(T)':>9} {'/ sqrt(T)':>9} {'Adam lr':>8}"]
    for item in recipes:
        root = math.sqrt(item.steps)
        text.append(
            f"{item.batch_size:>8} {item.steps:>6} {item.batch_size / n_records:>9.3g} {item.noise_multiplier:>8.4g} "
            f"{item.noise_per_step:>9.3g} {item.noise_per_step * root:>9.3g} {item.noise_per_signal:>9.3g} "
            f"{item.learning_rate:>8.2g}" + ("  <- proposed" if item == chosen else "")
        )
    return "\n".join(text)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the candidates and the proposal; returns 2, after one sentence of explanation, if there is none."""
    parser = argparse.ArgumentParser(prog="python -m wavedp.privacy.recipe", description="How large a batch?")
    parser.add_argument("--n-records", type=int, required=True, help="records of the private training split")
    parser.add_argument("--epsilon", type=float, required=True, help="budget of the fit")
    parser.add_argument("--delta", type=float, help="probability of failure (default: 1 / (N ln N))")
    parser.add_argument(
        "--passes",
        type=int,
        default=SHIPPED.batch_size * SHIPPED.steps,
        help="record gradients that the fit may compute, B x T (default: %(default)s, those of the shipped fit)",
    )
    parser.add_argument(
        "--fewest-steps", type=int, default=FEWEST_STEPS, help="propose no fewer steps (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    found = candidates(options.n_records, options.epsilon, options.delta, options.passes)
    chosen = choose(found, options.fewest_steps)
    delta = accounting.delta(PrivacyConfig(delta=options.delta), options.n_records)
    print(table(found, options.n_records, chosen))
    print(
        f"At epsilon = {options.epsilon:g}, delta = {delta:.3g}: privacy.batch_size={chosen.batch_size} "
        f"privacy.steps={chosen.steps} privacy.learning_rate={chosen.learning_rate:g}. "
        f"The smallest batch within 10 % of the least sigma / (B sqrt(T)), a heuristic: no bench has tried it yet."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Figure F7: what a study's private releases cost together, against the number of its trials.

shared     the releases of the first n private trials, in the order of their rows, composed; with the last, the study
apart      the same trials if none had found another's release in the store, composed
added      ε of the shared releases added up (basic composition); δ adds up too
best of K  only the best of a random number of trials with mean n is seen (wavedp.privacy.selection), each drawn from
           the study's. No claim about this study, whose number of trials was fixed and which is published whole
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from analysis import captions
from analysis.load import Study, Trial
from analysis.price import composed, releases
from analysis.replicates import epsilon_text
from wavedp.errors import UserError

Law = Literal["poisson", "geometric", "logarithmic"]
LAWS: tuple[Law, ...] = ("poisson", "geometric", "logarithmic")
DENSE, GROWTH = 8, 1.3  # every number of trials up to the first, then steps by this factor


@dataclass(frozen=True)
class Step:
    """After `trials` private trials, which used `releases`; the three prices of the module."""

    trials: int
    releases: int
    shared: float
    apart: float
    added: float


@dataclass(frozen=True)
class Composition:
    """Contents of the figure. laws: {law of K: [(its mean, ε)]}; total: ε of all the study's `releases`."""

    study: str
    steps: list[Step]
    laws: dict[str, list[tuple[int, float]]]
    releases: int
    total: float
    caption: str
    provenance: dict[str, Any]


def composition_data(study: Study) -> Composition:
    """Prices after some of the trials, the last of them included. Raises UserError without a private release."""
    every = releases(study)
    used = [(trial, lines) for trial in study.trials if (lines := releases(study, [trial]))]
    if not used:
        raise UserError(f"{study.name} made no private release for a trial, so there is nothing to add up.")
    steps = [_step(study, used[:count]) for count in _counts(len(used))]
    laws = _laws([lines for _, lines in used], [step.trials for step in steps])
    total = composed(every)
    return Composition(
        study.name, steps, laws, len(every), total, _caption(study, steps[-1], total, bool(laws)), study.provenance()
    )


def _counts(most: int) -> list[int]:
    counts = list(range(1, min(DENSE, most) + 1))
    while counts[-1] < most:
        counts.append(min(most, math.ceil(counts[-1] * GROWTH)))
    return counts


def _step(study: Study, used: Sequence[tuple[Trial, list[dict[str, Any]]]]) -> Step:
    shared = releases(study, [trial for trial, _ in used])
    alone = [line | {"stage_key": f"{line['stage_key']} of {trial.trial}"} for trial, lines in used for line in lines]
    sums: dict[str, float] = {}
    for line in shared:
        sums[line["dataset"]] = sums.get(line["dataset"], 0.0) + float(line["epsilon"])
    return Step(len(used), len(shared), composed(shared), composed(alone), max(sums.values()))


def _laws(runs: Sequence[list[dict[str, Any]]], means: Sequence[int]) -> dict[str, list[tuple[int, float]]]:
    """Nothing where a mechanism has no price of selection, or where the runs are of several data sets."""
    from wavedp.privacy import ledger, selection

    if len({line["dataset"] for lines in runs for line in lines}) > 1:
        return {}
    delta = max(line["delta"] for lines in runs for line in lines)
    try:
        candidates = [[ledger.mechanism_of(line) for line in lines] for lines in runs]
        return {
            law: [
                (mean, selection.epsilon_of_best(candidates, delta, selection.RandomK(law, mean=mean)))
                for mean in means
                if mean > 1
            ]
            for law in LAWS
        }
    except UserError:
        return {}


def _caption(study: Study, last: Step, total: float, has_laws: bool) -> str:
    best = (
        "Dotted: of whoever sees only the best of a random number K of trials, of that mean, each drawn from the "
        "study's (arXiv 2110.03620); no claim about this study, which is published whole."
    )
    return " ".join(
        [
            f"{study.name}: {last.trials} private trials use {captions.count_text(last.releases)}; its whole ledger, "
            f"{captions.count_text(len(releases(study)))}, composes to ε = {epsilon_text(total)} (marker).",
            "Solid: the releases of the first n private trials, composed. Dashed: if each trial had made its own. "
            "Dash-dotted: ε added up, whose δ adds up too.",
            *([best] if has_laws else []),
            captions.privacy_sentence(study),
            captions.nonprivate_sentence(study),
        ]
    )

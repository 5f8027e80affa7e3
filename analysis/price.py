"""Privacy cost of publishing a set of trials: the composed ε of all their private releases.

Formal guarantee. The images of the chosen trials, published together, are (ε, δ)-private for the returned ε and the
largest δ of the lines, under the neighbouring relation that the lines state (wavedp.privacy.ledger.composed_epsilon).
Lines of kind nonprivate (fits at ε = ∞, the statistics behind the scores) have no ε and are not included: whoever
quotes the number must name them, as every caption here does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from analysis.load import Study, Trial


def releases(study: Study, trials: Iterable[Trial] | None = None) -> list[dict[str, Any]]:
    """Return the private releases that `trials` use (None: all of the study), one ledger line each.

    A trial uses a release if the line names the trial, or if one of its stages has the line's key: a trial that reused
    the release from the store depends on it as much as the trial that made it.
    """
    from wavedp.privacy import ledger  # the accountant's libraries take seconds to import

    private = [line for line in ledger.releases(study.ledger) if line["kind"] != "nonprivate"]
    if trials is None:
        return private
    trials = list(trials)
    names = {trial.trial for trial in trials}
    keys = {key for trial in trials for key in trial.keys.values()}
    return [line for line in private if line["stage_key"] in keys or names & set(line["trials"])]


def composed(lines: list[dict[str, Any]]) -> float:
    """Composed ε of these releases: the maximum over data sets, since a record is in only one; 0 without a release."""
    if not lines:
        return 0.0
    from wavedp.privacy import ledger

    return max(ledger.composed_epsilon(lines, max(line["delta"] for line in lines)).values())

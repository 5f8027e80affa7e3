"""Limits on what a study may spend: the ε of all its releases together, and hours of GPU.

Formal guarantee. If every release of a study passed `release_refusal` before it was made, with all earlier releases and
all those in flight among `releases`, then all of them together are (budget.epsilon, δ)-differentially private for the
records of each dataset, at the largest δ that a release of that dataset states, as wavedp.privacy.accounting.compose
defines it. Lines of kind nonprivate, such as statistics of a held-out split, count towards no ε and are not refused
here.

    case                                      result
    no budget.epsilon, no budget.gpu_hours    nothing is refused
    a release that is made or in flight       never refused again: it is reused, not repeated
    ... whose artifact was lost               not refused either; made again from other public weights it is a second
                                              release, which counts in the decisions after it
    a release that another study made         counts as a release of this study too, since both publish from it
    a fit at ε = ∞, real images as samples    refused under any finite budget.epsilon
    a release that does not fit               refused; a later request for a smaller one may still fit
    a release that failed                     its caller takes it out of `releases`: nothing left the stage
    a machine without a GPU                   0 hours, so budget.gpu_hours > 0 refuses nothing
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wavedp.errors import UserError
from wavedp.privacy import accounting
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.ledger import Line, mechanism_of


@dataclass(frozen=True)
class Budget:
    """Limits of a study; None is no limit. epsilon: of all releases of one dataset, composed. gpu_hours: of all stages,
    time × num_gpus."""

    epsilon: float | None = None
    gpu_hours: float | None = None

    def __post_init__(self) -> None:
        for name in ("epsilon", "gpu_hours"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and value >= 0):
                raise UserError(f"budget.{name}={value} is not a limit: use a number >= 0, or null for none.")


@dataclass(frozen=True)
class Release:
    """The mechanisms that one private fit runs on a dataset (a fingerprint), and the delta that it states."""

    dataset: str
    mechanisms: tuple[Mechanism, ...]
    delta: float


def made(lines: Iterable[Line]) -> dict[str, Release]:
    """The private releases of a ledger by stage key; several releases of one stage become one entry."""
    found: dict[str, Release] = {}
    for line in lines:
        if line["kind"] != "nonprivate":
            before = found[line["stage_key"]].mechanisms if line["stage_key"] in found else ()
            found[line["stage_key"]] = Release(line["dataset"], (*before, mechanism_of(line)), line["delta"])
    return found


def release_refusal(budget: Budget, releases: Mapping[str, Release], key: str, asked: Release) -> str | None:
    """The reason to refuse the release `asked` beside `releases` (by stage key, made or in flight); None allows it."""
    if budget.epsilon is None or key in releases:
        return None
    beside = [release for release in releases.values() if release.dataset == asked.dataset]
    mechanisms = [item for release in [*beside, asked] for item in release.mechanisms]
    delta = max(release.delta for release in [*beside, asked])
    # Both are upper bounds, so one of them within the budget is enough; RDP takes milliseconds.
    if accounting.compose(mechanisms, delta, "rdp") <= budget.epsilon:
        return None
    epsilon = accounting.compose(mechanisms, delta)
    if epsilon <= budget.epsilon:
        return None
    return (
        f"release {key[:8]} would bring the {len(beside) + 1} releases of dataset {asked.dataset[:12]} to "
        f"epsilon={epsilon:.4g} at delta={delta:.3g}, over budget.epsilon={budget.epsilon:g}: raise it, or ask for "
        "fewer releases or a smaller epsilon."
    )


def stage_refusal(budget: Budget, gpu_seconds: float) -> str | None:
    """The reason to start no further stage after `gpu_seconds` (seconds × num_gpus, running stages included); None to
    go on."""
    if budget.gpu_hours is None or gpu_seconds <= 3600 * budget.gpu_hours:
        return None
    return (
        f"the study's stages have used {gpu_seconds / 3600:.3g} GPU hours, over budget.gpu_hours="
        f"{budget.gpu_hours:g}: raise it and start the same command again."
    )

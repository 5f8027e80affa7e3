"""Common to generators whose private fit is one Gaussian release of sums by class (wavedp.privacy.one_release).

The artifact of `private_fit` is the release itself, and nothing else. Whatever a generator makes of it is
post-processing, which runs in the stage `coarse_samples`: fields that only this reads (`stage="coarse_samples"`) are in
no key before it, so that a sweep over them makes one release.
"""

from __future__ import annotations

from typing import ClassVar

from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.generators import GeneratorMethod, gaussian
from wavedp.methods import Needs
from wavedp.privacy.accounting import Mechanism


class OneRelease(GeneratorMethod):
    """purpose: the name of its mechanism in the plan and in the ledger."""

    purpose: ClassVar[str]

    def needs(self, trial: TrialConfig) -> Needs:
        """δ and the source of the noise, beside ε, which every trial reads. No public images: it is not pretrained."""
        return Needs(fields=frozenset({"privacy.delta", "privacy.noise_source"}))

    def mechanisms(self, trial: TrialConfig, n_records: int) -> dict[str, Mechanism]:
        """One Gaussian release at the whole budget, for all classes together."""
        return gaussian(trial, n_records, self.purpose)

    def check(self, trial: TrialConfig) -> list[str]:
        """There is a budget, since there is no public model."""
        require_budget(trial)
        return []


def require_budget(trial: TrialConfig) -> None:
    """Raise UserError for ε = 0 where there is no public model."""
    if trial.privacy.epsilon == 0:
        raise UserError(
            f"generator={trial.generator.name} knows nothing without its release, and privacy.epsilon=0 pays for none: "
            "use epsilon > 0, or a generator with public pretraining."
        )

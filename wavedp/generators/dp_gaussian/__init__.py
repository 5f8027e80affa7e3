"""`dp_gaussian`: a normal distribution of the coarse image for each class, from one release of its moments.

Nothing is trained, on public images or on sensitive ones: the floor that every trained method must beat. The mechanism
is that of Dwork et al., *Analyze Gauss* (STOC 2014): the Gaussian mechanism on a second-moment matrix. The count and
the mean come from the same matrix, by a constant coordinate. `model` has the sensitivity and the repair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wavedp import data
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.generators import coarse_shape
from wavedp.generators.one_release import OneRelease
from wavedp.methods import Inputs

if TYPE_CHECKING:
    from wavedp.generators.dp_gaussian.model import DPGaussianModel

PURPOSE = "class_moments"

MOST = 4096
"""Numbers of a coarse image: with more, a class's matrix takes over 70 MB and its eigenvectors minutes."""


@dataclass(frozen=True)
class DPGaussianConfig:
    """The clipping of a record, and the repair of the noisy covariance."""

    name: str = result("dp_gaussian")
    # Root mean square difference from mid-grey, 1/2, to which a record is clipped; 0.5, the largest that an image in
    # [0, 1] can have, clips none.
    clip_rms: float = result(0.5, within="(0, 0.5]", stage="private_fit")
    # Eigenvalues of the noisy covariance up to this many times the largest that noise alone has are dropped.
    edge: float = result(1.0, within="[0, inf)", stage="coarse_samples")


class DPGaussian(OneRelease):
    """See the module's docstring."""

    name = "dp_gaussian"
    Config = DPGaussianConfig
    purpose = PURPOSE

    def check(self, trial: TrialConfig) -> list[str]:
        """A budget, and images that are not too large for a matrix of their pixels."""
        shape = coarse_shape(trial)
        size = math.prod(shape)
        if size > MOST:
            raise UserError(
                f"generator=dp_gaussian takes the covariance of all numbers of a coarse image, and {size:,} at "
                f"level={trial.level} (C, h, w = {shape}) are more than {MOST:,}: use a higher level."
            )
        return super().check(trial)

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> DPGaussianModel:
        """For coarse images of the trial. Everything runs on the CPU."""
        from wavedp.generators.dp_gaussian.model import DPGaussianModel

        return DPGaussianModel(trial.generator, coarse_shape(trial), data.n_classes(trial.data))

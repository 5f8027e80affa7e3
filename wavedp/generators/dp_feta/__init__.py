"""`dp_feta`: DPDM that first warms up on one noisy mean image of each class.

Source: DP-FETA, Li, Gong, Li, Zhao, Hou and Wang (S&P 2025, arXiv 2504.01395; SunnierLee/DP-FETA), configured as in
DPImageBench (2019ChenGong/DPImageBench, configs/DP-FETA/fmnist_28_eps1.0.yaml). The network, the loss and the sampler
are dpdm's. No public image is used.

What is not as in the benchmark, whose five queries of Poisson batches have a sensitivity that takes the batch's class
counts for known: here one release of all records holds noisy counts too (wavedp.privacy.statistics), for a share of ε.
Its ten images, more exact than the fifty there, are varied by RandAugment as there, but neither blurred nor sharpened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from wavedp import data
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import privacy, result
from wavedp.generators import coarse_shape
from wavedp.generators.dp_sgd import n_records
from wavedp.generators.dpdm import DPDM, EDMConfig
from wavedp.methods import Inputs
from wavedp.privacy import accounting
from wavedp.privacy.accounting import Mechanism

if TYPE_CHECKING:
    from wavedp.generators.dp_feta.model import DPFETAModel


@dataclass(frozen=True)
class DPFETAConfig(EDMConfig):
    """The means and the warm-up on them, before what dpdm does."""

    first_stage: ClassVar[str] = "private_fit"
    name: str = result("dp_feta")
    mean_share: float = privacy(0.1, within="(0, 1)")  # of ε, for the class means
    mean_halvings: int = result(1, within="[0, 8]")  # of the side before means are taken, as often as it is even
    warm_up_steps: int = result(2000, within="[0, inf)")  # this and what follows costs no ε, but is in the release
    warm_up_batch: int = result(50, within="[1, inf)")
    warm_up_learning_rate: float = result(3e-4, within="(0, inf)")  # at the start; it falls to 0 along a cosine


class DPFETA(DPDM):
    """See the module's docstring."""

    name = "dp_feta"
    Config = DPFETAConfig

    def mechanisms(self, trial: TrialConfig, n_records: int) -> dict[str, Mechanism]:
        """The release of class means, for its share of ε, those of `beside`, and the subsampled fit with what they all
        together leave it."""
        share = trial.generator.mean_share
        means = accounting.for_share(trial.privacy, n_records, share, "generator.mean_share", "the class means")
        before = {"class_means": means, **self.beside(trial, n_records)}
        (fit,) = accounting.mechanisms(trial.privacy, n_records, tuple(before.values()))
        return {**before, "private_fit": fit}

    def beside(self, trial: TrialConfig, n_records: int) -> dict[str, Mechanism]:
        """Releases that the warm-up needs beside class means, by purpose."""
        return {}

    def check(self, trial: TrialConfig) -> list[str]:
        """Classes to take means of, and shares that some noise meets."""
        config = trial.generator
        if config.conditioning != "class":
            raise UserError(
                f"generator={self.name} begins with class means, and generator.conditioning={config.conditioning} has "
                "no classes: use conditioning=class, or generator=dpdm."
            )
        if trial.privacy.noise_source == "secure":
            raise UserError(
                f"privacy.noise_source=secure cannot be repeated, and the class means of generator={self.name} would "
                "be drawn again at every restart: use noise_source=seeded, or generator=dpdm."
            )
        warned = super().check(trial)
        self.mechanisms(trial, n_records(trial.data, "train"))
        return warned

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> DPFETAModel:
        """For coarse images of the trial."""
        from wavedp.generators.dp_feta.model import DPFETAModel

        return DPFETAModel(trial.generator, coarse_shape(trial), data.n_classes(trial.data), device)

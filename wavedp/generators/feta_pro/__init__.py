"""`feta_pro`: DP-FETA with a second warm-up, on images of a DP-MERF generator.

Source: FETA-Pro, *From Easy to Hard++: Promoting Differentially Private Image Synthesis Through Time-Frequency
Curriculum* (USENIX Security 2026, arXiv 2601.06368; 2019ChenGong/Feta-Pro, configs/DP-FETA-Pro/fmnist_28_eps*.yaml).
The means and their warm-up are dp_feta's, the noisy mean embedding and the generator trained on it dp_merf's, the
network, the loss and the sampler dpdm's. No public image is used.

What is not as published, besides what dp_feta and dp_merf say of themselves: the embedding's sensitivity is 1 / N
there, with N and each class's share of it taken for known; here noisy counts are released with the sums, and images to
warm up on are drawn of all classes alike, since class counts are private. Noise is given as shares of ε, where the
repository has one noise for ε <= 5 and one above: at N = 55,000 and ε = 1 it spends 0.042 on five batches of means
and 0.135 on the embedding, at ε = 10 it spends 0.21 and 0.53 (by PLD). The generator is dp_merf's small network, and
the rate of the warm-ups falls along a cosine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wavedp import data
from wavedp.config import TrialConfig
from wavedp.fields import privacy, result
from wavedp.generators import coarse_shape
from wavedp.generators.dp_feta import DPFETA, DPFETAConfig
from wavedp.generators.dp_merf import PURPOSE, check_features
from wavedp.generators.mean_embedding import check_network
from wavedp.methods import Inputs
from wavedp.privacy import accounting
from wavedp.privacy.accounting import Mechanism

if TYPE_CHECKING:
    from wavedp.generators.feta_pro.model import FETAProModel

PREFIX = "embedding_"
"""Of the fields that are dp_merf's without it."""


@dataclass(frozen=True)
class FETAProConfig(DPFETAConfig):
    """The embedding, the generator that is trained on it, and the warm-up on that generator's images; all that follows
    the share costs no ε, but is in the release."""

    name: str = result("feta_pro")
    mean_share: float = privacy(0.05, within="(0, 1)")  # of ε, for the class means
    warm_up_steps: int = result(1000, within="[0, inf)")  # on means; the learning rate is of both warm-ups
    embedding_share: float = privacy(0.1, within="(0, 1)")  # of ε, for the mean embedding
    embedding_features: int = result(10_000, within="[2, inf)")  # d, even
    embedding_kernel_variance: float = result(105.0, within="(0, inf)")  # σ², of images of 784 numbers
    embedding_channels: int = result(32, within="[8, inf)")  # of the generator's finest layer, a multiple of 8
    embedding_train_steps: int = result(3000, within="[0, inf)")
    embedding_train_batch: int = result(100, within="[2, inf)")
    embedding_train_learning_rate: float = result(1e-2, within="(0, inf)")
    embedding_images: int = result(60_000, within="[1, inf)")  # that the generator makes, of all classes alike
    embedding_warm_up_steps: int = result(2340, within="[0, inf)")  # on those images
    embedding_warm_up_batch: int = result(256, within="[1, inf)")


class FETAPro(DPFETA):
    """See the module's docstring."""

    name = "feta_pro"
    Config = FETAProConfig

    def beside(self, trial: TrialConfig, n_records: int) -> dict[str, Mechanism]:
        """The release of the mean embedding, for its share of ε."""
        share = trial.generator.embedding_share
        found = accounting.for_share(trial.privacy, n_records, share, "generator.embedding_share", "the mean embedding")
        return {PURPOSE: found}

    def check(self, trial: TrialConfig) -> list[str]:
        """As for dp_feta and dp_merf."""
        check_network(trial, PREFIX)
        check_features(trial, PREFIX)
        return super().check(trial)

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> FETAProModel:
        """For coarse images of the trial."""
        from wavedp.generators.feta_pro.model import FETAProModel

        return FETAProModel(trial.generator, coarse_shape(trial), data.n_classes(trial.data), device)

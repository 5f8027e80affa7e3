"""`dp_mepf`: a convolutional generator trained on one noisy mean of a public network's features for each class.

Source: Harder, Jalali, Sutherland and Park, *Pre-trained Perceptual Features Improve Differentially Private Image
Generation* (TMLR 2023, arXiv 2205.12900; ParkLabML/DP-MEPF). The first moment alone is what its commands for
Fashion-MNIST match, in batches of 100; 1e-3 is its rate for labelled CIFAR-10. A tenth of its 200,000 steps is ours.
`second_moment_share` adds a release of the second moment.

Where this is not that code: the network is EfficientNet-Lite0 (ImageNet), which a package brings, not VGG-19 or a
ResNet-18; the moments are matched by `dp_merf`'s unbiased loss, network and rate, not by Adam's moving averages; counts
are noisy; no validation loss is released. For the second moment that code takes half of its sensitivity of 2/N, since
squares are not negative; but two such vectors of length 1 can be √2 apart. `model` has what holds here.

The public images are those that the network was trained on: no others are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wavedp import data
from wavedp.config import TrialConfig
from wavedp.fields import privacy, result
from wavedp.generators import coarse_shape, gaussian
from wavedp.generators.mean_embedding import MatchedConfig, MeanEmbedding
from wavedp.methods import Inputs
from wavedp.privacy import accounting
from wavedp.privacy.accounting import Mechanism

if TYPE_CHECKING:
    from wavedp.generators.dp_mepf.model import DPMEPFModel

PURPOSE, SQUARES = "feature_means", "feature_squares"


@dataclass(frozen=True)
class DPMEPFConfig(MatchedConfig):
    """The features, the moments that are released, and the generator that is trained on them."""

    name: str = result("dp_mepf")
    side: int = result(64, within="[32, inf)", stage="private_fit")  # pixels to which the network's images are enlarged
    # Of epsilon, for the features' squares by themselves; the means get what keeps both within it. 0: no squares.
    second_moment_share: float = privacy(0.0, within="[0, 1)", stage="private_fit")
    train_steps: int = result(20_000, within="[0, inf)", stage="coarse_samples")
    train_learning_rate: float = result(1e-3, within="(0, inf)", stage="coarse_samples")


class DPMEPF(MeanEmbedding):
    """See the module's docstring."""

    name = "dp_mepf"
    Config = DPMEPFConfig
    purpose = PURPOSE

    def mechanisms(self, trial: TrialConfig, n_records: int) -> dict[str, Mechanism]:
        """The release of the means, and of the squares where they have a share."""
        share, epsilon = trial.generator.second_moment_share, trial.privacy.epsilon
        if not share:
            return gaussian(trial, n_records, PURPOSE)
        delta = accounting.delta(trial.privacy, n_records)
        squares = Mechanism(1, accounting.calibrate(share * epsilon, delta, 1, 1), 1)
        means = Mechanism(1, accounting.calibrate(epsilon, delta, 1, 1, (squares,)), 1)
        return {PURPOSE: means, SQUARES: squares}

    def check_models(self, trial: TrialConfig) -> None:
        """The public network."""
        from wavedp.generators.dp_mepf.model import public_network

        public_network("cpu")

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> DPMEPFModel:
        """For coarse images of the trial."""
        from wavedp.generators.dp_mepf.model import DPMEPFModel

        return DPMEPFModel(trial.generator, coarse_shape(trial), data.n_classes(trial.data), device)

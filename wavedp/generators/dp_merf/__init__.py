"""`dp_merf`: a convolutional generator trained on one noisy mean embedding of each class.

Source: Harder, Adamczewski and Park, *DP-MERF* (AISTATS 2021, arXiv 2002.11603); d = 10,000, σ² = 105, 5 epochs of
batches of 100 and Adam's rate of 0.01 are published for Fashion-MNIST. The network, its rate's cosine, the unbiased
loss and the noisy counts in place of 1/N are ours; `mean_embedding.model` has the sensitivity. No public image is used.

The release is all of `private_fit`. The generator is trained on it in the stage `coarse_samples`, where other settings
of the training cost no ε, and where whoever draws more samples trains the same generator again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wavedp import data
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.generators import coarse_shape
from wavedp.generators.mean_embedding import MatchedConfig, MeanEmbedding
from wavedp.methods import Inputs

if TYPE_CHECKING:
    from wavedp.generators.dp_merf.model import DPMERFModel

PURPOSE = "mean_embedding"


@dataclass(frozen=True)
class DPMERFConfig(MatchedConfig):
    """The embedding, which is released, beside the generator that is trained on it."""

    name: str = result("dp_merf")
    features: int = result(10_000, within="[2, inf)", stage="private_fit")  # d, even: as many cosines as sines
    # σ² of the Gaussian kernel for images of 784 numbers in [0, 1]; for D numbers it is σ² D / 784.
    kernel_variance: float = result(105.0, within="(0, inf)", stage="private_fit")


class DPMERF(MeanEmbedding):
    """See the module's docstring."""

    name = "dp_merf"
    Config = DPMERFConfig
    purpose = PURPOSE

    def check(self, trial: TrialConfig) -> list[str]:
        """As for all mean embeddings, and features in pairs."""
        check_features(trial)
        return super().check(trial)

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> DPMERFModel:
        """For coarse images of the trial."""
        from wavedp.generators.dp_merf.model import DPMERFModel

        return DPMERFModel(trial.generator, coarse_shape(trial), data.n_classes(trial.data), device)


def check_features(trial: TrialConfig, prefix: str = "") -> None:
    """Raise UserError for `features` that are no pairs. prefix: of the field's name."""
    features = getattr(trial.generator, f"{prefix}features")
    if features % 2:
        raise UserError(f"generator.{prefix}features={features} are cosines and sines in pairs: use an even number.")

"""`dp_ntk`: a convolutional generator trained on one noisy mean of neural tangent features for each class.

Source: Yang, Adamczewski, Li, Sutherland and Park, *Differentially Private Neural Tangent Kernels* (JAIR 2024, arXiv
2303.01687); one hidden layer of 800 units, 2,000 iterations of 5,000 images and Adam's rate of 0.01 are DPImageBench's.

Where this is not that code: all records are in the release, of which DPImageBench's has one batch; the hidden layer has
no layer norm; the network that is trained, its rate's cosine, the unbiased loss and the noisy counts in place of 1/N
are those of `dp_merf`. `model` has the features, `mean_embedding.model` the sensitivity. No public image is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wavedp import data
from wavedp.config import TrialConfig
from wavedp.fields import result
from wavedp.generators import coarse_shape
from wavedp.generators.mean_embedding import MatchedConfig, MeanEmbedding
from wavedp.methods import Inputs

if TYPE_CHECKING:
    from wavedp.generators.dp_ntk.model import DPNTKModel

PURPOSE = "ntk_embedding"


@dataclass(frozen=True)
class DPNTKConfig(MatchedConfig):
    """The network whose gradient is released, beside the generator that is trained on it."""

    name: str = result("dp_ntk")
    hidden: int = result(800, within="[1, inf)", stage="private_fit")  # units
    train_steps: int = result(2000, within="[0, inf)", stage="coarse_samples")
    train_batch: int = result(5000, within="[2, inf)", stage="coarse_samples")


class DPNTK(MeanEmbedding):
    """See the module's docstring."""

    name = "dp_ntk"
    Config = DPNTKConfig
    purpose = PURPOSE

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> DPNTKModel:
        """For coarse images of the trial."""
        from wavedp.generators.dp_ntk.model import DPNTKModel

        return DPNTKModel(trial.generator, coarse_shape(trial), data.n_classes(trial.data), device)

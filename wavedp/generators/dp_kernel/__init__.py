"""`dp_kernel`: a convolutional generator trained by noisy mean embeddings of small batches, step by step.

Source: Jiang, Sun and Yu, *Functional Rényi Differential Privacy for Generative Modeling* (NeurIPS 2023): maximum mean
discrepancy under a mixture of Gaussian kernels of bandwidths 1, 2, 4, 8, 16, with noise at each step. Batches of 60,
200,002 steps and RMSprop's rate of 5e-5 are DPImageBench's, which has the method as DP-Kernel.

The mechanism is not that of the published code (dihjiang/DP-kernel), whose accounting does not cover it: there the
noise is a constant in the loss, so that generated images get the exact gradient of the batch; the noisy function is
looked at in the private images themselves; generated images have the batch's own labels; no noise is added where a
factorisation fails; and the noise's variance has the factor that belongs to its deviation. Here all that a step sees of
its batch is one Gaussian release of bounded sums, with Poisson batches, accounted as (q, σ, steps): see `model`. The
network, its rate's cosine and the unbiased loss are those of `dp_merf`. No public image is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wavedp import data
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import privacy, result
from wavedp.generators import GeneratorMethod, coarse_shape
from wavedp.generators.mean_embedding import check_network
from wavedp.generators.one_release import require_budget
from wavedp.methods import Inputs, Needs
from wavedp.privacy import accounting
from wavedp.privacy.accounting import Mechanism

if TYPE_CHECKING:
    from wavedp.generators.dp_kernel.model import DPKernelModel

PURPOSE, KIND = "batch_embeddings", "noisy_batch_sum"


@dataclass(frozen=True)
class DPKernelConfig:
    """The kernel, the batches, and the generator that they train."""

    name: str = result("dp_kernel")
    batch: int = privacy(60, within="[1, inf)", stage="private_fit")  # expected records a step; q = batch / N
    steps: int = privacy(200_002, within="[1, inf)", stage="private_fit")
    # The smallest bandwidth, for images of 784 numbers in [-1, 1]; for D numbers in [0, 1] it is √(D / 784) / 2 of it.
    bandwidth: float = result(1.0, within="(0, inf)", stage="private_fit")
    bandwidths: int = result(5, within="[1, inf)", stage="private_fit")  # each twice the one before
    features: int = result(1000, within="[2, inf)", stage="private_fit")  # d, random and new at each step
    channels: int = result(32, within="[8, inf)", stage="private_fit")  # of the finest layer, a multiple of 8
    train_batch: int = result(60, within="[2, inf)", stage="private_fit")  # generated images a step, all classes alike
    train_learning_rate: float = result(5e-5, within="(0, inf)", stage="private_fit")  # RMSprop's; falls to 0


class DPKernel(GeneratorMethod):
    """See the module's docstring."""

    name, Config = "dp_kernel", DPKernelConfig

    def needs(self, trial: TrialConfig) -> Needs:
        """δ and the source of the noise, beside ε. No public images, and nothing of DP-SGD's."""
        return Needs(fields=frozenset({"privacy.delta", "privacy.noise_source"}))

    def mechanisms(self, trial: TrialConfig, n_records: int) -> dict[str, Mechanism]:
        """The releases of all steps' batches."""
        config = trial.generator
        if config.batch > n_records:
            raise UserError(
                f"generator.batch={config.batch} cannot be drawn from {n_records} records: use 1 <= batch <= "
                f"{n_records}."
            )
        rate, delta = config.batch / n_records, accounting.delta(trial.privacy, n_records)
        sigma = accounting.calibrate(trial.privacy.epsilon, delta, rate, config.steps)
        return {PURPOSE: Mechanism(rate, sigma, config.steps, KIND)}

    def check(self, trial: TrialConfig) -> list[str]:
        """A budget, a network that can be built, and as many features of each bandwidth, in pairs."""
        require_budget(trial)
        check_network(trial)
        config = trial.generator
        if config.features % (2 * config.bandwidths):
            raise UserError(
                f"generator.features={config.features} are not as many cosines and sines of each of "
                f"{config.bandwidths} bandwidths: use a multiple of {2 * config.bandwidths}."
            )
        return []

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> DPKernelModel:
        """For coarse images of the trial."""
        from wavedp.generators.dp_kernel.model import DPKernelModel

        return DPKernelModel(trial.generator, coarse_shape(trial), data.n_classes(trial.data), device)

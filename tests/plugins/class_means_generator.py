"""A generator in one file: the mean coarse image of every class, released once, with pixel noise of our own on it.

Put this folder on PYTHONPATH and set `generator.name=class_means_generator:ClassMeans`. There is no training: the whole
budget goes into one Gaussian release. Planning imports this file and not torch, so torch is imported where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass

from wavedp import data
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.generators import GeneratorMethod, PrivateFit, gaussian
from wavedp.methods import Needs


@dataclass(frozen=True)
class ClassMeansConfig:
    """Every field has a class: `result` fields are in the keys of the stages."""

    name: str = result("class_means")
    # The deviation of a pixel from the mean of its class; a number says which values it takes.
    spread: float = result(0.1, within="[0, inf)", stage="coarse_samples")


class ClassMeans(GeneratorMethod):
    """The declaration: what the plan, the budget and the keys ask."""

    name, Config = "class_means", ClassMeansConfig

    def needs(self, trial):
        """Of the shared fields only delta, beside epsilon, which every trial reads."""
        return Needs(fields=frozenset({"privacy.delta"}))

    def mechanisms(self, trial, n_records):
        """One Gaussian release at the whole budget."""
        return gaussian(trial, n_records, "class_means")

    def check(self, trial):
        """There is a budget."""
        if trial.privacy.epsilon == 0:
            raise UserError("generator=class_means knows nothing without private data: use privacy.epsilon > 0.")
        return []

    def build(self, trial, inputs, device):
        """The model for coarse images of the trial."""
        return ClassMeansModel(trial.generator, data.n_classes(trial.data))


class ClassMeansModel:
    """The model: what the stages `private_fit` and `coarse_samples` run."""

    def __init__(self, config, n_classes):
        self.config, self.n_classes = config, n_classes

    def fit_private(self, weights, images, conditions, fit, report):
        """wavedp's own Gaussian mechanism; the mechanism and the id of its noise go to the ledger."""
        from wavedp.privacy.statistics import class_means, means_release

        planned, records = fit.mechanisms["class_means"], (images, conditions, self.n_classes)
        means = class_means(*records, noise_multiplier=planned.noise_multiplier, seed=fit.seed)
        release = means_release(*records, planned.noise_multiplier)
        return PrivateFit({"means": means}, {"class_means": planned}, {"class_means": release})

    def sample(self, weights, conditions, sampling, seed, report):
        """All noise is drawn at once, so that batches cannot matter."""
        import torch

        from wavedp.seeds import derive_seed

        means = weights["means"][conditions]
        generator = torch.Generator().manual_seed(derive_seed(seed, "coarse_samples"))
        return (means + self.config.spread * torch.randn(means.shape, generator=generator)).clamp(0, 1)

"""FETA-Pro: DP-FETA's warm-up, one on images of a generator of noisy mean embeddings, and DP-SGD from there.

    B  records   K  classes   C h w  pixels of the coarse image   d  features of the embedding

Three mechanisms see the records, each with noise of its own and a line in the plan and in the ledger.

* `class_means`: as wavedp.generators.dp_feta.model proves, for mean_share ε.
* `mean_embedding`: as wavedp.generators.mean_embedding.model proves, on DP-MERF's features of the coarse image, which
  have norm 1: adding or removing a record changes all K (d + 1) numbers together by exactly √(1 + 1 / √d). For
  embedding_share ε.
* `private_fit`: the Poisson-subsampled Gaussian of wavedp.privacy.training, from weights that follow from the two
  releases, public numbers and a seed. It gets the noise with which all three spend at most ε together, and refuses to
  start with less.

Between the releases and the fit there is post-processing only: the generator is trained on the embedding, draws images
whose labels are 0..K-1 over and over, and the denoiser learns these after it has learned the means.

    case                                     result
    embedding_warm_up_steps = 0              dp_feta, with the noise of a fit that paid for an embedding
    fewer images than classes                some classes are not shown in the second warm-up
    a class without records                  images from a direction of pure noise
    shares that together leave nothing       InfeasibleError in the plan
    epsilon = inf                            exact means and embeddings, and no noise in the fit
    killed, and run again                    the same releases and warm-ups, then the checkpoint of the fit
"""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from wavedp.generators import FitSettings, PrivateFit
from wavedp.generators.dp_feta.model import DPFETAModel
from wavedp.generators.dp_merf import DPMERFConfig
from wavedp.generators.dp_merf.model import DPMERFModel
from wavedp.generators.dpdm.network import EDMUNet
from wavedp.generators.feta_pro import PREFIX, FETAProConfig
from wavedp.generators.mean_embedding.network import drawn
from wavedp.methods import Weights
from wavedp.progress import silent
from wavedp.seeds import derive_seed

AT_ONCE = 1000
"""Images that the generator draws at a time."""


class FETAProModel(DPFETAModel):
    """From random weights by way of class means and mean embeddings. config: a FETAProConfig."""

    config: FETAProConfig

    def first(self, images: Tensor, conditions: Tensor, fit: FitSettings) -> PrivateFit:
        """The weights that DP training begins with, and the two releases that they follow from."""
        first = super().first(images, conditions, fit)
        embedded = self.merf().fit_private({}, images, conditions, fit, silent)
        network = self.network(self.n_classes, first.weights)
        weights = self.warmed_up_again(network, embedded.weights, derive_seed(fit.seed, "second warm up"))
        return PrivateFit(weights, {**first.mechanisms, **embedded.mechanisms}, {**first.releases, **embedded.releases})

    def merf(self) -> DPMERFModel:
        """The release of the embedding, and the training on it."""
        own = [item.name for item in fields(DPMERFConfig) if item.name != "name"]
        config = DPMERFConfig(**{name: getattr(self.config, PREFIX + name) for name in own})
        return DPMERFModel(config, self.shape, self.n_classes, self.device)

    def warmed_up_again(self, network: EDMUNet, embedding: Weights, seed: int) -> Weights:
        """Its weights after a warm-up on images of the generator that is trained on the released embedding."""
        config = self.config
        labels = torch.arange(config.embedding_images) % self.n_classes
        images = drawn(self.merf().trained(embedding, silent), labels, AT_ONCE, seed, self.device)
        return self.warm_up(
            network, images.__getitem__, labels, config.embedding_warm_up_steps, config.embedding_warm_up_batch, seed
        )

"""DP-FETA: class means under differential privacy, a warm-up on them, and DP-SGD from there; see the declaration.

    B  records   K  classes   C h w  pixels of the coarse image   D  pixels of the halved one, C h w / 4^halvings

Two mechanisms see the records, each with a line of its own in the plan and in the ledger.

* `class_means`: wavedp.privacy.statistics.class_means of the images halved `mean_halvings` times (block means). Its
  L2 sensitivity is √(D/4 + w²) by the proof there, since a block mean of pixels in [0, 1] is in [0, 1] and depends on
  its own record only. Its noise is calibrated to mean_share ε.
* `private_fit`: the Poisson-subsampled Gaussian of wavedp.privacy.training, which starts from weights that follow from
  the released means, public numbers and a seed. It gets the noise with which both spend at most ε together.

The warm-up trains dpdm's loss on the means, enlarged again and each time varied by torchvision's RandAugment (2
operations of magnitude 9), with Adam: post-processing, which may take as many steps as one likes.

    case                                  result
    sides that cannot be halved as often  fewer halvings
    a class without records               a mean of noise, in [0, 1]
    warm_up_steps = 0                     dpdm, with the noise of a fit that paid for means
    epsilon = inf                         exact means, and no noise in the fit
    killed, and run again                 the same means and warm-up, then the checkpoint of the fit
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import RandAugment

from wavedp.generators import FitSettings, PrivateFit
from wavedp.generators.denoising import averaged, draws_of
from wavedp.generators.dp_feta import DPFETAConfig
from wavedp.generators.dp_sgd import PretrainedConfig
from wavedp.generators.dpdm.model import DPDMModel
from wavedp.generators.dpdm.network import EDMUNet
from wavedp.generators.pretraining import pretrain
from wavedp.methods import Weights
from wavedp.privacy.statistics import class_means, means_release
from wavedp.progress import Report, silent
from wavedp.seeds import derive_seed
from wavedp.wavelets import coarse


class DPFETAModel(DPDMModel):
    """From random weights by way of class means. config: a DPFETAConfig."""

    config: DPFETAConfig

    def fit_private(
        self, weights: Weights, images: Tensor, conditions: Tensor, fit: FitSettings, report: Report
    ) -> PrivateFit:
        """`first`, and DP training on coarse images from there. weights: none. conditions: labels B."""
        first = self.first(images, conditions, fit)
        network = self.network(self.n_classes, first.weights)
        done = self.fit_records(network, images, conditions, fit, report, tuple(first.mechanisms.values()))
        return PrivateFit(done.weights, {**first.mechanisms, **done.mechanisms}, {**first.releases, **done.releases})

    def first(self, images: Tensor, conditions: Tensor, fit: FitSettings) -> PrivateFit:
        """The weights that DP training begins with, and the releases that they follow from."""
        planned, small = fit.mechanisms["class_means"], coarse(images, halvings(self.shape, self.config.mean_halvings))
        released, z = (small, conditions, self.n_classes), planned.noise_multiplier
        means = class_means(*released, noise_multiplier=z, seed=fit.seed)
        weights = self.warmed_up(self.first_network(), means, derive_seed(fit.seed, "warm up"))
        return PrivateFit(weights, {"class_means": planned}, {"class_means": means_release(*released, z)})

    def warmed_up(self, network: EDMUNet, means: Tensor, seed: int) -> Weights:
        """Its weights after a warm-up on means K C h' w' in [0, 1]."""
        central = (F.interpolate(means, self.shape[1:], mode="bilinear") * 255).round().byte()
        varied, config = RandAugment(), self.config

        def shown(classes: Tensor) -> Tensor:
            return torch.stack([varied(central[label]) for label in classes]).float() / 255

        labels = torch.arange(len(means))
        return self.warm_up(network, shown, labels, config.warm_up_steps, config.warm_up_batch, seed)

    def warm_up(
        self, network: EDMUNet, shown: Callable[[Tensor], Tensor], labels: Tensor, steps: int, batch: int, seed: int
    ) -> Weights:
        """Its weights after steps on images that no record is behind but through a release. shown: from rows of the
        labels B to their images, in [0, 1]."""
        config = self.config
        losses = averaged(self.errors(), config.condition_dropout, views=1, multiplicity=1)
        torch.manual_seed(seed)

        def loss_of(index: Tensor, step: int) -> Tensor:
            images, draws = shown(index), torch.rand(len(index), draws_of(self.shape, views=1, multiplicity=1))
            images, given, draws = (tensor.to(self.device) for tensor in (images, labels[index], draws))
            with self.autocast():
                return losses(network, images, given, draws).mean()

        settings = PretrainedConfig(
            pretrain_steps=steps, pretrain_batch=batch, pretrain_learning_rate=config.warm_up_learning_rate
        )
        return pretrain(network.train(), loss_of, len(labels), settings, silent, None, max_grad_norm=1.0)


def halvings(shape: tuple[int, int, int], wanted: int) -> int:
    """How often images C h w can be halved, at most as often as wanted."""
    possible = 0
    while possible < wanted and all(side % 2 ** (possible + 1) == 0 for side in shape[1:]):
        possible += 1
    return possible

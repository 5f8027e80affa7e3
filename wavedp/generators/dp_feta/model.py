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

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import RandAugment

from wavedp.generators import FitSettings, PrivateFit
from wavedp.generators.denoising import averaged, draws_of
from wavedp.generators.dp_feta import DPFETAConfig, with_share
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
        """The release of class means, the warm-up, and DP training on coarse images. weights: none. conditions: B."""
        planned, small = fit.mechanisms["class_means"], coarse(images, halvings(self.shape, self.config.mean_halvings))
        released, z = (small, conditions, self.n_classes), planned.noise_multiplier
        means = class_means(*released, noise_multiplier=z, seed=fit.seed)
        network = self.first_network()
        network.load_state_dict(self.warmed_up(network, means, derive_seed(fit.seed, "warm up")))
        both = replace(fit, privacy=with_share(fit.privacy, self.config.mean_share))
        done = self.fit_records(network, images, conditions, both, report)
        return PrivateFit(
            done.weights,
            {"class_means": planned, **done.mechanisms},
            {"class_means": means_release(*released, z), **done.releases},
        )

    def warmed_up(self, network: EDMUNet, means: Tensor, seed: int) -> Weights:
        """Its weights after the warm-up on means K C h' w' in [0, 1]."""
        config = self.config
        central = (F.interpolate(means, self.shape[1:], mode="bilinear") * 255).round().byte()
        losses, varied = averaged(self.errors(), config.condition_dropout, views=1, multiplicity=1), RandAugment()
        torch.manual_seed(seed)

        def loss_of(classes: Tensor, step: int) -> Tensor:
            shown = torch.stack([varied(central[label]) for label in classes]).float() / 255
            draws = torch.rand(len(classes), draws_of(self.shape, views=1, multiplicity=1))
            shown, labels, draws = (tensor.to(self.device) for tensor in (shown, classes, draws))
            with self.autocast():
                return losses(network, shown, labels, draws).mean()

        settings = PretrainedConfig(
            pretrain_steps=config.warm_up_steps,
            pretrain_batch=config.warm_up_batch,
            pretrain_learning_rate=config.warm_up_learning_rate,
        )
        return pretrain(network.train(), loss_of, len(means), settings, silent, None, max_grad_norm=1.0)


def halvings(shape: tuple[int, int, int], wanted: int) -> int:
    """How often images C h w can be halved, at most as often as wanted."""
    possible = 0
    while possible < wanted and all(side % 2 ** (possible + 1) == 0 for side in shape[1:]):
        possible += 1
    return possible

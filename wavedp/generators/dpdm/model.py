"""DPDM and PDP-Diffusion: EDM's loss record by record, and its stochastic sampler; see the room's declaration.

    B  records   C h w  pixels of the coarse image   K  noises of a record (wavedp.generators.denoising)
    σ  deviation of the noise   σ_data  that of the data   F  the U-Net   D  the denoiser that F makes (diffusion.edm)

The loss. For data y in [-1, 1] and noise of deviation σ, ln σ from N(P_mean, P_std²), EDM minimises λ(σ) |D - y|² with
λ = 1 / out², which is |F - target|² (its equation 8), averaged here over pixels. The target has variance 1 at every σ.
A record's loss is averaged over K noises, each with a σ of its own, before its gradient is clipped.

Formal guarantee. That of wavedp.privacy.training, with one mechanism, `private_fit`: the Poisson-subsampled Gaussian
of the plan. K noises cost nothing, since a record's gradient is clipped after they were averaged: adding or removing it
changes the sum of a batch by at most the clipping norm C, whatever K.

    case                                        result
    epsilon = 0                                 dpdm refuses; pdp_diffusion is its public model
    sides that cannot be halved as often        fewer halvings
    samples that are not finite                 UserError
    guidance without dropped conditions         UserError
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wavedp.config import SamplingConfig
from wavedp.diffusion.edm import Churn, heun, preconditioning, sigmas, target
from wavedp.finite import require_finite
from wavedp.generators import FitSettings, PrivateFit
from wavedp.generators.denoising import DenoisingModel, Errors, PretrainedDenoisingModel, standard_normal
from wavedp.generators.dpdm import EDMConfig
from wavedp.generators.dpdm.network import EDMUNet, embedding_width
from wavedp.methods import Weights
from wavedp.progress import Report
from wavedp.seeds import derive_seed


class EDMModel(DenoisingModel):
    """Training and sampling, wherever the first weights come from. config: an EDMConfig."""

    config: EDMConfig

    @property
    def multiplicity(self) -> int:
        """K, of the private fit."""
        return self.config.multiplicity

    def network(self, n_classes: int, weights: Weights | None = None) -> EDMUNet:
        """F, on the device."""
        model = EDMUNet(self.shape, self.condition(n_classes, embedding_width(self.config)), self.config)
        if weights is not None:
            model.load_state_dict(weights)
        return model.to(self.device)

    def errors(self) -> Errors:
        """|F - target|² averaged over pixels, at the σ of a record's first number."""
        config = self.config
        sigma_data, p_mean, p_std = config.sigma_data, config.p_mean, config.p_std

        def errors(model: EDMUNet, data: Tensor, shown: Tensor, numbers: Tensor) -> Tensor:
            sigma = (p_mean + p_std * standard_normal(numbers[:, :1])).exp().view(-1, 1, 1, 1)
            noise, c = standard_normal(numbers[:, 1:]).view_as(data), preconditioning(sigma, sigma_data)
            found = model(c.into * (data + sigma * noise), c.noise.flatten(), shown).float()
            return (found - target(data, noise, sigma, sigma_data)).square().mean((1, 2, 3))

        return errors

    @torch.inference_mode()
    def sample(
        self, weights: Weights, conditions: Tensor, sampling: SamplingConfig, seed: int, report: Report
    ) -> Tensor:
        """One coarse image per condition, by Heun's method with churn in sampling.diffusion_steps steps. All noise of
        image i comes from a generator of its own row."""
        config, model = self.config, self.network(self.n_classes, weights).eval()
        levels = sigmas(sampling.diffusion_steps, config.sigma_min, config.sigma_max, config.rho)
        churn = Churn(config.churn, config.churn_min, config.churn_max, config.churn_noise)
        first, generators = self.noise(len(conditions), seed)
        images = []
        for start in range(0, len(conditions), sampling.batch_size):
            part = slice(start, start + sampling.batch_size)
            x = config.sigma_max * first[part].to(self.device, torch.float64)
            denoise = self._denoiser(model, conditions[part].to(self.device), sampling.guidance)
            data = heun(denoise, x, levels, churn, generators[part])
            require_finite({"images": data}, "samples of a denoiser", "its model diverged; lower a learning rate")
            images.append(self.images_of(data.float()).cpu())
            report(min(start + sampling.batch_size, len(conditions)), len(conditions))
        return torch.cat(images)

    def _denoiser(self, model: EDMUNet, shown: Tensor, guidance: float) -> Callable[[Tensor, float], Tensor]:
        """D for the images of these conditions, in float64: only F is rounded."""
        guided = guidance != 1
        if guided:
            shown = torch.cat([shown, model.condition.absent(shown)])

        def denoise(x: Tensor, sigma: float) -> Tensor:
            c = preconditioning(torch.tensor(sigma, dtype=torch.float64), self.config.sigma_data)
            seen = (float(c.into) * x).float()
            seen = seen.repeat(2, 1, 1, 1) if guided else seen
            with self.autocast():
                found = model(seen, torch.full((len(seen),), float(c.noise), device=x.device), shown).double()
            if guided:
                conditional, unconditional = found.chunk(2)
                found = unconditional + guidance * (conditional - unconditional)
            return float(c.skip) * x + float(c.out) * found

        return denoise


class DPDMModel(EDMModel):
    """From random weights; nothing public is looked at."""

    def fit_private(
        self, weights: Weights, images: Tensor, conditions: Tensor, fit: FitSettings, report: Report
    ) -> PrivateFit:
        """DP training on coarse images from random weights of `public_seed`. weights: none."""
        return self.fit_records(self.first_network(), images, conditions, fit, report)

    def first_network(self) -> EDMUNet:
        """With the random weights of `public_seed`."""
        torch.manual_seed(derive_seed(self.config.public_seed, "first weights"))
        return self.network(self.n_classes)


class PDPDiffusionModel(PretrainedDenoisingModel, EDMModel):
    """From weights of public pretraining."""

"""`blur_diffusion`: a U-Net that undoes blur and noise on coarse images, pretrained publicly, fitted privately.

Shapes: B records, C channels, h w pixels of the coarse image, K noises of a view, T diffusion steps.

Source: arXiv 2207.11192 (diffusion with a speed for each frequency, through wavedp.diffusion). With `blur=none`,
`level=0` and no public images it is DPDM (Dockhorn et al., arXiv 2210.09929), whose noise multiplicity is
`diffusion.multiplicity` here; with public images it follows PDP-Diffusion (arXiv 2302.13861). Sizes are ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wavedp.config import DiffusionConfig, SamplingConfig
from wavedp.diffusion.blur import PAPER_LOG, PAPER_QUARTIC, BlurSchedule, effective_blur
from wavedp.diffusion.scheduler import BlurDiffusionScheduler
from wavedp.errors import UserError
from wavedp.finite import require_finite
from wavedp.generators.blur_diffusion.denoiser import Denoiser
from wavedp.generators.denoising import Errors, PretrainedDenoisingModel, averaged, standard_normal
from wavedp.generators.dp_sgd import PretrainedConfig
from wavedp.methods import Weights
from wavedp.progress import Report
from wavedp.seeds import generator_of
from wavedp.wavelets import coarse, spread


class BlurDiffusionModel(PretrainedDenoisingModel):
    """See wavedp.generators for the protocol. shape: C, h, w of what it diffuses, the coarse images, public ones
    included, unless a subclass diffuses something else that images become."""

    clips = True  # predictions to [-1, 1]
    attends_everywhere = False  # not in the middle of the U-Net alone

    def __init__(
        self,
        config: PretrainedConfig,
        diffusion: DiffusionConfig,
        blur: str,
        shape: tuple[int, int, int],
        n_classes: int,
        device: str,
    ) -> None:
        super().__init__(config, shape, n_classes, device)
        self.diffusion = diffusion
        self.process = forward_process(diffusion, blur)

    @property
    def multiplicity(self) -> int:
        """K, of the private fit."""
        return self.diffusion.multiplicity

    def network(self, n_classes: int, weights: Weights | None = None) -> Denoiser:
        """The U-Net, on the device."""
        condition = self.condition(n_classes, 4 * self.diffusion.channels)
        model = Denoiser(self.shape, condition, self.diffusion, self.attends_everywhere)
        if weights is not None:
            model.load_state_dict(weights)
        return model.to(self.device)

    def errors(self) -> Errors:
        """Those of `velocity_errors`."""
        return velocity_errors(self.process, self.diffusion)

    def sample(
        self, weights: Weights, conditions: Tensor, sampling: SamplingConfig, seed: int, report: Report
    ) -> Tensor:
        """One coarse image per condition, in sampling.diffusion_steps steps. Image i starts from noise of its own row,
        the same for every model, and later noise (ancestral, reverse_diffusion) comes from its own generator."""
        model = self.network(self.n_classes, weights).eval()
        times = self.times(sampling).tolist()
        first, generators = self.noise(len(conditions), seed)
        images = []
        for start in range(0, len(conditions), sampling.batch_size):
            part = slice(start, start + sampling.batch_size)
            data = self._denoise(model, first[part], conditions[part], sampling, times, generators=generators[part])
            require_finite({"images": data}, "samples of blur_diffusion", "its model diverged; lower a learning rate")
            images.append(self.images_of(data).cpu())
            report(min(start + sampling.batch_size, len(conditions)), len(conditions))
        return torch.cat(images)

    def trace(self, weights: Weights, conditions: Tensor, sampling: SamplingConfig, seed: int) -> tuple[Tensor, Tensor]:
        """The steps by which `sample` makes its images: the state that each of S steps starts from, and the data that
        the model predicts there, each B S C h w in about [-1, 1]. `times` gives the steps' times."""
        states: list[tuple[Tensor, Tensor]] = []
        first, generators = self.noise(len(conditions), seed)
        self._denoise(
            self.network(self.n_classes, weights).eval(),
            first,
            conditions,
            sampling,
            self.times(sampling).tolist(),
            generators=generators,
            watch=lambda x, predicted: states.append((x.cpu(), predicted.cpu())),
        )
        noisy, predicted = (torch.stack(kind, dim=1) for kind in zip(*states, strict=True))
        return noisy, predicted

    def times(self, sampling: SamplingConfig) -> Tensor:
        """The times that `sample` steps from, S int64, descending."""
        return self._sampler(sampling).timesteps

    def complete(self, weights: Weights, images: Tensor, steps: int) -> Tensor:
        """Images of this model's size whose block means are `images` B C h w, deblurred by the public model: diffusion
        begins at the time whose blur is that of block means, and every prediction's means are set to the known ones
        (the null-space form of Wang et al., arXiv 2212.00490). Block means rather than the lowest cosines, since those
        are what a coarse image says exactly.

        weights: `fit_public`'s, of class 0 only. steps: of the whole way from noise, most of which lies before the
        beginning. The draws of an image depend on that image only. Raises UserError where `matching_time` does.
        """
        model, factor = self.network(self.n_classes, weights).eval(), self.shape[-1] // images.shape[-1]
        level, start = factor.bit_length() - 1, matching_time(self.process, factor)
        settings = SamplingConfig(diffusion_steps=steps)
        grid = self.times(settings).tolist()
        times = grid[max(sum(t >= start for t in grid) - 1, 0) :]  # from the last one that is not yet past the start
        blurred = F.interpolate(images, self.shape[1:], mode="bicubic") * 2 - 1
        noise = torch.stack([torch.randn(self.shape, generator=generator_of(image)) for image in images])
        known = spread(images, factor).to(self.device) * 2 - 1

        def keep_means(data: Tensor) -> Tensor:
            return data + known - spread(coarse(data, level), factor)

        x, shown = self._blurred_so_far(blurred, noise, start, times[0]), torch.zeros(len(images), dtype=torch.long)
        return ((self._denoise(model, x, shown, settings, times, keep_means) + 1) / 2).cpu()

    def _blurred_so_far(self, data: Tensor, noise: Tensor, start: int, t: int) -> Tensor:
        """The state at time t >= start of images that are already as blurred as those at `start` are."""
        operator = _scheduler(self.process).operator(data)
        (log_a, log_s), (first, _) = operator.log_coefficients(t), operator.log_coefficients(start)
        faded = (log_a - first).exp() * (operator.log_alpha_bar[start + 1] / 2).exp()  # 1 H W
        modes = faded.to(data) * operator.to_modes(data) + log_s.exp().to(data) * operator.to_modes(noise)
        return operator.to_pixels(modes)

    @torch.inference_mode()
    def _denoise(
        self,
        model: Denoiser,
        x: Tensor,
        conditions: Tensor,
        sampling: SamplingConfig,
        times: list[int],
        amend: Callable[[Tensor], Tensor] = lambda data: data,
        generators: list[torch.Generator] | None = None,
        watch: Callable[[Tensor, Tensor], None] = lambda x, predicted: None,
    ) -> Tensor:
        """From x B C h w at times[0] to the data, about [-1, 1].

        amend: changes the data that the model predicts at each step. watch: is shown each step's x and predicted data.
        """
        velocity, data = _scheduler(self.process, clip_sample=self.clips), self._sampler(sampling)
        x, shown = x.to(self.device), conditions.to(self.device)
        guided = sampling.guidance != 1
        if guided:
            shown = torch.cat([shown, model.condition.absent(shown)])
        for t in times:
            with self.autocast():
                seen = x.repeat(2, 1, 1, 1) if guided else x
                output = model(seen, torch.full((len(seen),), t, device=self.device), shown).float()
            if guided:
                conditional, unconditional = output.chunk(2)
                output = unconditional + sampling.guidance * (conditional - unconditional)
            predicted = amend(velocity.predict_data(output, t, x))
            watch(x, predicted)
            x = data.step(predicted, t, x, generator=generators, return_dict=False)[0]
        return x

    def _sampler(self, sampling: SamplingConfig) -> BlurDiffusionScheduler:
        """The scheduler that a run of these settings steps with, from predicted data."""
        scheduler = _scheduler(
            self.process,
            prediction_type="sample",
            algorithm_type=sampling.algorithm,
            timestep_spacing=sampling.timestep_spacing,
        )
        scheduler.set_timesteps(sampling.diffusion_steps)
        return scheduler


def forward_process(config: DiffusionConfig, blur: str) -> BlurSchedule:
    """The blur schedule of a trial's f(i). blur_f_max=None: the paper's value for log, and quartic's for the others."""
    usual = PAPER_LOG.blur_f_max if blur == "log" else PAPER_QUARTIC.blur_f_max
    return BlurSchedule(
        num_train_timesteps=config.timesteps,
        beta_schedule=config.noise_schedule,
        blur_schedule=blur,
        blur_f_max=usual if config.blur_f_max is None else config.blur_f_max,
        blur_sigma=config.blur_sigma,
        blur_basis=config.basis,
        heat_sigma_max=config.heat_sigma_max,
        blur_order=config.blur_order,
    )


def matching_time(process: BlurSchedule, factor: int) -> int:
    """The first time at which images are as blurred as means of factor × factor blocks, whose standard deviation is
    √((factor² - 1)/12) pixels. Raises UserError when the schedule never blurs as much, or not the finest first."""
    if process.blur_order != "coarse_to_fine":
        raise UserError(
            f"diffusion.blur_order={process.blur_order} has no time that looks like a coarse image, where "
            "upscaler=blur_diffusion begins: use coarse_to_fine, or another upscaler."
        )
    wanted, blur = ((factor**2 - 1) / 12) ** 0.5, effective_blur(process)
    if blur.max() < wanted:
        raise UserError(
            f"upscaler.blur={process.blur_schedule} blurs up to {float(blur.max()):.2f} pixels, less than the "
            f"{wanted:.2f} of {factor}×{factor} block means: use upscaler.blur=heat, a larger diffusion.blur_f_max, or "
            "a lower level."
        )
    return int((blur >= wanted).nonzero()[0])


def record_loss(
    process: BlurSchedule,
    config: DiffusionConfig,
    dropout: float,
    views: int,
    multiplicity: int,
    side_by_side: bool = False,
) -> Callable[..., Tensor]:
    """loss(model, images B C h w in [0, 1], conditions, draws) -> B: see `averaged`, of `velocity_errors`."""
    return averaged(velocity_errors(process, config), dropout, views, multiplicity, side_by_side)


def velocity_errors(process: BlurSchedule, config: DiffusionConfig) -> Errors:
    """The error of v̂. A time of signal-to-noise ratio SNR (a²/s² averaged over the modes) weighs min(SNR, γ) / (SNR +
    1), min-SNR-γ for v-prediction (Hang et al., arXiv 2303.09556), γ = config.snr_gamma; 0: all times alike."""
    scheduler = _scheduler(process)

    def errors(model: Denoiser, data: Tensor, shown: Tensor, numbers: Tensor) -> Tensor:
        times = (numbers[:, 0] * process.steps).long()
        noise = standard_normal(numbers[:, 1:]).view_as(data)
        noisy = scheduler.add_noise(data, noise, times)
        target = scheduler.get_velocity(data, noise, times)
        error = (model(noisy, times, shown).float() - target).square().mean((1, 2, 3))
        if config.snr_gamma:
            snr = scheduler.operator(data).mean_snr(times).to(error)
            error = error * snr.clamp(max=config.snr_gamma) / (snr + 1)
        return error

    return errors


def _scheduler(process: BlurSchedule, **options: Any) -> BlurDiffusionScheduler:
    return BlurDiffusionScheduler(**dataclasses.asdict(process), **options)

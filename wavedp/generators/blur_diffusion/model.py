"""`blur_diffusion`: a U-Net that undoes blur and noise on coarse images, pretrained publicly, fitted privately.

Shapes: B records, C channels, h w pixels of the coarse image, V views, K noises of a view, T diffusion steps.

Source: arXiv 2207.11192 (diffusion with a speed for each frequency, through wavedp.diffusion). With `blur=none`,
`level=0` and no public images it is DPDM (Dockhorn et al., arXiv 2210.09929), whose noise multiplicity is
`diffusion.multiplicity` here; with public images it follows PDP-Diffusion (arXiv 2305.15759). Sizes are ours.

One record's loss averages over its views and, for each, over K times and noises, before its gradient is clipped. All of
them come from the uniform numbers that `fit_private` draws for the record, so that the microbatch size changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wavedp.config import DiffusionConfig, PrivacyConfig, SamplingConfig
from wavedp.devices import taker
from wavedp.diffusion.blur import PAPER_LOG, PAPER_QUARTIC, BlurSchedule, effective_blur
from wavedp.diffusion.scheduler import BlurDiffusionScheduler
from wavedp.errors import UserError
from wavedp.finite import require_finite
from wavedp.generators import FitSettings, PrivateFit
from wavedp.generators.adaptation import adapt, merge
from wavedp.generators.blur_diffusion.denoiser import Denoiser
from wavedp.generators.conditions import ClassCondition, Condition, TextCondition, drop, forget_classes, keep_classes
from wavedp.generators.dp_sgd import PretrainedConfig
from wavedp.generators.pretraining import pretrain
from wavedp.methods import Weights
from wavedp.privacy.clipping import SideBySide, at_once
from wavedp.privacy.training import fit_private
from wavedp.progress import Report
from wavedp.seeds import derive_seed, generator_of
from wavedp.views import view
from wavedp.wavelets import coarse, spread

SCORE_NOISES = 16  # times and noises for each record that is scored


class BlurDiffusionModel:
    """See wavedp.generators for the protocol. shape: C, h, w of what it diffuses, the coarse images, public ones
    included. A subclass may diffuse something else that images become: see `public_data`, `data_of` and `images_of`."""

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
        self.config, self.diffusion, self.shape = config, diffusion, shape
        self.n_classes, self.device = n_classes, device
        self.process = forward_process(diffusion, blur)

    def fit_public(
        self, images: Tensor, conditions: Tensor, seed: int, report: Report, checkpoint: Path | None = None
    ) -> Weights:
        """On public images and their mirror images; see `pretrain`.

        With public_classes=forget every sensitive class starts from the mean of the public ones' embeddings, with keep
        from its own: the public classes begin with those of the same names.
        """
        torch.manual_seed(derive_seed(seed, "pretrain"))
        by_class, keeps = self.config.conditioning == "class", self.config.public_classes == "keep"
        n_public = max(int(conditions.max()) + 1 if by_class and len(conditions) else 1, self.n_classes if keeps else 1)
        model = self._model(n_public).train()
        losses = record_loss(self.process, self.diffusion, self.config.condition_dropout, 1, 1, data_of=self.data_of)
        take, condition_of = self.public_data(images), taker(conditions, self.device)

        def loss_of(index: Tensor, step: int) -> Tensor:
            shown = take(index, step)
            draws = torch.rand(len(index), draws_of(self.shape, views=1, multiplicity=1)).to(self.device)
            with self._autocast():
                return losses(model, shown, condition_of(index), draws).mean()

        weights = pretrain(model, loss_of, len(conditions), self.config, report, checkpoint, max_grad_norm=1.0)
        adapted = keep_classes if keeps else forget_classes
        return adapted(weights, self.n_classes) if by_class else weights

    def start(self, weights: Weights) -> Weights:
        """The public weights as they are."""
        return weights

    def fit_private(
        self, weights: Weights, images: Tensor, conditions: Tensor, fit: FitSettings, report: Report
    ) -> PrivateFit:
        """DP fine-tuning on coarse images; conditions: labels B, or embeddings B V E with one for each view."""
        planned = fit.mechanisms["private_fit"]
        model = self._model(self.n_classes, weights)
        self.adapt(model, fit.privacy, derive_seed(fit.seed, "adaptation"))
        views, multiplicity = fit.privacy.views, self.diffusion.multiplicity
        side_by_side = at_once(fit.privacy.grad_sample_mode, self.device)
        done = fit_private(
            model,
            record_loss(
                self.process,
                self.diffusion,
                self.config.condition_dropout,
                views,
                multiplicity,
                side_by_side,
                self.data_of,
            ),
            (images, conditions),
            fit.privacy,
            noise_multiplier=planned.noise_multiplier,
            seed=fit.seed,
            draws=draws_of(self.shape, views, multiplicity),
            checkpoint=fit.checkpoint,
            device=self.device,
            report=report,
        )
        (ran,) = done.history  # what was run, not what was planned
        weights = merge({name: value.cpu() for name, value in done.ema.items()})
        return PrivateFit(weights, {"private_fit": ran}, {"private_fit": done.release})

    def sample(
        self, weights: Weights, conditions: Tensor, sampling: SamplingConfig, seed: int, report: Report
    ) -> Tensor:
        """One coarse image per condition, in sampling.diffusion_steps steps. Image i starts from noise of its own row,
        the same for every model, and later noise (ancestral, reverse_diffusion) comes from its own generator."""
        model = self._model(self.n_classes, weights).eval()
        times = self.times(sampling).tolist()
        first, generators = self._noise(len(conditions), seed)
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
        first, generators = self._noise(len(conditions), seed)
        self._denoise(
            self._model(self.n_classes, weights).eval(),
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
        model, factor = self._model(self.n_classes, weights).eval(), self.shape[-1] // images.shape[-1]
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

    @torch.inference_mode()
    def log_likelihoods(self, weights: Weights, images: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Minus the training loss of images B C h w with their labels and without a condition, over times and noises
        that are the same for every record."""
        model = self._model(self.n_classes, weights).eval()
        loss = record_loss(self.process, self.diffusion, 0.0, 1, SCORE_NOISES, data_of=self.data_of)
        generator = torch.Generator().manual_seed(0)
        draws = torch.rand(1, draws_of(self.shape, 1, SCORE_NOISES), generator=generator).to(self.device)
        parts = []
        for shown, given in zip(images.split(64), labels.split(64), strict=True):
            shown, given = shown.to(self.device), given.to(self.device)
            both = (given, model.condition.absent(given))
            parts.append(torch.stack([-loss(model, shown, c, draws.expand(len(shown), -1)) for c in both]))
        own, without = torch.cat(parts, dim=1).double().cpu().numpy()
        return own, without

    def public_data(self, images: Tensor) -> Callable[[Tensor, int], Tensor]:
        """(rows, step) -> those of the public images, or their mirror images at every second step."""
        take = taker(images, self.device)
        return lambda index, step: take(index).flip(-1) if step % 2 else take(index)

    def data_of(self, images: Tensor, number: int) -> Tensor:
        """View `number` of images B C h w in [0, 1] as it is diffused, about [-1, 1]."""
        return pixels_of(images, number)

    def images_of(self, data: Tensor) -> Tensor:
        """Images in [0, 1] of what was diffused."""
        return ((data + 1) / 2).clamp(0, 1)

    def adapt(self, model: Denoiser, privacy: PrivacyConfig, seed: int) -> None:
        """Let the private fit move some of the weights; see wavedp.generators.adaptation."""
        adapt(model, privacy, seed)

    def _noise(self, count: int, seed: int) -> tuple[Tensor, list[torch.Generator]]:
        """The noise that each image starts from, count C h w, and the generator of its later noise."""
        generators = [torch.Generator().manual_seed(derive_seed(seed, "coarse_samples", row)) for row in range(count)]
        return torch.stack([torch.randn(self.shape, generator=generator) for generator in generators]), generators

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
            with self._autocast():
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

    def _model(self, n_classes: int, weights: Weights | None = None) -> Denoiser:
        width = 4 * self.diffusion.channels
        condition: Condition = (
            ClassCondition(n_classes, width) if self.config.conditioning == "class" else TextCondition(width)
        )
        model = Denoiser(self.shape, condition, self.diffusion, self.attends_everywhere)
        if weights is not None:
            model.load_state_dict(weights)
        return model.to(self.device)

    def _autocast(self) -> AbstractContextManager[None]:
        """bfloat16 on CUDA for what is public or after the release; private gradients stay in float32."""
        return torch.autocast("cuda", torch.bfloat16, enabled=self.device == "cuda")


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


def draws_of(shape: tuple[int, int, int], views: int, multiplicity: int) -> int:
    """Number of uniform numbers a record's loss takes: for each view one that may drop its condition, and for each of
    its noises a time and one a pixel."""
    channels, height, width = shape
    return views * (1 + multiplicity * (1 + channels * height * width))


def record_loss(
    process: BlurSchedule,
    config: DiffusionConfig,
    dropout: float,
    views: int,
    multiplicity: int,
    side_by_side: bool = False,
    data_of: Callable[[Tensor, int], Tensor] | None = None,
) -> Callable[..., Tensor]:
    """loss(model, images B C h w in [0, 1], conditions, draws) -> B: the error of v̂, averaged over views and noises.

    draws: B × draws_of(shape, views, multiplicity) in [0, 1). A time of signal-to-noise ratio SNR (a²/s² averaged over
    the modes) weighs min(SNR, γ) / (SNR + 1), min-SNR-γ for v-prediction (Hang et al., arXiv 2303.09556), γ =
    config.snr_gamma; 0: all times alike. side_by_side: send all views and noises through the model at once, as a GPU
    likes it; equal to rounding. data_of: (images, number of a view) -> what is diffused; None: their pixels.
    """
    scheduler, data_of = _scheduler(process), data_of or pixels_of

    def errors(model: Denoiser, data: Tensor, shown: Tensor, numbers: Tensor) -> Tensor:
        """Weighted errors of images, each with the uniform numbers of its time and noise."""
        times = (numbers[:, 0] * process.steps).long()
        noise = standard_normal(numbers[:, 1:]).view_as(data)
        noisy = scheduler.add_noise(data, noise, times)
        target = scheduler.get_velocity(data, noise, times)
        error = (model(noisy, times, shown).float() - target).square().mean((1, 2, 3))
        if config.snr_gamma:
            snr = scheduler.operator(data).mean_snr(times).to(error)
            error = error * snr.clamp(max=config.snr_gamma) / (snr + 1)
        return error

    def of_view(
        model: Denoiser, images: Tensor, conditions: Tensor, chances: Tensor, number: int
    ) -> tuple[Tensor, Tensor]:
        shown = conditions[:, number] if conditions.ndim == 3 else conditions
        return data_of(images, number), drop(model.condition, shown, dropout, chances[:, number])

    def loss(model: Denoiser, images: Tensor, conditions: Tensor, draws: Tensor) -> Tensor:
        of_views = draws.view(len(images), views, -1)
        chances, each = of_views[:, :, 0], of_views[:, :, 1:].reshape(len(images), views, multiplicity, -1)
        seen = [of_view(model, images, conditions, chances, number) for number in range(views)]
        if side_by_side:
            data, shown = (
                torch.stack(kind, 1).repeat_interleave(multiplicity, 1).flatten(0, 1)
                for kind in zip(*seen, strict=True)
            )
            return errors(model, data, shown, each.flatten(0, 2)).view(len(images), -1).mean(1)
        total = torch.zeros(len(images), device=images.device)
        for number, (data, shown) in enumerate(seen):
            for k in range(multiplicity):
                total = total + errors(model, data, shown, each[:, number, k])
        return total / (views * multiplicity)

    return SideBySide(loss, views * multiplicity) if side_by_side else loss


def pixels_of(images: Tensor, number: int) -> Tensor:
    """View `number` of images in [0, 1], in [-1, 1]."""
    return view(images, number) * 2 - 1


def standard_normal(uniforms: Tensor) -> Tensor:
    """float32 normal numbers from uniform ones in [0, 1), through the quantile function, cut at 5.4 deviations."""
    return torch.special.ndtri(uniforms.double() + 2.0**-25).float()


def _scheduler(process: BlurSchedule, **options: Any) -> BlurDiffusionScheduler:
    return BlurDiffusionScheduler(**dataclasses.asdict(process), **options)

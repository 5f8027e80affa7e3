"""`blur_diffusion`: a U-Net that undoes blur and noise on coarse images, pretrained publicly, fitted privately.

Shapes: B records, C channels, h w pixels of the coarse image, V views, K noises of a view, T diffusion steps.

Source: arXiv 2207.11192 (diffusion with a speed for each frequency, through wavedp.diffusion). With `blur=none`,
`level=0` and no public images it is DPDM (Dockhorn et al., arXiv 2210.09929), whose noise multiplicity is
`diffusion.multiplicity` here; with public images it follows PDP-Diffusion (arXiv 2305.15759). Sizes are ours.

One record's loss averages over its views and, for each, over K times and noises, before its gradient is clipped. All of
them come from the uniform numbers that `fit_private` draws for the record, so that the microbatch size changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from wavedp.config import DiffusionConfig, GeneratorConfig, SamplingConfig
from wavedp.diffusion.blur import PAPER_LOG, PAPER_QUARTIC, BlurSchedule
from wavedp.diffusion.scheduler import BlurDiffusionScheduler
from wavedp.generators import FitSettings, PrivateFit, Weights
from wavedp.generators.adaptation import adapt, merge
from wavedp.generators.conditions import ClassCondition, Condition, TextCondition, drop, forget_classes
from wavedp.privacy.training import fit_private
from wavedp.progress import Report
from wavedp.seeds import derive_seed
from wavedp.views import view


class BlurDiffusion:
    """See wavedp.generators for the protocol. shape: C, h, w of the coarse images, public ones included."""

    def __init__(
        self,
        config: GeneratorConfig,
        diffusion: DiffusionConfig,
        blur: str,
        shape: tuple[int, int, int],
        n_classes: int,
        device: str,
    ) -> None:
        self.config, self.diffusion, self.shape = config, diffusion, shape
        self.n_classes, self.device = n_classes, device
        self.process = forward_process(diffusion, blur)

    def fit_public(self, images: Tensor, conditions: Tensor, seed: int, report: Report) -> Weights:
        """Adam with a cosine learning rate on public images and their mirror images; 0 steps give the initial weights.

        The public classes' embeddings are not kept: every sensitive class starts from their mean.
        """
        torch.manual_seed(derive_seed(seed, "pretrain"))
        steps, batch = self.config.pretrain_steps, self.config.pretrain_batch
        by_class = self.config.conditioning == "class"
        model = self._model(int(conditions.max()) + 1 if by_class and len(conditions) else 1).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=self.config.pretrain_learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
        loss_fn = record_loss(self.process, self.diffusion, self.config.condition_dropout, views=1, multiplicity=1)
        for step in range(steps):
            index = torch.randint(len(conditions), (batch,))
            shown = images[index].flip(-1) if step % 2 else images[index]
            draws = torch.rand(batch, draws_of(self.shape, views=1, multiplicity=1))
            with self._autocast():
                loss = loss_fn(model, *(item.to(self.device) for item in (shown, conditions[index], draws))).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            report(step + 1, steps)
        weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        return forget_classes(weights, self.n_classes) if by_class else weights

    def fit_private(
        self, weights: Weights, images: Tensor, conditions: Tensor, fit: FitSettings, report: Report
    ) -> PrivateFit:
        """DP fine-tuning on coarse images; conditions: labels B, or embeddings B V E with one for each view."""
        (planned,) = fit.mechanisms
        model = self._model(self.n_classes, weights)
        adapt(model, fit.privacy.trained, fit.privacy.lora_rank, derive_seed(fit.seed, "adaptation"))
        views, multiplicity = fit.privacy.views, self.diffusion.multiplicity
        done = fit_private(
            model,
            record_loss(self.process, self.diffusion, self.config.condition_dropout, views, multiplicity),
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
        return PrivateFit(merge({name: value.cpu() for name, value in done.ema.items()}), {"private_fit": ran})

    def sample(
        self, weights: Weights, conditions: Tensor, sampling: SamplingConfig, seed: int, report: Report
    ) -> Tensor:
        """One coarse image per condition, in sampling.diffusion_steps steps. Image i starts from noise of its own row,
        the same for every model, and later noise (ancestral, reverse_diffusion) comes from its own generator."""
        model = self._model(self.n_classes, weights).eval()
        scheduler = _scheduler(
            self.process, algorithm_type=sampling.algorithm, timestep_spacing=sampling.timestep_spacing
        )
        generators = [
            torch.Generator().manual_seed(derive_seed(seed, "coarse_samples", row)) for row in range(len(conditions))
        ]
        first = torch.stack([torch.randn(self.shape, generator=generator) for generator in generators])
        images = []
        for start in range(0, len(conditions), sampling.batch_size):
            part = slice(start, start + sampling.batch_size)
            images.append(self._denoise(model, scheduler, first[part], conditions[part], sampling, generators[part]))
            report(min(start + sampling.batch_size, len(conditions)), len(conditions))
        return torch.cat(images)

    @torch.inference_mode()
    def _denoise(
        self,
        model: Denoiser,
        scheduler: BlurDiffusionScheduler,
        noise: Tensor,
        conditions: Tensor,
        sampling: SamplingConfig,
        generators: list[torch.Generator],
    ) -> Tensor:
        scheduler.set_timesteps(sampling.diffusion_steps)
        x, shown = noise.to(self.device), conditions.to(self.device)
        guided = sampling.guidance != 1
        if guided:
            shown = torch.cat([shown, model.condition.absent(shown)])
        for t in scheduler.timesteps.tolist():
            seen = x.repeat(2, 1, 1, 1) if guided else x
            times = torch.full((len(seen),), t, device=self.device)
            with self._autocast():
                output = model(seen, times, shown).float()
            if guided:
                conditional, unconditional = output.chunk(2)
                output = unconditional + sampling.guidance * (conditional - unconditional)
            x = scheduler.step(output, t, x, generator=generators).prev_sample  # type: ignore[union-attr]
        return ((x + 1) / 2).clamp(0, 1).cpu()

    def _model(self, n_classes: int, weights: Weights | None = None) -> Denoiser:
        width = 4 * self.diffusion.channels
        condition: Condition = (
            ClassCondition(n_classes, width) if self.config.conditioning == "class" else TextCondition(width)
        )
        model = Denoiser(self.shape, condition, self.diffusion)
        if weights is not None:
            model.load_state_dict(weights)
        return model.to(self.device)

    def _autocast(self) -> AbstractContextManager[None]:
        """bfloat16 on CUDA for what is public or after the release; private gradients stay in float32."""
        return torch.autocast("cuda", torch.bfloat16, enabled=self.device == "cuda")


class Denoiser(nn.Module):
    """diffusers' U-Net: GroupNorm alone, so that nothing mixes records; the condition joins the time's embedding.

    forward(noisy B C h w in about [-1, 1], timesteps B int64 in 0..T-1, conditions) -> B C h w, the predicted v.
    Its depth is as many halvings as the sides allow, up to two; attention is in the middle.
    """

    def __init__(self, shape: tuple[int, int, int], condition: Condition, config: DiffusionConfig) -> None:
        super().__init__()
        from diffusers import UNet2DModel  # slow to import, and only this generator needs it

        channels, height, width = shape
        levels = 1
        while levels < 3 and height % 2**levels == 0 and width % 2**levels == 0:
            levels += 1
        self.condition = condition
        self.unet = UNet2DModel(
            in_channels=channels,
            out_channels=channels,
            layers_per_block=config.layers,
            block_out_channels=tuple(config.channels * min(2**i, 2) for i in range(levels)),
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            norm_num_groups=8,
            attention_head_dim=16,
            class_embed_type="identity",
        )
        # Attention leaves images channels-last, and there Opacus' convolutions (1.6) find a record's gradient zero.
        for layer in self.unet.mid_block.attentions:  # type: ignore[attr-defined]
            layer.register_forward_hook(lambda layer, inputs, output: output.contiguous())

    def forward(self, noisy: Tensor, timesteps: Tensor, conditions: Tensor) -> Tensor:
        found = self.unet(noisy, timesteps, class_labels=self.condition(conditions)[:, 0])  # type: ignore[operator]
        return found.sample


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
    )


def draws_of(shape: tuple[int, int, int], views: int, multiplicity: int) -> int:
    """How many uniform numbers a record's loss takes: for each noise of each view a time, and one a pixel."""
    channels, height, width = shape
    return views * multiplicity * (1 + channels * height * width)


def record_loss(
    process: BlurSchedule, config: DiffusionConfig, dropout: float, views: int, multiplicity: int
) -> Callable[..., Tensor]:
    """loss(model, images B C h w in [0, 1], conditions, draws) -> B: the error of v̂, averaged over views and noises.

    draws: B × draws_of(shape, views, multiplicity) in [0, 1). A time of signal-to-noise ratio SNR (a²/s² averaged over
    the modes) weighs min(SNR, γ) / (SNR + 1), min-SNR-γ for v-prediction (Hang et al., arXiv 2303.09556), γ =
    config.snr_gamma; 0: all times alike.
    """
    scheduler = _scheduler(process)

    def loss(model: Denoiser, images: Tensor, conditions: Tensor, draws: Tensor) -> Tensor:
        total = torch.zeros(len(images), device=images.device)
        each = draws.view(len(images), views, multiplicity, -1)
        for number in range(views):
            data = view(images, number) * 2 - 1
            shown = conditions[:, number] if conditions.ndim == 3 else conditions
            shown = drop(model.condition, shown, dropout)
            for k in range(multiplicity):
                times = (each[:, number, k, 0] * process.steps).long()
                noise = standard_normal(each[:, number, k, 1:]).view_as(data)
                noisy = scheduler.add_noise(data, noise, times)
                target = scheduler.get_velocity(data, noise, times)
                error = (model(noisy, times, shown).float() - target).square().mean((1, 2, 3))
                if config.snr_gamma:
                    snr = scheduler.operator(data).mean_snr(times).to(error)
                    error = error * snr.clamp(max=config.snr_gamma) / (snr + 1)
                total = total + error
        return total / (views * multiplicity)

    return loss


def standard_normal(uniforms: Tensor) -> Tensor:
    """float32 normal numbers from uniform ones in [0, 1), through the quantile function, cut at 5.4 deviations."""
    return torch.special.ndtri(uniforms.double() + 2.0**-25).float()


def _scheduler(process: BlurSchedule, **options: Any) -> BlurDiffusionScheduler:
    return BlurDiffusionScheduler(
        num_train_timesteps=process.num_train_timesteps,
        beta_schedule=process.beta_schedule,
        blur_schedule=process.blur_schedule,
        blur_f_max=process.blur_f_max,
        blur_sigma=process.blur_sigma,
        blur_basis=process.blur_basis,
        heat_sigma_max=process.heat_sigma_max,
        clip_sample=True,
        **options,
    )

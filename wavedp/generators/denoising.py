"""Common to generators that learn to take noise off an image: a record's loss, public pretraining, the private fit.

Shapes: B records, C channels, h w pixels of the coarse image, V views, K noises of a view.

One record's loss averages over its views and, for each, over K times and noises, before its gradient is clipped: the
noise multiplicity of DPDM (Dockhorn et al., arXiv 2210.09929, §3.2), which costs no ε. All of them come from the
uniform numbers that `fit_private` draws for the record, so that the microbatch size changes nothing.

A model of this kind says which network it trains (`network`) and by how much that errs on noisy images (`errors`); one
that diffuses something else than pixels also what that is (`public_data`, `data_of`, `images_of`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wavedp.config import PrivacyConfig
from wavedp.devices import taker
from wavedp.generators import FitSettings, PrivateFit
from wavedp.generators.adaptation import adapt, merge
from wavedp.generators.conditions import ClassCondition, Condition, TextCondition, drop, forget_classes, keep_classes
from wavedp.generators.dp_sgd import PretrainedConfig
from wavedp.generators.pretraining import pretrain
from wavedp.methods import Weights
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.clipping import SideBySide, at_once
from wavedp.privacy.training import fit_private
from wavedp.progress import Report
from wavedp.seeds import derive_seed
from wavedp.views import view

SCORE_NOISES = 16
"""Times and noises for each record that is scored."""

Errors = Callable[[Any, Tensor, Tensor, Tensor], Tensor]
"""(network, data B C h w in [-1, 1], conditions, numbers B (1 + C h w) uniform in [0, 1)) -> B: the weighted error of
the network at the time of the first number, on the data with the noise of the others."""


class DenoisingModel(ABC):
    """A generator's model that is fitted by DP-SGD as this module says; see wavedp.generators for the protocol.

    config: its `conditioning` and `condition_dropout` are read. shape: C, h, w of the coarse images.
    """

    def __init__(self, config: Any, shape: tuple[int, int, int], n_classes: int, device: str) -> None:
        self.config, self.shape, self.n_classes, self.device = config, shape, n_classes, device

    @abstractmethod
    def network(self, n_classes: int, weights: Weights | None = None) -> nn.Module:
        """On the device, with a layer `condition`. weights: None leaves what torch's global generator gave."""

    @abstractmethod
    def errors(self) -> Errors:
        """The errors that its loss averages."""

    @property
    @abstractmethod
    def multiplicity(self) -> int:
        """K, of the private fit."""

    def fit_private(
        self, weights: Weights, images: Tensor, conditions: Tensor, fit: FitSettings, report: Report
    ) -> PrivateFit:
        """DP fine-tuning on coarse images; conditions: labels B, or embeddings B V E with one for each view."""
        return self.fit_records(self.network(self.n_classes, weights), images, conditions, fit, report)

    def fit_records(
        self,
        model: nn.Module,
        images: Tensor,
        conditions: Tensor,
        fit: FitSettings,
        report: Report,
        alongside: tuple[Mechanism, ...] = (),
    ) -> PrivateFit:
        """The subsampled fit, `private_fit` of the plan, of a network whose weights no record has touched but through
        a release. alongside: as in wavedp.privacy.training."""
        planned = fit.mechanisms["private_fit"]
        self.adapt(model, fit.privacy, derive_seed(fit.seed, "adaptation"))
        views, multiplicity = fit.privacy.views, self.multiplicity
        side_by_side = at_once(fit.privacy.grad_sample_mode, self.device)
        done = fit_private(
            model,
            averaged(self.errors(), self.config.condition_dropout, views, multiplicity, side_by_side, self.data_of),
            (images, conditions),
            fit.privacy,
            noise_multiplier=planned.noise_multiplier,
            seed=fit.seed,
            alongside=alongside,
            draws=draws_of(self.shape, views, multiplicity),
            checkpoint=fit.checkpoint,
            device=self.device,
            report=report,
        )
        (ran,) = done.history  # what was run, not what was planned
        weights = merge({name: value.cpu() for name, value in done.ema.items()})
        return PrivateFit(weights, {"private_fit": ran}, {"private_fit": done.release})

    @torch.inference_mode()
    def log_likelihoods(self, weights: Weights, images: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Minus the training loss of images B C h w with their labels and without a condition, over times and noises
        that are the same for every record."""
        model, noises = self.network(self.n_classes, weights).eval(), SCORE_NOISES
        loss = averaged(self.errors(), dropout=0.0, views=1, multiplicity=noises, data_of=self.data_of)
        generator = torch.Generator().manual_seed(0)
        draws = torch.rand(1, draws_of(self.shape, 1, noises), generator=generator).to(self.device)
        parts = []
        for shown, given in zip(images.split(64), labels.split(64), strict=True):
            shown, given = shown.to(self.device), given.to(self.device)
            both = (given, model.condition.absent(given))  # type: ignore[operator, union-attr]
            parts.append(torch.stack([-loss(model, shown, c, draws.expand(len(shown), -1)) for c in both]))
        own, without = torch.cat(parts, dim=1).double().cpu().numpy()
        return own, without

    def data_of(self, images: Tensor, number: int) -> Tensor:
        """View `number` of images B C h w in [0, 1] as it is diffused, about [-1, 1]."""
        return pixels_of(images, number)

    def images_of(self, data: Tensor) -> Tensor:
        """Images in [0, 1] of what was diffused."""
        return ((data + 1) / 2).clamp(0, 1)

    def adapt(self, model: nn.Module, privacy: PrivacyConfig, seed: int) -> None:
        """Let the private fit move some of the weights; see wavedp.generators.adaptation."""
        adapt(model, privacy, seed)

    def condition(self, n_classes: int, width: int) -> Condition:
        """A new condition of the kind that the configuration asks for."""
        return ClassCondition(n_classes, width) if self.config.conditioning == "class" else TextCondition(width)

    def noise(self, count: int, seed: int) -> tuple[Tensor, list[torch.Generator]]:
        """The noise that each image starts from, count C h w, and the generator of its later noise."""
        generators = [torch.Generator().manual_seed(derive_seed(seed, "coarse_samples", row)) for row in range(count)]
        return torch.stack([torch.randn(self.shape, generator=generator) for generator in generators]), generators

    def autocast(self) -> AbstractContextManager[None]:
        """bfloat16 on CUDA for what is public or after the release; private gradients stay in float32."""
        return torch.autocast("cuda", torch.bfloat16, enabled=self.device == "cuda")


class PretrainedDenoisingModel(DenoisingModel):
    """One that learns from public images first. config: a PretrainedConfig."""

    def fit_public(
        self, images: Tensor, conditions: Tensor, seed: int, report: Report, checkpoint: Path | None = None
    ) -> Weights:
        """On public images and their mirror images; see `pretrain`.

        With public_classes=forget every sensitive class starts from the mean of the public ones' embeddings; else class
        c starts from public class c, which with `keep` bears the same name.
        """
        torch.manual_seed(derive_seed(seed, "pretrain"))
        by_class, keeps = self.config.conditioning == "class", self.config.public_classes != "forget"
        n_public = max(int(conditions.max()) + 1 if by_class and len(conditions) else 1, self.n_classes if keeps else 1)
        model = self.network(n_public).train()
        weights = self.pretrained(model, images, conditions, self.config, report, checkpoint)
        adapted = keep_classes if keeps else forget_classes
        return adapted(weights, self.n_classes) if by_class else weights

    def pretrained(
        self,
        model: nn.Module,
        images: Tensor,
        conditions: Tensor,
        config: PretrainedConfig,
        report: Report,
        checkpoint: Path | None,
    ) -> Weights:
        """The weights of a network after the config's steps on images and their mirror images, with random numbers from
        torch's global generator."""
        losses = averaged(self.errors(), self.config.condition_dropout, views=1, multiplicity=1, data_of=self.data_of)
        take, condition_of = self.public_data(images), taker(conditions, self.device)

        def loss_of(index: Tensor, step: int) -> Tensor:
            shown = take(index, step)
            draws = torch.rand(len(index), draws_of(self.shape, views=1, multiplicity=1)).to(self.device)
            with self.autocast():
                return losses(model, shown, condition_of(index), draws).mean()

        return pretrain(model, loss_of, len(conditions), config, report, checkpoint, max_grad_norm=1.0)

    def public_data(self, images: Tensor) -> Callable[[Tensor, int], Tensor]:
        """(rows, step) -> those of the public images, or their mirror images at every second step."""
        take = taker(images, self.device)
        return lambda index, step: take(index).flip(-1) if step % 2 else take(index)

    def start(self, weights: Weights) -> Weights:
        """The public weights as they are."""
        return weights


def draws_of(shape: tuple[int, int, int], views: int, multiplicity: int) -> int:
    """Number of uniform numbers a record's loss takes: for each view one that may drop its condition, and for each of
    its noises a time and one a pixel."""
    channels, height, width = shape
    return views * (1 + multiplicity * (1 + channels * height * width))


def pixels_of(images: Tensor, number: int) -> Tensor:
    """View `number` of images in [0, 1], in [-1, 1]."""
    return view(images, number) * 2 - 1


def averaged(
    errors: Errors,
    dropout: float,
    views: int,
    multiplicity: int,
    side_by_side: bool = False,
    data_of: Callable[[Tensor, int], Tensor] = pixels_of,
) -> Callable[..., Tensor]:
    """loss(model, images B C h w in [0, 1], conditions, draws) -> B: a record's errors, averaged over views and noises.

    draws: B × draws_of(shape, views, multiplicity) in [0, 1). side_by_side: send all views and noises through the model
    at once, as a GPU likes it; equal to rounding. data_of: (images, number of a view) -> what is diffused.
    """

    def of_view(model: Any, images: Tensor, conditions: Tensor, chances: Tensor, number: int) -> tuple[Tensor, Tensor]:
        shown = conditions[:, number] if conditions.ndim == 3 else conditions
        return data_of(images, number), drop(model.condition, shown, dropout, chances[:, number])

    def loss(model: Any, images: Tensor, conditions: Tensor, draws: Tensor) -> Tensor:
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


def standard_normal(uniforms: Tensor) -> Tensor:
    """float32 normal numbers from uniform ones in [0, 1), through the quantile function, cut at 5.4 deviations."""
    return torch.special.ndtri(uniforms.double() + 2.0**-25).float()

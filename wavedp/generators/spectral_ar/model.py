"""`spectral_ar`: the autoregressive transformer over coarse-to-fine tokens, pretrained publicly, fitted privately.

Source: arXiv 2602.23262 (the two-stage method), arXiv 2412.09607 (coarse-to-fine token order, disjoint codebooks for
approximation and details). Sizes, learning rates and step counts are ours: the papers' are not public.

Public pretraining sees the tokens of `pretrain_level`, up to all scales. The private fit sees the trial's level only,
and its model is the public one cut down to those tokens (`transformer.cut`): finer scales have no weights there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import reduce
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wavedp.config import PrivacyConfig, SamplingConfig
from wavedp.devices import taker
from wavedp.generators import FitSettings, PrivateFit
from wavedp.generators.adaptation import adapt, merge
from wavedp.generators.conditions import ClassCondition, Condition, TextCondition, drop, forget_classes, keep_classes
from wavedp.generators.pretraining import pretrain
from wavedp.generators.spectral_ar import SpectralARConfig
from wavedp.generators.spectral_ar.digits import most_digits
from wavedp.generators.spectral_ar.transformer import SpectralTransformer, cut
from wavedp.methods import Weights
from wavedp.privacy.clipping import SideBySide, at_once, trainable
from wavedp.privacy.statistics import class_means, means_release
from wavedp.privacy.training import fit_private
from wavedp.progress import Report
from wavedp.seeds import derive_seed
from wavedp.text import EMBEDDING_WIDTH
from wavedp.tokenizers import Tokenizer
from wavedp.views import view
from wavedp.wavelets import coarse, spread

WARM_UP_STEPS = 20  # on the class means; more, and every sample of a class is its mean


class SpectralARModel:
    """See wavedp.generators for the protocol.

    tokenizer: of the private coarse images. public: of the images for `fit_public`; `tokenizer` codes are a prefix of
    its codes.
    """

    def __init__(
        self, config: SpectralARConfig, tokenizer: Tokenizer, public: Tokenizer, n_classes: int, device: str
    ) -> None:
        self.config, self.tokenizer, self.public = config, tokenizer, public
        self.n_classes, self.device = n_classes, device

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
        model = self._model(self.public, n_public)
        wanted = (images, images.flip(-1)) if self.config.pretrain_steps else ()
        views = [taker(_encode(self.public, flipped, self.device), self.device) for flipped in wanted]
        condition_of = taker(conditions, self.device)

        def loss_of(index: Tensor, step: int) -> Tensor:
            shown = drop(model.condition, condition_of(index), self.config.condition_dropout)
            with self._autocast():
                return token_losses(model, views[step % 2](index), shown).mean()

        weights = pretrain(model, loss_of, len(conditions), self.config, report, checkpoint)
        adapted = keep_classes if keeps else forget_classes
        return adapted(weights, self.n_classes) if by_class else weights

    def start(self, weights: Weights) -> Weights:
        """The public weights without those of scales finer than the private level."""
        return cut(weights, self.public, self.tokenizer)

    def fit_private(
        self, weights: Weights, images: Tensor, conditions: Tensor, fit: FitSettings, report: Report
    ) -> PrivateFit:
        """DP fine-tuning on coarse images; conditions: labels B, or embeddings B V E with one for each view."""
        model = self._model(self.tokenizer, self.n_classes, self.start(weights))
        means, planned = fit.mechanisms.get("class_means"), fit.mechanisms["private_fit"]
        releases = {}
        if means:
            releases["class_means"] = self._warm_up(model, images, conditions, means.noise_multiplier, fit)
        adapt(model, fit.privacy, derive_seed(fit.seed, "adaptation"))
        side_by_side = fit.privacy.views > 1 and at_once(fit.privacy.grad_sample_mode, self.device)
        done = fit_private(
            model,
            record_loss(self.tokenizer, fit.privacy, self.config.condition_dropout, side_by_side),
            (images, conditions),
            fit.privacy,
            noise_multiplier=planned.noise_multiplier,
            seed=fit.seed,
            draws=fit.privacy.views if self.config.condition_dropout else 0,
            checkpoint=fit.checkpoint,
            device=self.device,
            report=report,
        )
        (ran,) = done.history  # what was run, not what was planned
        spent = {**({"class_means": means} if means else {}), "private_fit": ran}
        releases["private_fit"] = done.release
        return PrivateFit(merge({name: value.cpu() for name, value in done.ema.items()}), spent, releases)

    def _warm_up(
        self, model: SpectralTransformer, images: Tensor, labels: Tensor, noise_multiplier: float, fit: FitSettings
    ) -> str:
        """Teach the model the coarsest scale of every class's noisy mean image, before it sees any record; returns the
        release's id.

        Source: the central images of DP-FETA (arXiv 2504.01395), here in the coarsest wavelet band, where fewest
        numbers are released. What is trained on them is post-processing.
        """
        scales = self.tokenizer.positions[:, 0]
        levels = int(scales.max())
        released = coarse(images, levels), labels, self.n_classes
        means = class_means(*released, noise_multiplier=noise_multiplier, seed=fit.seed)
        flat = spread(means, 2**levels)  # no details
        codes, coarsest = self.tokenizer.encode(flat).to(self.device), (scales == 0).to(self.device)
        classes = torch.arange(self.n_classes, device=self.device)
        optimizer = torch.optim.Adam(trainable(model).values(), lr=fit.privacy.learning_rate)
        for _ in range(WARM_UP_STEPS):
            optimizer.zero_grad()
            token_losses(model, codes, classes)[:, coarsest].mean().backward()
            optimizer.step()
        optimizer.zero_grad()
        return means_release(*released, noise_multiplier)

    def sample(
        self, weights: Weights, conditions: Tensor, sampling: SamplingConfig, seed: int, report: Report
    ) -> Tensor:
        """One coarse image per condition. Image i draws from uniforms of its own row, the same for every model."""
        model = self._model(self.tokenizer, self.n_classes, weights).eval()
        generator = torch.Generator().manual_seed(derive_seed(seed, "coarse_samples"))
        uniforms = _uniforms(len(conditions), self.tokenizer, generator)
        images = []
        for start in range(0, len(conditions), sampling.batch_size):
            part = slice(start, start + sampling.batch_size)
            with self._autocast():
                codes = model.sample(
                    conditions[part].to(self.device),
                    uniforms[part].to(self.device),
                    sampling.temperature,
                    sampling.top_k,
                    sampling.top_p,
                    sampling.guidance,
                )
            images.append(self.tokenizer.decode(codes).cpu())
            report(min(start + sampling.batch_size, len(conditions)), len(conditions))
        return torch.cat(images)

    def complete(self, weights: Weights, images: Tensor, temperature: float) -> Tensor:
        """Images of `public`'s size whose coarse tokens are those of `images` B C h w, finer ones drawn from the public
        model with no condition. The weights are `fit_public`'s; the draws of an image depend on that image only."""
        model = self._model(self.public, self.n_classes, weights).eval()
        prefix = self.tokenizer.encode(images).to(self.device)
        rows = []
        for codes in prefix.cpu():  # seeded by content, so that batches and order don't matter
            seed = derive_seed(0, "complete", str(codes.tolist()))
            rows.append(_uniforms(1, self.public, torch.Generator().manual_seed(seed)))
        none = model.condition.absent(self._example_conditions(len(images)))
        with self._autocast():
            codes = model.sample(none, torch.cat(rows).to(self.device), temperature, prefix=prefix)
        return self.public.decode(codes).cpu()

    @torch.inference_mode()
    def log_likelihoods(self, weights: Weights, images: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """In nats, of the tokens of images B C h w with their labels and without a condition."""
        model = self._model(self.tokenizer, self.n_classes, weights).eval()
        parts = []
        for shown, given in zip(images.split(512), labels.split(512), strict=True):
            codes, given = self.tokenizer.encode(shown).to(self.device), given.to(self.device)
            both = [-token_losses(model, codes, c).double().sum(1) for c in (given, model.condition.absent(given))]
            parts.append(torch.stack(both))
        conditional, unconditional = torch.cat(parts, dim=1).cpu().numpy()
        return conditional, unconditional

    def _model(self, tokenizer: Tokenizer, n_classes: int, weights: Weights | None = None) -> SpectralTransformer:
        config = self.config
        condition: Condition = (
            ClassCondition(n_classes, config.width) if config.conditioning == "class" else TextCondition(config.width)
        )
        model = SpectralTransformer(tokenizer, condition, config.width, config.depth, config.heads)
        if weights is not None:
            model.load_state_dict(weights)
        return model.to(self.device)

    def _example_conditions(self, count: int) -> Tensor:
        by_class = self.config.conditioning == "class"
        shape = (count,) if by_class else (count, EMBEDDING_WIDTH)
        return torch.zeros(shape, dtype=torch.long if by_class else torch.float32, device=self.device)

    def _autocast(self) -> AbstractContextManager[None]:
        """bfloat16 on CUDA for what is public or after the release; private gradients stay in float32."""
        return torch.autocast("cuda", torch.bfloat16, enabled=self.device == "cuda")


def token_losses(model: SpectralTransformer, codes: Tensor, conditions: Tensor) -> Tensor:
    """B L: cross-entropy of every token, in nats; that of a code of several digits is the sum of theirs."""
    found, logits = [], iter(model(codes, conditions))
    for span in model.spans:
        losses = [
            F.cross_entropy(next(logits).float().transpose(1, 2), digit, reduction="none")
            for digit in span.split(codes[:, span.start : span.stop])
        ]
        found.append(reduce(Tensor.add, losses))
    return torch.cat(found, dim=1)


def record_loss(
    tokenizer: Tokenizer, privacy: PrivacyConfig, dropout: float, side_by_side: bool = False
) -> Callable[..., Tensor]:
    """loss(model, images, conditions, chances) -> B: what one record asks of the weights, averaged over its views and
    tokens. chances: B × views uniform numbers that may drop its conditions; none when dropout = 0. side_by_side: send
    all views through the model at once, as a GPU likes it; equal to rounding."""
    scales = tokenizer.positions[:, 0]
    weight = privacy.scale_decay ** scales.double()
    weight = (weight / weight.mean()).float()

    def loss(model: SpectralTransformer, images: Tensor, conditions: Tensor, chances: Tensor | None = None) -> Tensor:
        seen = []
        for number in range(privacy.views):
            shown = conditions if conditions.ndim == 1 else conditions[:, number]
            shown = drop(model.condition, shown, dropout, None if chances is None else chances[:, number])
            seen.append((tokenizer.encode(view(images, number)), shown))
        if side_by_side:
            codes, shown = (torch.stack(kind, 1).flatten(0, 1) for kind in zip(*seen, strict=True))
            return of_tokens(model, codes, shown).view(len(images), -1).mean(1)
        total = torch.zeros(len(images), device=images.device)
        for codes, shown in seen:
            total = total + of_tokens(model, codes, shown)
        return total / privacy.views

    def of_tokens(model: SpectralTransformer, codes: Tensor, shown: Tensor) -> Tensor:
        return (token_losses(model, codes, shown) * weight.to(codes.device)).mean(1)

    return SideBySide(loss, privacy.views) if side_by_side else loss


def _uniforms(rows: int, tokenizer: Tokenizer, generator: torch.Generator) -> Tensor:
    """rows L K. The first digits' are drawn before all others, as they were before codes had several digits."""
    first = torch.rand(rows, tokenizer.length, 1, generator=generator)
    more = most_digits(tokenizer.spans) - 1
    return torch.cat([first, torch.rand(rows, tokenizer.length, more, generator=generator)], 2) if more else first


def _encode(tokenizer: Tokenizer, images: Tensor, device: str) -> Tensor:
    """Codes of many images, some hundred at a time, on the device."""
    return torch.cat([tokenizer.encode(part.to(device)) for part in images.split(512)])

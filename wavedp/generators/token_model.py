"""What generators over tokens share: public pretraining, the private fit, samples and likelihoods of a decoder.

Shapes: B records, C channels, h w pixels, L tokens, K most digits of a code, V views of a record, E sentence embedding.

Images are encoded by a public tokenizer, a map of each record by itself, and the private fit is DP-SGD on the decoder
(wavedp.privacy.training): its sensitivity is the clipping norm, whatever the decoder is. One record's loss averages
over its views and tokens before its gradient is clipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import reduce
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wavedp import text
from wavedp.config import PrivacyConfig, SamplingConfig
from wavedp.devices import taker
from wavedp.generators import FitSettings, PrivateFit
from wavedp.generators.adaptation import adapt, merge
from wavedp.generators.conditions import (
    ClassCondition,
    Condition,
    TextCondition,
    TokenCondition,
    drop,
    forget_classes,
    keep_classes,
)
from wavedp.generators.digits import most_digits
from wavedp.generators.dp_sgd import TokensConfig
from wavedp.generators.pretraining import pretrain
from wavedp.generators.token_decoder import TokenDecoder
from wavedp.mapped import empty
from wavedp.methods import Rehearsal, Weights
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.clipping import RecordGradients, SideBySide, at_once, plain_sum
from wavedp.privacy.microbatches import first_size
from wavedp.privacy.training import fit_private
from wavedp.progress import Report
from wavedp.seeds import derive_seed
from wavedp.tokenizers import Tokenizer
from wavedp.views import view

PART = 512  # images that are encoded at once


class TokenModel:
    """See wavedp.generators for the protocol; a subclass says which `decoder`.

    tokenizer: of the private coarse images. public: of the images for `fit_public`.
    """

    def __init__(
        self, config: TokensConfig, tokenizer: Tokenizer, public: Tokenizer, n_classes: int, device: str
    ) -> None:
        self.config, self.tokenizer, self.public = config, tokenizer, public
        self.n_classes, self.device = n_classes, device

    def decoder(self, tokenizer: Tokenizer, n_classes: int) -> TokenDecoder:
        """The untrained network over a tokenizer's codes; `condition` makes its condition."""
        raise NotImplementedError

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
        wanted = (0, 1) if self.config.pretrain_steps else ()
        views = [taker(encoded(self.public, images, number, self.device), self.device) for number in wanted]
        condition_of = taker(conditions, self.device)

        def loss_of(index: Tensor, step: int) -> Tensor:
            shown = drop(model.condition, condition_of(index), self.config.condition_dropout)
            with self._autocast():
                return token_losses(model, views[step % 2](index), shown).mean()

        at_once = self.config.pretrain_microbatch
        weights = pretrain(model, loss_of, len(conditions), self.config, report, checkpoint, at_once=at_once)
        adapted = keep_classes if keeps else forget_classes
        return adapted(weights, self.n_classes) if by_class else weights

    def start(self, weights: Weights) -> Weights:
        """The public weights as they are."""
        return weights

    def fit_private(
        self, weights: Weights, images: Tensor, conditions: Tensor, fit: FitSettings, report: Report
    ) -> PrivateFit:
        """DP fine-tuning on coarse images; conditions: labels B, or captions as embeddings B V E (token states
        B V P E+1) with one for each view."""
        model = self._model(self.tokenizer, self.n_classes, self.start(weights))
        planned = fit.mechanisms["private_fit"]
        spent, releases = self.warm_up(model, images, conditions, fit)
        adapt(model, fit.privacy, derive_seed(fit.seed, "adaptation"))
        side_by_side = fit.privacy.views > 1 and at_once(fit.privacy.grad_sample_mode, self.device)
        done = fit_private(
            model,
            self.record_loss(fit.privacy, side_by_side),
            (self._codes(images, fit.privacy.views, fit.checkpoint.parent), conditions),
            fit.privacy,
            noise_multiplier=planned.noise_multiplier,
            seed=fit.seed,
            draws=fit.privacy.views if self.config.condition_dropout else 0,
            checkpoint=fit.checkpoint,
            device=self.device,
            report=report,
            named_by=(images, conditions),
        )
        (ran,) = done.history  # what was run, not what was planned
        weights = merge({name: value.cpu() for name, value in done.ema.items()})
        return PrivateFit(weights, {**spent, "private_fit": ran}, {**releases, "private_fit": done.release})

    def _codes(self, images: Tensor, views: int, folder: Path) -> Tensor:
        """Codes of the views of images, B V L int32, encoded once: a code near to two others could otherwise become the
        one or the other by how many records are encoded beside it, and with it a record's gradient. Many lie on the
        disk of `folder`."""
        shape = len(images), views, self.tokenizer.length
        found = empty(shape, folder, torch.int32, "codes of images", "lower privacy.views")
        for number in range(views):
            for codes, part in zip(found.split(PART), images.split(PART), strict=True):
                codes[:, number] = encoded(self.tokenizer, part, number, self.device)
        return found

    def warm_up(
        self, model: TokenDecoder, images: Tensor, conditions: Tensor, fit: FitSettings
    ) -> tuple[dict[str, Mechanism], dict[str, str]]:
        """Whatever of fit.mechanisms comes before DP-SGD: trains the model in place, and returns what was run and its
        release ids, by purpose."""
        return {}, {}

    def sample(
        self, weights: Weights, conditions: Tensor, sampling: SamplingConfig, seed: int, report: Report
    ) -> Tensor:
        """One coarse image per condition. Image i draws from uniforms of its own row, the same for every model."""
        model = self._model(self.tokenizer, self.n_classes, weights).eval()
        generator = torch.Generator().manual_seed(derive_seed(seed, "coarse_samples"))
        uniforms = uniforms_of(len(conditions), self.tokenizer, generator)
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

    def rehearse_public(self) -> Rehearsal:
        """A pass of public pretraining; see wavedp.methods.Rehearsal."""
        config, model = self.config, self.decoder(self.public, self.n_classes)
        at_once = min(config.pretrain_microbatch or config.pretrain_batch, config.pretrain_batch)
        codes = torch.zeros(at_once, self.public.length, dtype=torch.long)
        conditions = self.example_conditions(at_once)

        def run() -> None:
            token_losses(model, codes, conditions).mean().backward()

        return Rehearsal("pretrain", model, run, 2, config.pretrain_batch, at_once, config.pretrain_steps)

    def rehearse_private(
        self, privacy: PrivacyConfig, shape: tuple[int, int, int], beside: tuple[Tensor, ...]
    ) -> Rehearsal:
        """A microbatch of the private fit, of coarse images of `shape`; see wavedp.methods.Rehearsal."""
        model = self.decoder(self.tokenizer, self.n_classes)
        adapt(model, privacy, 0)
        at_once = min(first_size(privacy.microbatch_size, privacy.batch_size, torch.device("cpu")), privacy.batch_size)
        conditions = self.example_conditions(at_once)
        conditions = conditions if conditions.ndim == 1 else torch.stack([conditions] * privacy.views, 1)
        batch = [torch.zeros(at_once, *shape), conditions]
        if self.config.condition_dropout:
            batch.append(torch.zeros(at_once, privacy.views))
        loss = self.record_loss(privacy, privacy.views > 1)

        def run() -> None:
            if math.isinf(privacy.epsilon):
                plain_sum(model, loss, batch)
                return
            gradients = RecordGradients(model, privacy.max_grad_norm, privacy.grad_sample_mode, privacy.clipping)
            gradients.compared = at_once  # one record alone holds less
            gradients.clipped_sum(loss, batch)
            gradients.close()

        # Adam's, the weights' own average, and the sum over microbatches.
        return Rehearsal("private_fit", model, run, 4, privacy.batch_size, at_once, privacy.steps, beside)

    def example_conditions(self, count: int) -> Tensor:
        """`count` conditions of the right shape, on the model's device."""
        config = self.config
        if config.conditioning == "class":
            return torch.zeros(count, dtype=torch.long, device=self.device)
        sentence: tuple[int, ...] = (text.EMBEDDING_WIDTH,)
        if config.conditioning == "tokens":
            sentence = (config.text_tokens, text.width(config.text_encoder) + 1)
        return torch.zeros(count, *sentence, device=self.device)

    def record_loss(self, privacy: PrivacyConfig, side_by_side: bool) -> Callable[..., Tensor]:
        """What the private fit minimises, all tokens alike; see `record_loss`."""
        return record_loss(self.tokenizer, privacy, self.config.condition_dropout, side_by_side)

    def condition(self, n_classes: int, width: int) -> Condition:
        """Embeds what samples are conditioned on: config.conditioning."""
        config = self.config
        if config.conditioning == "tokens":
            return TokenCondition(width, config.text_tokens, text.width(config.text_encoder))
        return ClassCondition(n_classes, width) if config.conditioning == "class" else TextCondition(width)

    def _model(self, tokenizer: Tokenizer, n_classes: int, weights: Weights | None = None) -> TokenDecoder:
        model = self.decoder(tokenizer, n_classes)
        if weights is not None:
            model.load_state_dict(weights)
        return model.to(self.device)

    def _autocast(self) -> AbstractContextManager[None]:
        """bfloat16 on CUDA for what is public or after the release; private gradients stay in float32."""
        return torch.autocast("cuda", torch.bfloat16, enabled=self.device == "cuda")


def token_losses(model: TokenDecoder, codes: Tensor, conditions: Tensor) -> Tensor:
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
    tokenizer: Tokenizer,
    privacy: PrivacyConfig,
    dropout: float,
    side_by_side: bool = False,
    weights: Tensor | None = None,
) -> Callable[..., Tensor]:
    """loss(model, images, conditions, chances) -> B: what one record asks of the weights, averaged over its views and
    tokens. images: B C h w, or the codes of their views, B V L integers. chances: B × views uniform numbers that may
    drop its conditions; none when dropout = 0. side_by_side: send all views through the model at once, as a GPU likes
    it; equal to rounding. weights: L, of the tokens' losses; None: all alike."""

    def loss(model: TokenDecoder, images: Tensor, conditions: Tensor, chances: Tensor | None = None) -> Tensor:
        seen = []
        for number in range(privacy.views):
            shown = conditions if conditions.ndim == 1 else conditions[:, number]
            shown = drop(model.condition, shown, dropout, None if chances is None else chances[:, number])
            coded = (
                images[:, number].long() if not images.is_floating_point() else tokenizer.encode(view(images, number))
            )
            seen.append((coded, shown))
        if side_by_side:
            codes, shown = (torch.stack(kind, 1).flatten(0, 1) for kind in zip(*seen, strict=True))
            return of_tokens(model, codes, shown).view(len(images), -1).mean(1)
        total = torch.zeros(len(images), device=images.device)
        for codes, shown in seen:
            total = total + of_tokens(model, codes, shown)
        return total / privacy.views

    def of_tokens(model: TokenDecoder, codes: Tensor, shown: Tensor) -> Tensor:
        losses = token_losses(model, codes, shown)
        return (losses if weights is None else losses * weights.to(codes.device)).mean(1)

    return SideBySide(loss, privacy.views) if side_by_side else loss


def uniforms_of(rows: int, tokenizer: Tokenizer, generator: torch.Generator) -> Tensor:
    """rows L K. The first digits' are drawn before all others, as they were before codes had several digits."""
    first = torch.rand(rows, tokenizer.length, 1, generator=generator)
    more = most_digits(tokenizer.spans) - 1
    return torch.cat([first, torch.rand(rows, tokenizer.length, more, generator=generator)], 2) if more else first


def encoded(tokenizer: Tokenizer, images: Tensor, number: int, device: str) -> Tensor:
    """Codes of view `number` of many images, some hundred at a time, on the device."""
    return torch.cat([tokenizer.encode(view(part, number).to(device)) for part in images.split(PART)])

"""`spectral_ar`: the autoregressive transformer over coarse-to-fine tokens, pretrained publicly, fitted privately.

Source: arXiv 2602.23262 (the two-stage method), arXiv 2412.09607 (coarse-to-fine token order, disjoint codebooks for
approximation and details). Sizes, learning rates and step counts are ours: the papers' are not public.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavedp.config import GeneratorConfig, SamplingConfig
from wavedp.generators import FitSettings, PrivateFit, Weights
from wavedp.generators.transformer import SpectralTransformer
from wavedp.privacy.training import fit_private
from wavedp.progress import Report
from wavedp.seeds import derive_seed
from wavedp.tokenizers import Tokenizer


class SpectralAR:
    """See wavedp.generators for the protocol."""

    def __init__(self, config: GeneratorConfig, tokenizer: Tokenizer, n_classes: int, device: str) -> None:
        self.config, self.tokenizer, self.n_classes, self.device = config, tokenizer, n_classes, device

    def fit_public(self, images: Tensor, labels: Tensor, seed: int, report: Report) -> Weights:
        """Adam with a cosine learning rate on public images and their mirror images; 0 steps give the initial weights.

        The public classes' embeddings are not kept: every sensitive class starts from their mean.
        """
        torch.manual_seed(derive_seed(seed, "pretrain"))
        steps, batch = self.config.pretrain_steps, self.config.pretrain_batch
        n_public_classes = int(labels.max()) + 1 if len(labels) else 1
        model = self._model(n_public_classes)
        optimizer = torch.optim.Adam(model.parameters(), lr=self.config.pretrain_learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
        views = [self.tokenizer.encode(view).to(self.device) for view in (images, images.flip(-1))] if steps else []
        for step in range(steps):
            index = torch.randint(len(labels), (batch,))
            codes = views[step % 2][index]
            loss = token_loss(model, codes, labels[index].to(self.device)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            report(step + 1, steps)
        weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        weights["label.weight"] = weights["label.weight"].mean(0, keepdim=True).repeat(self.n_classes, 1)
        return weights

    def fit_private(
        self, weights: Weights, images: Tensor, labels: Tensor, fit: FitSettings, report: Report
    ) -> PrivateFit:
        """DP fine-tuning of all weights; a record's loss is the mean over its tokens, in nats."""
        model = self._model(self.n_classes, weights)
        records = (self.tokenizer.encode(images), labels)
        done = fit_private(
            model,
            token_loss,
            records,
            fit.privacy,
            noise_multiplier=fit.noise_multiplier,
            seed=fit.seed,
            checkpoint=fit.checkpoint,
            device=self.device,
            report=report,
        )
        weights = {name: value.cpu() for name, value in done.ema.items()}
        return PrivateFit(weights, done.history)

    def sample(self, weights: Weights, labels: Tensor, sampling: SamplingConfig, seed: int, report: Report) -> Tensor:
        """One coarse image per label. Image i draws from uniforms of its own row, the same for every model."""
        model = self._model(self.n_classes, weights).eval()
        generator = torch.Generator().manual_seed(derive_seed(seed, "coarse_samples"))
        uniforms = torch.rand(len(labels), self.tokenizer.length, generator=generator)
        images = []
        for start in range(0, len(labels), sampling.batch_size):
            part = slice(start, start + sampling.batch_size)
            codes = model.sample(
                labels[part].to(self.device),
                uniforms[part].to(self.device),
                sampling.temperature,
                sampling.top_k,
                sampling.top_p,
            )
            images.append(self.tokenizer.decode(codes.cpu()))
            report(min(start + sampling.batch_size, len(labels)), len(labels))
        return torch.cat(images)

    def _model(self, n_classes: int, weights: Weights | None = None) -> SpectralTransformer:
        model = SpectralTransformer(self.tokenizer, n_classes, self.config.width, self.config.depth, self.config.heads)
        if weights is not None:
            model.load_state_dict(weights)
        return model.to(self.device)


def token_loss(model: nn.Module, codes: Tensor, labels: Tensor) -> Tensor:
    """B: mean cross-entropy over the tokens of each record, in nats."""
    spans, start = [], 0
    for logits in model(codes, labels):
        stop = start + logits.shape[1]
        spans.append(F.cross_entropy(logits.transpose(1, 2), codes[:, start:stop], reduction="none"))
        start = stop
    return torch.cat(spans, dim=1).mean(dim=1)

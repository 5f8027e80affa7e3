"""`spectral_ar`: the autoregressive transformer over coarse-to-fine tokens, pretrained publicly, fitted privately.

Source: arXiv 2602.23262 (the two-stage method), arXiv 2412.09607 (coarse-to-fine token order, disjoint codebooks for
approximation and details). Sizes, learning rates and step counts are ours: the papers' are not public.

Public pretraining sees the tokens of `pretrain_level`, up to all scales. The private fit sees the trial's level only,
and its model is the public one cut down to those tokens (`transformer.cut`): finer scales have no weights there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wavedp.config import PrivacyConfig
from wavedp.generators import FitSettings
from wavedp.generators.spectral_ar import SpectralARConfig
from wavedp.generators.spectral_ar.transformer import SpectralTransformer, cut
from wavedp.generators.token_decoder import TokenDecoder
from wavedp.generators.token_model import TokenModel, record_loss, token_losses, uniforms_of
from wavedp.methods import Weights
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.clipping import trainable
from wavedp.privacy.statistics import class_means, means_release
from wavedp.seeds import derive_seed
from wavedp.tokenizers import Tokenizer
from wavedp.wavelets import coarse, spread

WARM_UP_STEPS = 20  # on the class means; more, and every sample of a class is its mean


class SpectralARModel(TokenModel):
    """See wavedp.generators for the protocol. `tokenizer` codes are a prefix of those of `public`."""

    config: SpectralARConfig

    def decoder(self, tokenizer: Tokenizer, n_classes: int) -> SpectralTransformer:
        """Coarse to fine."""
        config = self.config
        condition = self.condition(n_classes, config.width)
        return SpectralTransformer(tokenizer, condition, config.width, config.depth, config.heads)

    def start(self, weights: Weights) -> Weights:
        """The public weights without those of scales finer than the private level."""
        return cut(weights, self.public, self.tokenizer)

    def warm_up(
        self, model: TokenDecoder, images: Tensor, conditions: Tensor, fit: FitSettings
    ) -> tuple[dict[str, Mechanism], dict[str, str]]:
        """With privacy.mean_share, teach the model the coarsest scale of every class's noisy mean image, before it sees
        any record.

        Source: the central images of DP-FETA (arXiv 2504.01395), here in the coarsest wavelet band, where fewest
        numbers are released. What is trained on them is post-processing.
        """
        planned = fit.mechanisms.get("class_means")
        if planned is None:
            return {}, {}
        scales = self.tokenizer.positions[:, 0]
        levels = int(scales.max())
        released = coarse(images, levels), conditions, self.n_classes
        means = class_means(*released, noise_multiplier=planned.noise_multiplier, seed=fit.seed)
        flat = spread(means, 2**levels)  # no details
        codes, coarsest = self.tokenizer.encode(flat).to(self.device), (scales == 0).to(self.device)
        classes = torch.arange(self.n_classes, device=self.device)
        optimizer = torch.optim.Adam(trainable(model).values(), lr=fit.privacy.learning_rate)
        for _ in range(WARM_UP_STEPS):
            optimizer.zero_grad()
            token_losses(model, codes, classes)[:, coarsest].mean().backward()
            optimizer.step()
        optimizer.zero_grad()
        return {"class_means": planned}, {"class_means": means_release(*released, planned.noise_multiplier)}

    def record_loss(self, privacy: PrivacyConfig, side_by_side: bool) -> Callable[..., Tensor]:
        """A token of scale s weighs privacy.scale_decay^s, in units of the mean weight."""
        weights = scale_weights(self.tokenizer, privacy.scale_decay)
        return record_loss(self.tokenizer, privacy, self.config.condition_dropout, side_by_side, weights)

    def complete(self, weights: Weights, images: Tensor, temperature: float) -> Tensor:
        """Images of `public`'s size whose coarse tokens are those of `images` B C h w, finer ones drawn from the public
        model with no condition. The weights are `fit_public`'s; the draws of an image depend on that image only."""
        model = self._model(self.public, self.n_classes, weights).eval()
        prefix = self.tokenizer.encode(images).to(self.device)
        rows = []
        for codes in prefix.cpu():  # seeded by content, so that batches and order don't matter
            seed = derive_seed(0, "complete", str(codes.tolist()))
            rows.append(uniforms_of(1, self.public, torch.Generator().manual_seed(seed)))
        none = model.condition.absent(self.example_conditions(len(images)))
        with self._autocast():
            codes = model.sample(none, torch.cat(rows).to(self.device), temperature, prefix=prefix)
        return self.public.decode(codes).cpu()


def scale_weights(tokenizer: Tokenizer, decay: float) -> Tensor:
    """Weights L of the tokens' losses, decay^s for scale s, of mean 1."""
    weight = decay ** tokenizer.positions[:, 0].double()
    return (weight / weight.mean()).float()

"""Common to tokenizers that are learned on public images: their configuration, training and network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import SEED, result
from wavedp.methods import Needs, Rehearsal, Weights
from wavedp.progress import Report
from wavedp.tokenizers import Shape, Tokenizer, TokenizerMethod, halvings

if TYPE_CHECKING:
    from torch import Tensor

    from wavedp.tokenizers.spectral.network import SpectralNetwork


@dataclass(frozen=True)
class LearnedConfig:
    """A vector-quantising transformer, and its public training."""

    coarsest: int = result(8, within="[1, inf)")  # halve the image until its side is at most this, or odd
    patch: int = result(1, within="[1, inf)")  # side of a patch of the coarsest scale, in its pixels
    codes: int = result(64, within="[2, inf)")  # of the codebook, or of the approximation's
    code_width: int = result(8, within="[1, inf)")
    width: int = result(64, within="[1, inf)")
    heads: int = result(4, within="[1, inf)")
    encoder_depth: int = result(2, within="[0, inf)")
    decoder_depth: int = result(3, within="[0, inf)")
    train_steps: int = result(600, within="[1, inf)")
    train_batch: int = result(32, within="[1, inf)")
    train_learning_rate: float = result(1e-3, within="(0, inf)")  # rises, then falls along a cosine
    commitment: float = result(0.25, within="[0, inf)")  # of the loss, as the next two: published as 0.1, 0: off
    perceptual: float = result(0.0, within="[0, inf)")
    adversarial: float = result(0.0, within="[0, inf)")
    public_seed: int = result(0, within=SEED)
    # Images a pass of the training; None: the whole batch. The discriminator's norms are renewed at every pass.
    train_microbatch: int | None = result(None, later=True, within="[1, inf)")


class Learned(TokenizerMethod):
    """Has the ability `wavedp.methods.Trains`; a subclass says with which `network`."""

    published: ClassVar[dict[str, dict[str, Any]]] = {
        "own": {"wavelet": "haar", "bins": 32, "detail_bins": 7, "detail_range": 0.3}
    }

    def network(self, config: Any, shape: Shape, level: int) -> SpectralNetwork:
        """The untrained network. Raises UserError for settings or a level that do not fit the shape."""
        raise NotImplementedError

    def built_level(self, level: int) -> int:
        """The level that coarse images have for the network: it may know only its own size."""
        return level

    def levels(self, config: Any, shape: Shape) -> range:
        """Down to its coarsest scale."""
        return range(halvings(config.coarsest, shape) + 1)

    def needs(self, trial: TrialConfig) -> Needs:
        """Public images to learn from."""
        return Needs(data=((trial.public, "train"),) if trial.public is not None else ())

    def check(self, trial: TrialConfig) -> list[str]:
        """There are public images."""
        config = trial.tokenizer
        if trial.public is None:
            raise UserError(f"tokenizer={config.name} is learned on public images: set public, or use scalar.")
        return []

    def check_models(self, trial: TrialConfig) -> None:
        """The network behind a perceptual loss is installed. Raises UserError."""
        if trial.tokenizer.perceptual:
            from wavedp.losses import Perceptual

            Perceptual("cpu")

    def train(
        self, trial: TrialConfig, images: Tensor, device: str, report: Report, checkpoint: Path | None
    ) -> tuple[Weights, dict[str, Any]]:
        """See wavedp.tokenizers.training."""
        from wavedp import data
        from wavedp.tokenizers import training

        config, shape, level = trial.tokenizer, data.shape(trial.data), trial.level
        return training.fit(lambda: self.network(config, shape, level), images, config, device, report, checkpoint)

    def rehearsals(self, trial: TrialConfig) -> Iterator[Rehearsal]:
        """Of the public training; see wavedp.methods.Rehearses."""
        import torch

        from wavedp import data
        from wavedp.tokenizers import training

        config = trial.tokenizer
        model = self.network(config, data.shape(trial.data), trial.level)
        at_once = min(config.train_microbatch or config.train_batch, config.train_batch)
        images = torch.zeros(at_once, *model.shape)

        def run() -> None:
            training.one_pass(model, images, config).loss.backward()

        yield Rehearsal("tokenizer", model, run, 2, config.train_batch, at_once, config.train_steps)

    def build(self, config: Any, shape: Shape, level: int, weights: Weights) -> Tokenizer:
        """The trained network, frozen."""
        from wavedp.tokenizers.spectral.model import SpectralTokenizer

        return SpectralTokenizer(self.network(config, shape, level), self.built_level(level), weights)

    def first_weights(self, config: Any, shape: Shape, level: int) -> Weights:
        """Random ones, from torch's generator."""
        return self.network(config, shape, level).state_dict()

"""Common to tokenizers that are learned on public images: their configuration, training and network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.methods import Needs, Weights
from wavedp.progress import Report
from wavedp.tokenizers import Shape, Tokenizer, TokenizerMethod, halvings

if TYPE_CHECKING:
    from torch import Tensor

    from wavedp.tokenizers.spectral.network import SpectralNetwork


@dataclass(frozen=True)
class LearnedConfig:
    """A vector-quantising transformer, and its public training."""

    coarsest: int = result(8)  # halve the image until its side is at most this, or odd
    patch: int = result(1)  # side of a patch of the coarsest scale, in its pixels
    codes: int = result(64)  # of the codebook, or of the approximation's
    code_width: int = result(8)
    width: int = result(64)
    heads: int = result(4)
    encoder_depth: int = result(2)
    decoder_depth: int = result(3)
    train_steps: int = result(600)
    train_batch: int = result(32)
    train_learning_rate: float = result(1e-3)  # rises, then falls along a cosine
    commitment: float = result(0.25)  # weights of the losses; the next two are published as 0.1, 0: off
    perceptual: float = result(0.0)
    adversarial: float = result(0.0)
    public_seed: int = result(0)


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
        """There are public images, and a number of steps."""
        config = trial.tokenizer
        if trial.public is None:
            raise UserError(f"tokenizer={config.name} is learned on public images: set public, or use scalar.")
        if config.train_steps < 1:
            raise UserError(f"tokenizer.train_steps={config.train_steps} trains nothing: use 1 or more.")
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

    def build(self, config: Any, shape: Shape, level: int, weights: Weights) -> Tokenizer:
        """The trained network, frozen."""
        from wavedp.tokenizers.spectral.model import SpectralTokenizer

        return SpectralTokenizer(self.network(config, shape, level), self.built_level(level), weights)

    def untrained(self, config: Any, shape: Shape, level: int) -> Tokenizer:
        """With random weights."""
        return self.build(config, shape, level, self.network(config, shape, level).state_dict())

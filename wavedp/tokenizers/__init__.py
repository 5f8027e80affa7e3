"""Tokenizers turn coarse images into a sequence of codes, coarse scales first, and back.

    scalar     uniform quantisation of wavelet coefficients, no training
    spectral   vector-quantised wavelet scales, learned on public images (arXiv 2412.09607)
    raster     vector-quantised patches without wavelets, learned on public images: the baseline

Protocol (what a generator may rely on):

    length                 L, tokens of one image
    spans                  contiguous runs of the sequence that share a codebook, in order
    positions              L 3 int64: scale (0 = coarsest), row and column of each token, on that scale's grid
    encode(images)         B C h w in [0, 1] -> B L int64, each code in [0, size of its span's codebook)
    decode(codes)          B L -> B C h w in [0, 1]

A tokenizer is fixed or trained on public images: encoding is then a per-record map and costs no ε.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from wavedp.config import TokenizerConfig
from wavedp.errors import UserError

if TYPE_CHECKING:  # torch too: plans are made without it
    from torch import Tensor

    from wavedp.tokenizers.spectral import SpectralNetwork

Weights: TypeAlias = "dict[str, Tensor]"

NAMES = ("scalar", "spectral", "raster")


@dataclass(frozen=True)
class Span:
    """Tokens start..stop-1 of the sequence use codebook number `codebook`, which has `size` codes."""

    start: int
    stop: int
    codebook: int
    size: int


class Tokenizer(Protocol):
    """See the module's docstring."""

    length: int
    spans: tuple[Span, ...]
    positions: Tensor

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, codes: Tensor) -> Tensor: ...


def check(config: TokenizerConfig) -> None:
    """Raises UserError for settings that suit no image."""
    if config.train_steps < 1:
        raise UserError(f"tokenizer.train_steps={config.train_steps} trains nothing: use 1 or more.")
    if config.name != "scalar":
        return
    if config.bins < 2:
        raise UserError(f"tokenizer.bins={config.bins} can't tell values apart: use 2 or more.")
    if config.detail_bins < 3 or config.detail_bins % 2 == 0:
        raise UserError(f"tokenizer.detail_bins={config.detail_bins} has no level at 0: use an odd number ≥ 3.")
    if config.wavelet != "haar":
        raise UserError(f"tokenizer.wavelet={config.wavelet!r} leaves ragged scales: the scalar tokenizer uses haar.")


def build(config: TokenizerConfig, shape: tuple[int, int, int], level: int, weights: Weights) -> Tokenizer:
    """The tokenizer for the coarse images of `level` of full images of `shape` (C, H, W).

    weights: of a learned tokenizer, as `training.fit` gives them; ignored by `scalar`.
    Raises UserError for an unknown name, settings or a level that do not fit the shape, or weights of another size.
    """
    from wavedp.tokenizers.scalar import ScalarTokenizer
    from wavedp.tokenizers.spectral import SpectralTokenizer

    if config.name == "scalar":
        channels, height, width = shape
        return ScalarTokenizer(config, (channels, height >> level, width >> level))
    made = network(config, shape, level)
    return SpectralTokenizer(made, level if config.name == "spectral" else 0, weights)


def network(config: TokenizerConfig, shape: tuple[int, int, int], level: int) -> SpectralNetwork:
    """The untrained network of a learned tokenizer. Raises UserError as `build` does."""
    from wavedp.tokenizers.raster import raster_network
    from wavedp.tokenizers.spectral import spectral_network

    if config.name == "spectral":
        return spectral_network(config, shape)
    if config.name == "raster":
        return raster_network(config, shape, level)
    raise UserError(f"tokenizer.name={config.name!r} is not built: use one of {', '.join(NAMES)}.")


def untrained(config: TokenizerConfig, shape: tuple[int, int, int], level: int) -> Tokenizer:
    """The tokenizer with random weights: what length, spans and positions it has. Raises UserError as `build` does."""
    learned = config.name != "scalar"
    return build(config, shape, level, network(config, shape, level).state_dict() if learned else {})


def training_level(config: TokenizerConfig, level: int) -> int | None:
    """The level of the public images that a trial's tokenizer is trained on; None for one without training.

    The spectral tokenizer learns every scale from full images, so all levels share it.
    """
    return {"spectral": 0, "raster": level}.get(config.name)

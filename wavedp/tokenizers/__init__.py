"""Tokenizers turn coarse images into a sequence of codes, coarse scales first, and back.

    scalar     quantisation of wavelet coefficients at fixed levels, no training
    spectral   vector-quantised wavelet scales, learned on public images (arXiv 2412.09607)
    raster     vector-quantised patches without wavelets, learned on public images: the baseline

A declaration is a `TokenizerMethod` (no torch) beside its model, a `Tokenizer`:

    length                 L, tokens of one image
    spans                  contiguous runs of the sequence that share a codebook, in order
    positions              L 3 int64: scale (0 = coarsest), row and column of each token, on that scale's grid
    encode(images)         B C h w in [0, 1] -> B L int64, each code in [0, size of its span's codebook)
    decode(codes)          B L -> B C h w in [0, 1]

A tokenizer is fixed or trained on public images (then it has the ability `wavedp.methods.Trains`): encoding is a
per-record map and costs no ε. To add one, see CONTRIBUTING.md; its tests:
subclass `wavedp.testing.tokenizers.TokenizerSuite`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from wavedp import registry
from wavedp.methods import Method, Weights

if TYPE_CHECKING:  # torch too: plans are made without it
    from torch import Tensor

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Span:
    """Tokens start..stop-1 of the sequence use codebook number `codebook`, which has `size` codes.

    digits: sizes of the numbers that a code is made of, their product `size`; none given: one digit, the code itself.
    The first counts most: with digits (a, b, c), code = (first · b + second) · c + third. A generator may draw them one
    after another instead of one of all `size` codes. Raises ValueError for another product.
    """

    start: int
    stop: int
    codebook: int
    size: int
    digits: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.digits:
            object.__setattr__(self, "digits", (self.size,))
        if math.prod(self.digits) != self.size:
            raise ValueError(f"a codebook of {self.size} codes does not have digits of {self.digits}")

    def split(self, codes: Tensor) -> list[Tensor]:
        """The digits of codes of this span, each a tensor of the same shape."""
        found = []
        for size in reversed(self.digits[1:]):
            found.append(codes % size)
            codes = codes // size
        return [codes, *reversed(found)]


class Tokenizer(Protocol):
    """See the module's docstring."""

    length: int
    spans: tuple[Span, ...]
    positions: Tensor

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, codes: Tensor) -> Tensor: ...


class TokenizerMethod(Method):
    """The declaration of a tokenizer. A subclass overrides what differs for it."""

    def training_level(self, level: int) -> int | None:
        """The level of the public images that the tokenizer of a trial's level is trained on; None for one without
        training."""
        return None

    def levels(self, config: Any, shape: Shape) -> range:
        """The levels whose coarse images it is made for, from 0: the codes of each decode to that coarse image. By
        default all levels that halve a full image of `shape` exactly."""
        deepest = 0
        while all(side % 2 ** (deepest + 1) == 0 for side in shape[1:]):
            deepest += 1
        return range(deepest + 1)

    def nested(self, config: Any) -> bool:
        """True if the codes of a coarse image are the first ones of the whole image's."""
        return True

    def build(self, config: Any, shape: Shape, level: int, weights: Weights) -> Tokenizer:
        """The tokenizer for coarse images of `level` of full images of `shape` (C, H, W). weights: of its training.

        Raises UserError for settings or a level that do not fit the shape, or weights of another size."""
        raise NotImplementedError(f"{self.name} has no model")

    def first_weights(self, config: Any, shape: Shape, level: int) -> Weights:
        """The weights before its training; none of one without. Raises UserError as `build`."""
        return {}

    def untrained(self, config: Any, shape: Shape, level: int) -> Tokenizer:
        """The tokenizer before its training: what length, spans and positions it has. Raises UserError as `build`."""
        return self.build(config, shape, level, self.first_weights(config, shape, level))


def halvings(coarsest: int, shape: Shape) -> int:
    """Number of times an image of `shape` is halved: until its side is at most `coarsest`, or odd."""
    _, height, width = shape
    levels = 0
    while min(height, width) > coarsest and height % 2 == 0 and width % 2 == 0:
        height, width, levels = height // 2, width // 2, levels + 1
    return levels


def build(config: Any, shape: Shape, level: int, weights: Weights) -> Tokenizer:
    """The tokenizer that `config` configures; see TokenizerMethod.build."""
    return _of(config).build(config, shape, level, weights)


def untrained(config: Any, shape: Shape, level: int) -> Tokenizer:
    """See TokenizerMethod.untrained."""
    return _of(config).untrained(config, shape, level)


def outline(config: Any, shape: Shape, level: int) -> Tokenizer:
    """The untrained tokenizer without memory for its weights (on the device `meta`): length, spans and positions are
    as they will be, and nothing can be encoded."""
    import torch

    with torch.device("meta"):
        outlined = untrained(config, shape, level)
    # A tokenizer of somebody else may put its positions on the default device.
    return untrained(config, shape, level) if outlined.positions.is_meta else outlined


def training_level(config: Any, level: int) -> int | None:
    """See TokenizerMethod.training_level."""
    return _of(config).training_level(level)


def nested(config: Any) -> bool:
    """See TokenizerMethod.nested."""
    return _of(config).nested(config)


def _of(config: Any) -> TokenizerMethod:
    return registry.find("tokenizer", config.name)

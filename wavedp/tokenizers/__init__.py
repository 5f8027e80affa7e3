"""Tokenizers turn coarse images into a sequence of codes, coarse scales first, and back.

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
from typing import Protocol

from torch import Tensor

from wavedp.config import TokenizerConfig
from wavedp.errors import UserError


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


def build(config: TokenizerConfig, shape: tuple[int, int, int]) -> Tokenizer:
    """The tokenizer for coarse images of `shape` (C, h, w). Raises UserError for an unknown name or bad bins."""
    from wavedp.tokenizers.scalar import ScalarTokenizer

    if config.name != "scalar":
        raise UserError(f"tokenizer.name={config.name!r} is not built: use scalar.")
    return ScalarTokenizer(config, shape)

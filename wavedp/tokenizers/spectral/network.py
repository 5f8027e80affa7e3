"""The spectral image tokenizer: vector-quantised wavelet scales, coarse to fine, a constant number of tokens each.

Shapes: B records, C channels, H W pixels of the full image, S scales, N tokens of a scale, L = S N, D width.

    image -> Haar pyramid -> patches of each scale -> linear embedding per scale -> encoder -> two codebooks
          -> decoder -> linear un-embedding per scale -> inverse Haar pyramid -> image

Scale 0 is the approximation, scale s ≥ 1 the H, V, D details of its level on the channel axis. A patch's side doubles
from one detail scale to the next, so every scale has the same N and high frequencies are compressed harder. One
codebook serves the approximation, another all details. Coefficients are divided by 2^level, to have the image's range.

Scale-causal: with `scale_causal` both or decoder, the first k N codes decode to the image at the k-th scale's
resolution; with both or encoder, encoding a coarse image gives the prefix of encoding the whole one. The pipeline needs
both (a private coarse image is all that a record may show), and that is the default.

Trained on public images only (`wavedp.tokenizers.training`): encoding is then a per-record map and costs no ε.
Source: arXiv 2412.09607 (SIT; SIT-SC is `both`, SIT-SCD `decoder`, SIT-SCE `encoder`). The paper's sizes are 8,192
codes twice, 8 encoder and 32 decoder layers of width 1,280 (tokenizer=spectral_paper); ours are fields with small
defaults. Its N = 256 at 256² by S (each row: tokenizer.coarsest and patch, the sides of patches):

    S = 4    32, 2    2 (of 32² × 3), then details 2 (32² × 9), 4 (64² × 9), 8 (128² × 9)
    S = 5    16, 1    1 (of 16² × 3), then details 1 (16² × 9), 2 (32² × 9), 4 (64² × 9), 8 (128² × 9)

Not as published: the attention's output projection is shared (see wavedp.tokenizers.adtransformer); codes follow a
moving average and are compared as directions; the perceptual network is a packaged ImageNet classifier's
(wavedp.losses), not VGG or LPIPS; the discriminator is a small one of patches.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from wavedp.errors import UserError
from wavedp.tokenizers import halvings
from wavedp.tokenizers.adtransformer import ADTransformer
from wavedp.tokenizers.codebook import Codebook, Quantised
from wavedp.tokenizers.learned import LearnedConfig
from wavedp.tokenizers.spectral import SpectralConfig
from wavedp.wavelets import Pyramid, decompose, reconstruct


class SpectralNetwork(nn.Module):
    """The trainable part, for images of `shape` (C, H, W) halved `levels` times, and for any of their coarser scales.

    patch: side of a patch of the coarsest scale. books: codes of the approximation's codebook, and of the details' if
    there are any. causal: which of the two transformers are blind to finer scales. Raises UserError for a patch that
    does not divide the coarsest scale, or a width that its heads cannot share.
    """

    def __init__(
        self,
        config: LearnedConfig,
        shape: tuple[int, int, int],
        levels: int,
        patch: int,
        books: list[int],
        causal: Literal["both", "decoder", "encoder", "none"] = "both",
    ) -> None:
        super().__init__()
        self.shape, self.levels, self.scales = shape, levels, levels + 1
        channels, rows, columns = shape[0], shape[1] >> levels, shape[2] >> levels
        if rows % patch or columns % patch:
            raise UserError(
                f"tokenizer.patch={patch} does not divide the coarsest scale, {rows}×{columns} for images of "
                f"{shape[1]}×{shape[2]}: use a divisor, or another tokenizer.coarsest."
            )
        if config.width % config.heads:
            raise UserError(f"tokenizer.width={config.width} can't be shared by {config.heads} heads: use a multiple.")
        self.grid = (rows // patch, columns // patch)
        self.tokens = self.grid[0] * self.grid[1]  # N
        # Patch sides, coarse to fine: p for the approximation and for the first details, then doubling.
        self.patches = [patch * 2 ** max(s - 1, 0) for s in range(self.scales)]
        sizes = [(channels if s == 0 else 3 * channels) * side**2 for s, side in enumerate(self.patches)]
        self.embed = nn.ModuleList(nn.Linear(size, config.width) for size in sizes)
        self.unembed = nn.ModuleList(nn.Linear(config.width, size) for size in sizes)
        self.position_in = nn.Parameter(0.02 * torch.randn(self.scales * self.tokens, config.width))
        self.position_out = nn.Parameter(0.02 * torch.randn(self.scales * self.tokens, config.width))
        self.encoder, self.decoder = (
            ADTransformer(config.width, depth, config.heads, causal in ("both", side), details=levels > 0)
            for side, depth in (("encoder", config.encoder_depth), ("decoder", config.decoder_depth))
        )
        self.codebooks = nn.ModuleList(Codebook(size, config.code_width) for size in books)
        self.to_code = nn.ModuleList(nn.Linear(config.width, config.code_width) for _ in books)
        self.from_code = nn.ModuleList(nn.Linear(config.code_width, config.width) for _ in books)

    @property
    def books(self) -> list[Codebook]:
        """The codebooks of the approximation, and of the details if there are any."""
        return list(self.codebooks)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> tuple[Tensor, list[Quantised]]:
        """Reconstructions of full images B C H W, not clipped, and what each codebook did."""
        parts = [book(z) for book, z in zip(self.books, self.features(images), strict=False)]
        return self.synthesise([part.vectors for part in parts]), parts

    def features(self, images: Tensor) -> list[Tensor]:
        """The vectors that each codebook quantises: B N d of the approximation, B (k-1)N d of the details."""
        levels = self._levels_of(images)
        pyramid = decompose(images, levels)
        bands = [pyramid.approximation / 2**levels]
        bands += [detail.flatten(1, 2) / 2 ** (levels - j) for j, detail in enumerate(pyramid.details)]
        h = torch.cat([embed(_to_patches(band, side)) for band, side, embed in
                       zip(bands, self.patches, self.embed, strict=False)], dim=1)  # fmt: skip
        h = self.encoder(h + self.position_in[: h.shape[1]], self._ends(len(bands)))
        split = (h[:, : self.tokens], h[:, self.tokens :])
        return [project(part) for project, part in zip(self.to_code, split, strict=False) if part.shape[1]]

    def synthesise(self, vectors: list[Tensor]) -> Tensor:
        """Images B C h w at the resolution of the last scale given, not clipped."""
        h = torch.cat([lift(part) for lift, part in zip(self.from_code, vectors, strict=False)], dim=1)
        k = h.shape[1] // self.tokens
        h = self.decoder(h + self.position_out[: h.shape[1]], self._ends(k))
        channels, levels = self.shape[0], k - 1
        bands = [
            _from_patches(unembed(part), side, self.grid)
            for part, side, unembed in zip(h.split(self.tokens, dim=1), self.patches, self.unembed, strict=False)
        ]
        details = [band.unflatten(1, (channels, 3)) * 2 ** (levels - j) for j, band in enumerate(bands[1:])]
        return reconstruct(Pyramid(bands[0] * 2**levels, tuple(details)))

    def _levels_of(self, images: Tensor) -> int:
        """Levels from images of this size to the coarsest scale. Raises UserError for another size."""
        for levels in range(self.scales):
            side = tuple(x >> (self.levels - levels) for x in self.shape[1:])
            if tuple(images.shape[1:]) == (self.shape[0], *side):
                return levels
        raise UserError(
            f"images of {tuple(images.shape[1:])} (C, H, W) are not a scale of this tokenizer, which was made for "
            f"{self.shape} and {self.levels} levels below: use one of its sizes."
        )

    def _ends(self, k: int) -> list[int]:
        return [self.tokens * scale for scale in range(1, k + 1)]


def spectral_network(config: SpectralConfig, shape: tuple[int, int, int]) -> SpectralNetwork:
    """The untrained network for full images of `shape` (C, H, W)."""
    levels = halvings(config.coarsest, shape)
    books = [config.codes, config.detail_codes][: 2 if levels else 1]
    return SpectralNetwork(config, shape, levels, config.patch, books, config.scale_causal)


def _to_patches(band: Tensor, side: int) -> Tensor:
    """B C h w -> B N C·side², patches in row order."""
    return nn.functional.unfold(band, side, stride=side).transpose(1, 2)


def _from_patches(patches: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
    """B N C·side² -> B C h w."""
    size = (grid[0] * side, grid[1] * side)
    return nn.functional.fold(patches.transpose(1, 2), size, side, stride=side)

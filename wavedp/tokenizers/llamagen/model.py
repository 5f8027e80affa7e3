"""LlamaGen's tokenizer: a convolutional encoder, a codebook of unit vectors, and a decoder.

Shapes: B images, C channels, h w pixels, L codes, d width of a code, K codes of the codebook.

Modules are named as in its files, so that a state dict fits as it is. Pixels are seen in [-1, 1]; a code is the vector
of the codebook with the largest cosine. GroupNorm is the only norm: an image's codes depend on it alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavedp.errors import UserError
from wavedp.tokenizers import Shape, Span
from wavedp.tokenizers.llamagen import LlamaGenConfig, file_of, multipliers_of
from wavedp.torch_files import fill, read_weights

BLOCKS, GROUPS, EPS = 2, 32, 1e-6  # residual blocks of a level of the encoder; the decoder has one more
PART = 16  # images that are encoded or decoded at once


class Grid:
    """length, spans and positions of the codes of coarse images. Raises UserError for images that are not made of whole
    patches."""

    def __init__(self, config: LlamaGenConfig, shape: Shape, level: int) -> None:
        channels, height, width = shape
        patch = 2 ** (len(multipliers_of(config)) - 1)
        height, width = height >> level, width >> level
        if height % patch or width % patch:
            raise UserError(
                f"tokenizer=llamagen makes a code of {patch}×{patch} pixels, and coarse images are {height}×{width}: "
                f"use a level whose sides are multiples of {patch}."
            )
        self.channels, self.rows, self.columns = channels, height // patch, width // patch
        self.length = self.rows * self.columns
        self.spans: tuple[Span, ...] = (Span(0, self.length, 0, config.codes),)
        places = torch.cartesian_prod(torch.arange(self.rows), torch.arange(self.columns)).view(-1, 2)
        self.positions = F.pad(places, (1, 0))  # L 3: scale 0, row, column


class LlamaGenTokenizer(Grid):
    """See wavedp.tokenizers for the protocol. Raises UserError for a file of another network."""

    def __init__(self, config: LlamaGenConfig, shape: Shape, level: int) -> None:
        super().__init__(config, shape, level)
        file = file_of(config.checkpoint)
        self.network = VQNetwork(config)
        weights = read_weights(file)
        weights.pop("quantize.codebook_used", None)  # counts of their training
        fill(self.network, weights, file)
        self.network.eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """B C h w in [0, 1] -> B L int64, on the images' device."""
        network = self.network.to(images.device)
        shown = images.expand(-1, 3, -1, -1) * 2 - 1
        parts = [network.codes(part).flatten(1) for part in shown.split(PART)]
        return torch.cat(parts) if parts else torch.zeros(0, self.length, dtype=torch.long)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """B L -> B C h w in [0, 1]."""
        network = self.network.to(codes.device)
        parts = [network.pixels(part.view(-1, self.rows, self.columns)) for part in codes.split(PART)]
        images = ((torch.cat(parts) + 1) / 2).clamp(0, 1)
        return images.mean(1, keepdim=True) if self.channels == 1 else images


class VQNetwork(nn.Module):
    """All weights of the file."""

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        multipliers, z = multipliers_of(config), config.latent_channels
        self.encoder = Encoder(config.channels, multipliers, z)
        self.decoder = Decoder(config.channels, multipliers, z)
        self.quantize = nn.ModuleDict({"embedding": nn.Embedding(config.codes, config.code_width)})
        self.quant_conv, self.post_quant_conv = nn.Conv2d(z, config.code_width, 1), nn.Conv2d(config.code_width, z, 1)

    def codes(self, images: Tensor) -> Tensor:
        """B 3 h w -> B rows columns."""
        found = F.normalize(self.quant_conv(self.encoder(images)).movedim(1, -1), dim=-1)
        return (found @ self._book().T).argmax(-1)

    def pixels(self, codes: Tensor) -> Tensor:
        """B rows columns -> B 3 h w, about [-1, 1]."""
        shown: Tensor = self.decoder(self.post_quant_conv(self._book()[codes].movedim(-1, 1)))
        return shown

    def _book(self) -> Tensor:
        return F.normalize(self.quantize["embedding"].weight, dim=-1)  # type: ignore[arg-type]


class Encoder(nn.Module):
    """B 3 h w -> B z rows columns."""

    def __init__(self, channels: int, multipliers: tuple[int, ...], z: int) -> None:
        super().__init__()
        self.conv_in = _conv(3, channels)
        widths = [channels, *(channels * m for m in multipliers)]
        last = len(multipliers) - 1
        self.conv_blocks = nn.ModuleList(
            _level(widths[i], widths[i + 1], BLOCKS, attends=i == last, end="downsample" if i < last else "")
            for i in range(last + 1)
        )
        self.mid, self.norm_out, self.conv_out = _middle(widths[-1]), _norm(widths[-1]), _conv(widths[-1], z)

    def forward(self, x: Tensor) -> Tensor:
        return _through(self, x, self.conv_blocks, self.mid)


class Decoder(nn.Module):
    """B z rows columns -> B 3 h w."""

    def __init__(self, channels: int, multipliers: tuple[int, ...], z: int) -> None:
        super().__init__()
        widths = [channels * multipliers[-1], *(channels * m for m in reversed(multipliers))]
        last = len(multipliers) - 1
        self.conv_in, self.mid = _conv(z, widths[0]), _middle(widths[0])
        self.conv_blocks = nn.ModuleList(
            _level(widths[i], widths[i + 1], BLOCKS + 1, attends=i == 0, end="upsample" if i < last else "")
            for i in range(last + 1)
        )
        self.norm_out, self.conv_out = _norm(widths[-1]), _conv(widths[-1], 3)

    def forward(self, x: Tensor) -> Tensor:
        return _through(self, x, self.mid, self.conv_blocks)


class Level(nn.Module):
    """Residual blocks, each with attention after it if it attends, and a change of size."""

    def forward(self, x: Tensor) -> Tensor:
        for number, block in enumerate(self.res):  # type: ignore[arg-type]
            x = block(x)
            x = self.attn[number](x) if len(self.attn) else x  # type: ignore[index, arg-type, operator]
        if hasattr(self, "downsample"):
            return self.downsample.conv(F.pad(x, (0, 1, 0, 1)))  # type: ignore[no-any-return, operator, union-attr]
        if hasattr(self, "upsample"):
            return self.upsample.conv(F.interpolate(x, scale_factor=2.0))  # type: ignore[no-any-return, operator, union-attr]
        return x


class Residual(nn.Module):
    """Two convolutions around a way past them."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1, self.conv1, self.norm2, self.conv2 = (
            _norm(before),
            _conv(before, after),
            _norm(after),
            _conv(after, after),
        )
        self.nin_shortcut = nn.Conv2d(before, after, 1) if before != after else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class Attention(nn.Module):
    """One head over all places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        seen = self.norm(x)
        q, k, v = (layer(seen).flatten(2).mT for layer in (self.q, self.k, self.v))
        found = F.scaled_dot_product_attention(q, k, v).mT.reshape(x.shape)
        return x + self.proj_out(found)


def _level(before: int, after: int, blocks: int, attends: bool, end: str) -> Level:
    level = Level()
    level.res = nn.ModuleList(Residual(before if i == 0 else after, after) for i in range(blocks))
    level.attn = nn.ModuleList(Attention(after) for _ in range(blocks if attends else 0))
    if end:
        down = end == "downsample"
        conv = nn.Conv2d(after, after, 3, stride=2) if down else _conv(after, after)
        setattr(level, end, nn.ModuleDict({"conv": conv}))
        getattr(level, end).conv = conv
    return level


def _middle(width: int) -> nn.ModuleList:
    return nn.ModuleList([Residual(width, width), Attention(width), Residual(width, width)])


def _through(network: Encoder | Decoder, x: Tensor, *lists: Iterable[nn.Module]) -> Tensor:
    h = network.conv_in(x)
    for modules in lists:
        for module in modules:
            h = module(h)
    found: Tensor = network.conv_out(F.silu(network.norm_out(h)))
    return found


def _conv(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, width, eps=EPS)

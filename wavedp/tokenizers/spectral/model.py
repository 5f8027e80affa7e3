"""A trained spectral or raster network as a tokenizer (see wavedp.tokenizers.spectral.network)."""

from __future__ import annotations

import torch
from torch import Tensor

from wavedp.errors import UserError
from wavedp.methods import Weights
from wavedp.tokenizers import Span
from wavedp.tokenizers.spectral.network import SpectralNetwork


class SpectralTokenizer:
    """A trained network, frozen, for coarse images of one level; see wavedp.tokenizers for the protocol.

    Raises UserError for a level below its coarsest scale and for weights of another configuration.
    """

    def __init__(self, network: SpectralNetwork, level: int, weights: Weights) -> None:
        if level > network.levels:
            raise UserError(
                f"level={level} is coarser than the tokenizer's coarsest scale, level {network.levels} of "
                f"{network.shape[1]}×{network.shape[2]}: lower level or tokenizer.coarsest."
            )
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            first = [*str(error).splitlines(), ""][1].strip()
            raise UserError(
                f"the tokenizer's weights are of another configuration ({first}): train it again."
            ) from None
        self.network = network.eval().requires_grad_(False)
        tokens, scales = network.tokens, network.scales - level
        self.length = scales * tokens
        self.spans: tuple[Span, ...] = (Span(0, tokens, 0, len(network.books[0].codes)),)
        if scales > 1:
            self.spans += (Span(tokens, self.length, 1, len(network.books[1].codes)),)
        grid = torch.cartesian_prod(*(torch.arange(n, device="cpu") for n in (scales, *network.grid)))
        self.positions = grid.view(-1, 3)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Codes B kN int64 of images B C h w in [0, 1], at the size of any of the tokenizer's scales."""
        self.network.to(images.device)
        found = self.network.features(images)
        return torch.cat([book.nearest(z) for book, z in zip(self.network.books, found, strict=False)], dim=1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Images B C h w in [0, 1] from the codes B kN of the first k scales, at the k-th scale's resolution.

        Raises UserError for codes that end within a scale.
        """
        network, tokens = self.network.to(codes.device), self.network.tokens
        if codes.shape[1] not in range(tokens, network.scales * tokens + 1, tokens):
            raise UserError(
                f"{codes.shape[1]} codes an image are not a prefix of {network.scales} scales with {tokens} tokens "
                f"each: give a multiple of {tokens}, up to {network.scales * tokens}."
            )
        split = (codes[:, :tokens], codes[:, tokens:])
        vectors = [book.look_up(part) for book, part in zip(network.books, split, strict=False) if part.shape[1]]
        return network.synthesise(vectors).clamp(0, 1)

"""`dp_llamagen_checkpoint`: LlamaGen's decoder with its published weights, fitted by DP-SGD (token_model).

Shapes: B records, L codes, P places of the prefix (1 for a class), D width, H heads, d = D/H.

The sequence is the prefix, then the codes in raster order. Queries and keys of codes turn by their place, pairs being
neighbours in a head; those of the prefix are 0 there, so that all places of it are attended to alike. A caption's empty
places are seen by nothing but themselves.

Weights are named as in wavedp.generators.token_decoder; `ours` says which name of the file is which.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavedp.errors import UserError
from wavedp.generators.conditions import ClassCondition
from wavedp.generators.dp_llamagen.decoder import NORM_EPS, feedforward_width, rotations
from wavedp.generators.dp_llamagen_checkpoint import DPLlamaGenCheckpointConfig, file_of
from wavedp.generators.dp_llamagen_checkpoint.text import CaptionCondition
from wavedp.generators.token_decoder import Cache, TokenDecoder, split_heads
from wavedp.generators.token_model import TokenModel
from wavedp.methods import Weights
from wavedp.progress import Report
from wavedp.seeds import derive_seed
from wavedp.tokenizers import Tokenizer
from wavedp.torch_files import fill, read_weights

UNUSED = ("freqs_cis", "causal_mask", "k_cache", "v_cache")
"""Ends of keys that some files hold, and that follow from the sizes."""


class LlamaGenDecoder(TokenDecoder):
    """See wavedp.generators.token_decoder. tokenizer: of one span, whose positions are L places of a grid."""

    def __init__(self, tokenizer: Tokenizer, condition: Any, config: DPLlamaGenCheckpointConfig) -> None:
        super().__init__(tokenizer, condition)
        (span,) = self.spans
        self.prefix = condition.places if isinstance(condition, CaptionCondition) else 1
        self.n_positions = self.prefix - 1 + self.length
        self.code = nn.Embedding(span.size, config.width)
        turns = rotations(tokenizer.positions[:-1, 1:], config.width // config.heads)[:, 1:]
        rotation = F.pad(turns, (0, 0, self.prefix, 0))  # no cosine and no sine for the prefix
        self.blocks = nn.ModuleList(Block(config.width, config.heads, rotation) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.width, eps=NORM_EPS)
        self.heads = nn.ModuleList([nn.Linear(config.width, span.size, bias=False)])

    def forward(self, codes: Tensor, conditions: Tensor) -> list[Tensor]:
        h = self.inputs(self._ids(codes), self.condition(conditions), 0, self.length)
        mask = self.mask(conditions)
        for block in self.blocks:
            block.mask = mask
            h = block(h)
        return [self.heads[0](self.norm(h[:, self.prefix - 1 :]))]

    def sample(self, conditions: Tensor, *arguments: Any, **named: Any) -> Tensor:
        """As every decoder over tokens, with the mask of these conditions."""
        guided = (named.get("guidance", arguments[4] if len(arguments) > 4 else 1.0)) != 1
        mask = self.mask(torch.cat([conditions] * 2) if guided else conditions)
        for block in self.blocks:
            block.mask = mask
        return super().sample(conditions, *arguments, **named)

    def mask(self, conditions: Tensor) -> Tensor:
        """B 1 S S or 1 1 S S bool: what each position of the sequence sees."""
        size = self.n_positions
        seen = torch.ones(size, size, dtype=torch.bool, device=conditions.device).tril()[None]
        if isinstance(self.condition, CaptionCondition):
            filled = F.pad(self.condition.shown(conditions), (0, self.length - 1), value=True)
            seen = (seen & filled[:, None]) | torch.eye(size, dtype=torch.bool, device=seen.device)
        return seen[:, None]

    def inputs(self, ids: Tensor, shown: Tensor, start: int, stop: int) -> Tensor:
        """Positions 0 to P-1 are the prefix, the next the first code."""
        if start:
            return self.code(ids[:, start - 1 : stop - 1, 0])
        # Not by concatenation, whose gradients are strided, as the ghost norms of an embedding refuse.
        embedded = self.code(F.pad(ids[:, : stop - 1, 0], (self.prefix, 0)))
        first = torch.arange(embedded.shape[1], device=ids.device) < self.prefix
        return torch.where(first[:, None], F.pad(shown, (0, 0, 0, stop - 1)), embedded)


class Block(nn.Module):
    """Pre-norm attention and SwiGLU, named as in LlamaGen's files. mask: of the sequences that it is shown next."""

    mask: Tensor

    def __init__(self, width: int, heads: int, rotation: Tensor) -> None:
        super().__init__()
        self.rotation: Tensor
        self.register_buffer("rotation", rotation, persistent=False)
        self.n_heads, inner = heads, feedforward_width(width)
        self.attention = nn.ModuleDict(
            {"wqkv": nn.Linear(width, 3 * width, bias=False), "wo": nn.Linear(width, width, bias=False)}
        )
        sides = {"w1": (width, inner), "w3": (width, inner), "w2": (inner, width)}
        self.feed_forward = nn.ModuleDict({name: nn.Linear(*of, bias=False) for name, of in sides.items()})
        self.attention_norm, self.ffn_norm = (nn.RMSNorm(width, eps=NORM_EPS) for _ in range(2))

    def forward(self, h: Tensor, cache: Cache | None = None) -> Tensor:
        """Map h B t D to B t D. With a cache, h holds the newest t positions, which also attend to all cached ones."""
        start = 0 if cache is None else cache.seen
        stop = start + h.shape[1]
        q, k, v = split_heads(self.attention["wqkv"](self.attention_norm(h)), self.n_heads)
        rotation = self.rotation[:, start:stop].clone()
        q, k = turned(q, rotation), turned(k, rotation)
        if cache is not None:
            k, v = cache.append(torch.stack([k, v]))
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask[:, :, start:stop, :stop])
        h = h + self.attention["wo"](found.transpose(1, 2).flatten(2))
        seen, layers = self.ffn_norm(h), self.feed_forward
        return h + layers["w2"](F.silu(layers["w1"](seen)) * layers["w3"](seen))


def turned(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn pairs of neighbours of x ... t d by their angles. rotation: 2 t d/2."""
    cosines, sines = rotation
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    both = torch.stack([first * cosines - second * sines, second * cosines + first * sines], -1)
    return both.flatten(-2).to(x.dtype)


class LlamaGenCheckpointModel(TokenModel):
    """See wavedp.generators for the protocol."""

    config: DPLlamaGenCheckpointConfig  # type: ignore[assignment]

    def decoder(self, tokenizer: Tokenizer, n_classes: int) -> LlamaGenDecoder:
        """In raster order, with random weights."""
        by_class = self.config.conditioning == "class"
        condition = ClassCondition(n_classes, self.config.width) if by_class else CaptionCondition(self.config)
        return LlamaGenDecoder(tokenizer, condition, self.config)

    @cached_property
    def _captions(self) -> CaptionCondition:
        return CaptionCondition(self.config)

    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        """Token ids B P int64, which the private fit turns into states."""
        return self._captions.encode(captions)

    def fit_public(
        self, images: Tensor, conditions: Tensor, seed: int, report: Report, checkpoint: Path | None = None
    ) -> Weights:
        """The file's weights; nothing is trained."""
        torch.manual_seed(derive_seed(seed, "pretrain"))
        return {name: x.detach().clone() for name, x in self.from_file().state_dict().items()}

    def from_file(self) -> LlamaGenDecoder:
        """The file's decoder, on the CPU. Each private class begins at the mean of the file's classes. Raises UserError
        for a file of another model."""
        file = file_of(self.config)
        weights = {ours(name): x for name, x in read_weights(file).items() if not name.endswith(UNUSED)}
        model, table = self.decoder(self.tokenizer, self.n_classes), "condition.table.weight"
        if self.config.conditioning == "class" and table in weights:
            rows = weights[table].float()
            if rows.ndim != 2 or len(rows) < 2 or rows.shape[1] != self.config.width:
                raise UserError(
                    f"{file} has weights cls_embedding.embedding_table.weight of shape {tuple(rows.shape)}, and this "
                    f"model is {self.config.width} wide: set the sizes of the file's model."
                )
            mean = rows[:-1].mean(0).expand(self.n_classes, -1)
            weights[table] = torch.cat([mean, rows[-1:]]) / self.config.width**0.5  # which ClassCondition multiplies by
        fill(model, weights, file, said=theirs)
        return model


NAMES = {
    "tok_embeddings.": "code.",
    "layers.": "blocks.",
    "output.": "heads.0.",
    "cls_embedding.embedding_table.": "condition.table.",
    "cls_embedding.": "condition.",
}
"""How names begin in a LlamaGen file, and here."""


def ours(name: str) -> str:
    """The name here of weights of a LlamaGen file."""
    return next((here + name.removeprefix(there) for there, here in NAMES.items() if name.startswith(there)), name)


def theirs(name: str) -> str:
    """The name in a LlamaGen file of weights here."""
    return next((there + name.removeprefix(here) for there, here in NAMES.items() if name.startswith(here)), name)

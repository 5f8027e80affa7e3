"""Captions as LlamaGen's decoder is shown them: states of a frozen T5 at the end of a fixed number of places.

Shapes: B captions, P places of the prefix, E width of the states, D width of the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavedp import extras
from wavedp.errors import UserError
from wavedp.generators.dp_llamagen_checkpoint import DPLlamaGenCheckpointConfig, encoder_of


class CaptionCondition(nn.Module):
    """Token ids B P int64 -> prefix B P D. Ids below 0 mean "none": -1 - id keeps how many places the caption takes,
    since LlamaGen hides the empty places of a dropped caption as well.

    The T5 is none of its submodules: it is no part of what a fit trains, averages or releases."""

    def __init__(self, config: DPLlamaGenCheckpointConfig) -> None:
        super().__init__()
        self.cap_proj = Projection(config.caption_width, config.width)
        self.register_buffer("uncond_embedding", torch.zeros(config.caption_tokens, config.caption_width))
        self.uncond_embedding: Tensor
        self.places = config.caption_tokens
        self._words, encoder = load_t5(encoder_of(config))
        self._frozen = [encoder]
        if encoder.config.d_model != config.caption_width:
            raise UserError(
                f"generator.text_encoder={config.text_encoder} has states {encoder.config.d_model} wide, and generator."
                f"caption_width={config.caption_width}: give the encoder that the decoder was trained with."
            )

    def encode(self, captions: Sequence[str]) -> Tensor:
        """Token ids, one row a caption, cut or filled to P places."""
        lower = [caption.lower().strip() for caption in captions]
        found = self._words(lower, padding="max_length", max_length=self.places, truncation=True, return_tensors="pt")
        ids: Tensor = found.input_ids
        return ids

    def forward(self, ids: Tensor) -> Tensor:
        none, ids = ids[:, :1] < 0, torch.where(ids < 0, -1 - ids, ids)
        states = torch.where(none[..., None], self.uncond_embedding, self._states(ids))
        projected: Tensor = self.cap_proj(states)
        return projected

    def absent(self, ids: Tensor) -> Tensor:
        """Return "none" for each caption."""
        return -1 - ids

    def shown(self, ids: Tensor) -> Tensor:
        """B P bool: the places that hold a token, the last ones."""
        count = self._mask(torch.where(ids < 0, -1 - ids, ids)).sum(1, keepdim=True)
        return torch.arange(self.places, device=ids.device) >= self.places - count

    @torch.no_grad()
    def _states(self, ids: Tensor) -> Tensor:
        """B P E, a caption's states moved to the last places, zeros before."""
        (encoder,) = self._frozen
        mask = self._mask(ids)
        states = encoder.to(ids.device)(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        order = (torch.arange(self.places, device=ids.device) + mask.sum(1, keepdim=True)) % self.places
        moved: Tensor = states.gather(1, order[..., None].expand_as(states))
        return moved * self.shown(ids)[..., None]

    def _mask(self, ids: Tensor) -> Tensor:
        return ids != self._words.pad_token_id


class Projection(nn.Module):
    """From the text's width to the decoder's."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(before, after, bias=False), nn.Linear(after, after, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


@lru_cache(maxsize=1)  # of a billion weights
def load_t5(folder: Path) -> tuple[Any, Any]:
    """The tokenizer, and the encoder, frozen. Raises UserError for files that cannot be read or miss a key."""
    extras.require("A checkpoint's text encoder", "transformers")
    import transformers

    try:
        words = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        loader: Any = transformers.T5EncoderModel
        encoder, about = loader.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except Exception as error:  # whatever their readers raise
        reason = " ".join(str(error).split())[:150].rstrip(".")
        raise UserError(
            f"{folder} cannot be loaded ({type(error).__name__}: {reason}): give a T5's folder with its tokenizer."
        ) from error
    for name in sorted(about["missing_keys"]):  # a T5's folder has its decoder too, which is not asked for
        raise UserError(f"{folder} has no weights {name}, which its config.json asks for: download the model again.")
    return words, encoder.float().eval().requires_grad_(False)

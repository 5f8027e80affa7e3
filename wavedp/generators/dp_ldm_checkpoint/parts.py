"""Parts of a diffusers folder as networks: every key must be there, none more, each of the configured shape.

Files are safetensors, or torch's, which diffusers and transformers open with weights_only: a pickle that holds other
objects than tensors is refused and not run. Old names that these libraries know are renamed by them.

Shapes: B records, L tokens, D width of a token's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from wavedp import extras
from wavedp.errors import UserError
from wavedp.generators.dp_ldm_checkpoint.facts import Facts


def load(facts: Facts, part: str) -> Any:
    """The network of the part `vae`, `unet` or `encoder`, float32, frozen and in evaluation mode.

    Raises UserError for files that are absent or cannot be read, or whose keys or shapes are not those of the
    configuration."""
    folder = facts.folders[part]
    _require_weights(folder)
    cls, options = _class_of(facts.classes[part])
    try:
        network, about = cls.from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True, **options
        )
    except Exception as error:  # missing or damaged files raise whatever their readers do
        reason = " ".join(str(error.__cause__ or error).split())[:150].rstrip(".")
        raise UserError(
            f"{folder} cannot be loaded ({type(error).__name__}: {reason}): give safetensors, or a file that "
            "torch.load(weights_only=True) reads."
        ) from error
    for name in sorted(about["missing_keys"]):
        raise UserError(f"{folder} has no weights {name}, which its config.json asks for: download the model again.")
    for name in sorted(about["unexpected_keys"]):
        raise UserError(f"{folder} has weights {name}, for which its config.json has no place: download it again.")
    for name, saved, wanted in sorted(about["mismatched_keys"]):
        raise UserError(
            f"{folder} has weights {name} of shape {tuple(saved)}, and its config.json asks for {tuple(wanted)}: "
            "give the weights of this size."
        )
    return network.float().eval().requires_grad_(False)


def load_text(facts: Facts) -> FrozenText:
    """The text encoder and its tokenizer. Raises UserError as `load`, and for a tokenizer that is missing or knows
    more words than the encoder, or states of another width than the U-Net's attention takes."""
    extras.require("A checkpoint's text encoder", "transformers")
    import transformers

    folder = facts.folders["tokenizer"]
    if not folder.is_dir():
        raise UserError(f"{folder} is missing, which model_index.json beside it names: download the model again.")
    try:
        words = getattr(transformers, facts.classes["tokenizer"]).from_pretrained(folder, local_files_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:150].rstrip(".")
        raise UserError(f"{folder} holds no tokenizer ({reason}): download the model again.") from error
    encoder = load(facts, "encoder")
    if len(words) > encoder.config.vocab_size:
        raise UserError(
            f"{folder} knows {len(words)} words and the text encoder beside it {encoder.config.vocab_size}: give the "
            "tokenizer of this encoder."
        )
    text = FrozenText(encoder, words)
    width = text(text.encode([""])).shape[-1]
    if width != facts.width:
        raise UserError(
            f"{facts.folders['encoder']} gives states {width} wide and the U-Net takes {facts.width}: give the text "
            "encoder of this U-Net."
        )
    return text


class FrozenText(nn.Module):
    """Token ids B L int64 -> states B L D of the frozen text encoder, without a mask, as both pipelines do.

    The encoder is none of its submodules: it is no part of what a fit trains, averages or releases."""

    def __init__(self, encoder: Any, words: Any) -> None:
        super().__init__()
        self._frozen = [encoder]
        self._words, self.length = words, encoder.config.max_position_embeddings
        self.register_buffer("empty", self.encode([""]), persistent=False)
        self.empty: Tensor

    def encode(self, captions: Sequence[str]) -> Tensor:
        """Token ids, one row a caption, cut or filled to the encoder's length."""
        found = self._words(
            list(captions), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )
        ids: Tensor = found.input_ids
        return ids

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Tensor:
        (encoder,) = self._frozen
        states: Tensor = encoder.to(ids.device)(ids)[0]
        return states

    def absent(self, ids: Tensor) -> Tensor:
        """Return the empty caption for each."""
        return self.empty.to(ids.device).expand_as(ids)


def _require_weights(folder: Path) -> None:
    """Look before the libraries do, which would take a folder that is absent for the name of a model on a hub."""
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} is missing or has no config.json, and model_index.json beside it names it: download the model "
            "again."
        )
    files = [file for ending in ("safetensors", "bin") for file in sorted(folder.glob(f"*.{ending}"))]
    if not files:
        raise UserError(f"{folder} holds no weights (*.safetensors or *.bin): download the model again.")
    for file in files:
        if file.suffix == ".safetensors":
            try:
                with safetensors.safe_open(file, "pt"):
                    pass
            except (safetensors.SafetensorError, OSError) as error:
                raise UserError(f"{file} is damaged ({error}): download it again.") from None


def _class_of(name: str) -> tuple[Any, dict[str, Any]]:
    """The class, and what else its loader is told."""
    if name in ("LDMBertModel", "CLIPTextModel"):
        extras.require("A checkpoint's text encoder", "transformers")
    if name == "LDMBertModel":
        from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertModel

        return LDMBertModel, {}
    if name == "CLIPTextModel":
        import transformers

        return transformers.CLIPTextModel, {}
    import diffusers

    return getattr(diffusers, name), {"low_cpu_mem_usage": False}

"""Agreement of images with their texts, measured by a CLIP model that the user has on disk.

The score is the mean cosine between the embeddings of an image and its text: CLIPScore (Hessel et al., 2021) without
its factor 2.5 and without clipping at 0. It reads only generated images and public prompts.

    B images with a text each
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from wavedp.errors import UserError
from wavedp.metrics.features import file_sha256


def text_alignment(
    chunks: Iterable[Tensor], texts: list[str], folder: Path, device: str, batch_size: int = 20
) -> tuple[float, float]:
    """Mean cosine of images (chunks of uint8 B C H W) and texts, in [-1, 1], and its standard error. folder: with a
    CLIPModel and its processor, as written by `save_pretrained`.

    Raises UserError without the package transformers, for a folder without CLIP, and for unequal numbers of images and
    texts.
    """
    if importlib.util.find_spec("transformers") is None:
        raise UserError("Text alignment needs the package transformers: pip install 'wavedp[text]'.")
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    try:
        model = CLIPModel.from_pretrained(folder, local_files_only=True).eval().to(device)
        prepare = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder} holds no CLIP model ({str(error).splitlines()[0]}): give a folder with config.json, weights, "
            "preprocessor_config.json and the tokenizer's files."
        ) from error
    longest = model.config.text_config.max_position_embeddings
    found: list[Tensor] = []
    done = 0
    for chunk in chunks:
        for batch in chunk.split(batch_size):
            said = texts[done : done + len(batch)]
            done += len(batch)
            if len(said) < len(batch):
                continue  # too few texts: only count the remaining images
            pictures = [Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).numpy()) for image in batch]
            tokens = tokenizer(said, padding=True, truncation=True, max_length=longest, return_tensors="pt")
            with torch.inference_mode():
                given = model(
                    **tokens.to(device), pixel_values=prepare(pictures, return_tensors="pt")["pixel_values"].to(device)
                )
            found.append(F.cosine_similarity(given.image_embeds, given.text_embeds).double().cpu())
    if done != len(texts):
        raise UserError(f"there are {done} images and {len(texts)} texts: give one text an image, in the same order.")
    cosines = torch.cat(found)
    return float(cosines.mean()), float(cosines.std() / max(len(cosines), 1) ** 0.5)


def weights_name(folder: Path) -> str:
    """First 8 digits of the sha256 of the model's weights, for the metric's name. Raises UserError without weights."""
    for path in (folder / "model.safetensors", folder / "pytorch_model.bin"):
        if path.is_file():
            return file_sha256(path)[:8]
    raise UserError(f"{folder} holds neither model.safetensors nor pytorch_model.bin: give a CLIP model's folder.")

"""Agreement of images with their texts, measured by a CLIP model that the user has on disk.

The number is the mean cosine between an image's embedding and its text's: CLIPScore (Hessel et al., 2021) without its
factor 2.5 and without its cut at 0. It looks at generated images and public prompts only.

    B images with a text each
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from wavedp import extras
from wavedp.errors import UserError
from wavedp.progress import Report, silent


def load(folder: Path, device: str) -> tuple[Any, Any, Any]:
    """The CLIPModel in a folder, its image processor and its tokenizer. Raises UserError without the package
    transformers, and for a folder without a CLIP model."""
    extras.require("Text alignment", "transformers")
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    try:
        model = pretrained(CLIPModel, folder, device)
        prepare = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder} holds no CLIP model ({str(error).splitlines()[0]}): give a folder with config.json, weights, "
            "preprocessor_config.json and the tokenizer's files."
        ) from error
    return model, prepare, tokenizer


def pretrained(kind: Any, folder: Path, device: str) -> Any:
    """A model of a class of transformers from a folder, for inference. Raises ValueError where the folder lacks
    weights, which transformers would draw at random, and as `from_pretrained`."""
    with torch.random.fork_rng(devices=[]):
        model, found = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    absent = sorted(found["missing_keys"]) + [str(item[0]) for item in found["mismatched_keys"]]
    if absent:
        several = "are" if len(absent) > 1 else "is"
        raise ValueError(f"{len(absent)} of its weights {several} missing: {absent[0]}")
    return model.eval().requires_grad_(False).to(device)


def text_alignment(
    pairs: Iterable[tuple[Tensor, list[str]]],
    folder: Path,
    device: str,
    batch_size: int = 20,
    report: Report = silent,
    total: int = 0,
) -> tuple[float, float]:
    """Mean cosine of images and texts, in [-1, 1], and its standard error, as `cosines` gives them."""
    found = cosines(pairs, folder, device, batch_size, report, total)
    return float(found.mean()), float(found.std() / max(len(found), 1) ** 0.5)


def cosines(
    pairs: Iterable[tuple[Tensor, list[str]]],
    folder: Path,
    device: str,
    batch_size: int = 20,
    report: Report = silent,
    total: int = 0,
) -> Tensor:
    """The cosine of each image and its text, float64 n in [-1, 1]. pairs: chunks of uint8 B C H W, each with its B
    texts. `report(done, total)` counts images. Raises UserError as `load`."""
    model, prepare, tokenizer = load(folder, device)
    longest = model.config.text_config.max_position_embeddings
    found: list[Tensor] = []
    done = 0
    for chunk, texts in pairs:
        for start in range(0, len(chunk), batch_size):
            batch, said = chunk[start : start + batch_size], texts[start : start + batch_size]
            pictures = [Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).numpy()) for image in batch]
            tokens = tokenizer(said, padding=True, truncation=True, max_length=longest, return_tensors="pt")
            with torch.inference_mode():
                given = model(
                    **tokens.to(device), pixel_values=prepare(pictures, return_tensors="pt")["pixel_values"].to(device)
                )
            found.append(F.cosine_similarity(given.image_embeds, given.text_embeds).double().cpu())
            done += len(batch)
            report(done, total)
    return torch.cat(found)

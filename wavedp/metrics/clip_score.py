"""CLIP score: how well generated images fit their prompts, with model, prefix and scale in its name.

    clip_vitb32-3fa9c2d1_a-photo-depicts_x1_30k

Published numbers differ in all three, and none of them says which it is by itself:

    x1      mean cosine: GigaGAN's and LlamaGen's evaluation (mingukkang/GigaGAN evaluation/, FoundationVision/LlamaGen
            evaluations/t2i/evaluation.py), with "A photo depicts" before each text, by ViT-B/32 or ViT-g/14
    x100    the same cosine, times 100, as torchmetrics gives it (its own default has no prefix)
    x2.5    2.5 · max(cosine, 0), the mean over images: CLIPScore of Hessel et al. (2021, arXiv 2104.08718), with the
            same prefix

Texts longer than the model reads are cut at its end. In the name, the model is its layout and the first 8 digits of its
weights' sha256.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from wavedp.config import MetricsConfig
from wavedp.errors import UserError
from wavedp.fields import performance, result
from wavedp.metrics import Meaning
from wavedp.metrics.text import TextAlignment, measured, weights_file, weights_name
from wavedp.metrics.views import Estimate, Sets

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "A photo depicts"
SCALES = {
    "x1": "mean cosine",
    "x100": "mean cosine times 100",
    "x2.5": "mean of 2.5 times the cosine, where it is above 0",
}

LAYOUTS = {
    (768, 12, 32): "vitb32",
    (768, 12, 16): "vitb16",
    (1024, 24, 14): "vitl14",
    (1280, 32, 14): "vith14",
    (1408, 40, 14): "vitg14",
    (1664, 48, 14): "vitbigg14",
}
"""Width, layers and pixels of a patch of the image tower."""


@dataclass(frozen=True)
class ClipScoreConfig:
    """clip, texts: as in TextAlignmentConfig. prefix: comes before each text, with a space between ("": nothing).
    scale: see the module."""

    name: str = result("clip_score")
    prefix: str = result(PREFIX)
    scale: Literal["x1", "x100", "x2.5"] = result("x1")
    clip: str | None = performance(None, path=True)
    texts: str | None = performance(None, path=True)


class ClipScore(TextAlignment):
    """In [-1, 1], [-100, 100] or [0, 2.5]. Looks only at generated images and public texts."""

    name, Config, better = "clip_score", ClipScoreConfig, "higher"

    def meanings(self, own: Any, config: MetricsConfig) -> dict[str, Meaning]:
        """By model, prefix and scale; by the metric alone while no model is given."""
        before = f'"{own.prefix} " before each text' if own.prefix else "nothing before the texts"
        about = f"CLIP score: {SCALES[own.scale]} of generated images and their texts, with {before}"
        return {_begins(own) if own.clip else "clip": Meaning(self.better, about)}

    def names(self, own: Any, sets: Sets) -> dict[str, str]:
        """clip_<model>_<prefix>_<scale>_<generated>. Raises UserError without weights."""
        return {self.name: f"{_begins(own)}_{sets.everything.name}"}

    def work(self, own: Any, sets: Sets) -> dict[str, int]:
        """Images and their texts."""
        return {self.name: sets.everything.count}

    def measure(self, own: Any, sets: Sets, reference: Mapping[str, Tensor]) -> dict[str, float]:
        """The mean, with its standard error. Raises UserError for another number of texts than of images."""
        found = measured(own, sets, f"{own.prefix} " if own.prefix else "")
        scores = {"x1": found, "x100": 100 * found, "x2.5": 2.5 * found.clamp(min=0)}[own.scale]
        error = float(scores.std() / len(scores) ** 0.5)
        return {self.names(own, sets)[self.name]: Estimate(float(scores.mean()), error)}


def _begins(own: ClipScoreConfig) -> str:
    words = re.findall(r"[a-z0-9]+", own.prefix.lower())
    return f"clip_{_layout(own.clip)}-{weights_name(own.clip)}_{'-'.join(words) or 'bare'}_{own.scale}"


def _layout(folder: str | None) -> str:
    """The image tower in a word, by the folder's config.json. Raises UserError without one."""
    path = weights_file(folder).with_name("config.json")
    try:
        vision = json.loads(path.read_text(encoding="utf-8"))["vision_config"] or {}
        # What is not written is transformers' default, the first of LAYOUTS.
        width, layers = int(vision.get("hidden_size", 768)), int(vision.get("num_hidden_layers", 12))
        patch = int(vision.get("patch_size", 32))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} does not describe a CLIP model ({type(error).__name__}): give a folder as save_pretrained writes "
            "it."
        ) from error
    return LAYOUTS.get((width, layers, patch), f"vit{width}x{layers}p{patch}")

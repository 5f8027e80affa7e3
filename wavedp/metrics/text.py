"""Agreement of generated images with their texts, to a CLIP model that the user has on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavedp.errors import UserError
from wavedp.fields import performance, result
from wavedp.metrics import Given, MetricMethod
from wavedp.metrics.views import Estimate, Sets, View
from wavedp.weight_files import sha256

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TextAlignmentConfig:
    """clip: folder of a CLIPModel and its processor, as `save_pretrained` writes them; the content of its weights is in
    the key. texts: file with a line for each generated image (None: the prompts they were sampled from); its content is
    in the key."""

    name: str = result("text")
    clip: str | None = performance(None, path=True)
    texts: str | None = performance(None, path=True)


class TextAlignment(MetricMethod):
    """Mean cosine of images and texts (wavedp.metrics.alignment), in [-1, 1]. Looks only at generated images and public
    texts."""

    name, better = "text", "higher"
    Config: type = TextAlignmentConfig
    sentence = "mean cosine of generated images and their texts, to the CLIP model whose digits the name shows"

    def content(self, config: TextAlignmentConfig) -> dict[str, Any]:
        """The contents of both files."""
        clip = sha256(weights_file(config.clip)) if config.clip else None
        texts = sha256(_file(config.texts)) if config.texts else None
        return {**super().content(config), "clip": clip, "texts": texts}

    def names(self, own: TextAlignmentConfig, sets: Sets) -> dict[str, str]:
        """text_clip<8 digits of the weights' sha256>_<generated>. Raises UserError without weights."""
        return {"text": f"text_clip{weights_name(own.clip)}_{sets.everything.name}"}

    def require(self, own: TextAlignmentConfig, given: Given) -> None:
        """A model and a text for each image, which are opened."""
        from wavedp.metrics.alignment import load

        load(weights_file(own.clip).parent, "cpu")
        if own.texts is not None:
            _counted(given.n_generated, _lines(own.texts))
        elif not given.described:
            raise UserError(
                f"metric {self.name} needs texts, and these images were not sampled from prompts: give its option "
                f"`texts` a file with a line for each image, or leave {self.name} out."
            )

    def work(self, own: Any, sets: Sets) -> dict[str, int]:
        """Images and their texts."""
        return {"text": sets.everything.count}

    def measure(self, own: TextAlignmentConfig, sets: Sets, reference: Mapping[str, Tensor]) -> dict[str, float]:
        """Raises UserError for another number of texts than of images."""
        found = measured(own, sets)
        error = float(found.std() / max(len(found), 1) ** 0.5)
        return {self.names(own, sets)["text"]: Estimate(float(found.mean()), error)}


def measured(own: Any, sets: Sets, prefix: str = "") -> Tensor:
    """The cosine of each generated image and its text, float64 n. prefix: before each text."""
    from wavedp.metrics.alignment import cosines

    images = sets.everything
    texts = _lines(own.texts) if own.texts is not None else list(images.texts or ())
    _counted(images.count, texts)
    pairs = _pairs(images, [prefix + text for text in texts])
    return cosines(pairs, weights_file(own.clip).parent, sets.device, report=sets.job(), total=images.count)


def _pairs(images: View, texts: list[str]) -> Iterator[tuple[Tensor, list[str]]]:
    """Chunks of images with their texts. Raises UserError for several sizes: only files of one size come in order of
    name."""
    shapes = set()
    for places, chunk in images.stream():
        shapes.add(chunk.shape[1:])
        if len(shapes) > 1:
            raise UserError("Texts belong to images in order of name, which needs all in one size: resize them.")
        yield chunk, [texts[place] for place in places.tolist()]


def weights_file(folder: str | Path | None) -> Path:
    """The weights of the CLIP model in a folder. Raises UserError without any."""
    if folder is None:
        raise UserError(
            "comparing images with texts needs a CLIP model: give the metric's option `clip` a folder that "
            "save_pretrained wrote."
        )
    for path in (Path(folder) / "model.safetensors", Path(folder) / "pytorch_model.bin"):
        if path.is_file():
            return path
    raise UserError(f"{folder} holds neither model.safetensors nor pytorch_model.bin: give a CLIP model's folder.")


def weights_name(folder: str | Path | None) -> str:
    """The first 8 digits of the sha256 of the model's weights, for the metric's name. Raises UserError without any."""
    return sha256(weights_file(folder))[:8]


def _file(path: str) -> Path:
    if not Path(path).is_file():
        raise UserError(f"{path} is not a file: give one with a text a line, one an image.")
    return Path(path)


def _lines(path: str) -> list[str]:
    try:
        return _file(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): give a file with a text a line, one an image.") from error


def _counted(images: int, texts: list[str]) -> None:
    if images != len(texts):
        raise UserError(f"there are {images} images and {len(texts)} texts: give one text an image, in the same order.")

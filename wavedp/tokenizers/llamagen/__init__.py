"""`llamagen`: LlamaGen's convolutional tokenizer with its published weights, vq_ds16_t2i.pt or vq_ds16_c2i.pt.

16,384 codes of 8 numbers, one for each 16×16 pixels. Nothing is trained: the file is the user's, its content is in the
key, and it must not have been trained on the sensitive images.

Source of names and sizes: FoundationVision/LlamaGen, tokenizer/tokenizer_image/vq_model.py (arXiv 2406.06525).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavedp import data, weight_files
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import performance, result
from wavedp.methods import Weights
from wavedp.tokenizers import Shape, Tokenizer, TokenizerMethod

if TYPE_CHECKING:
    from wavedp.tokenizers.llamagen.model import Grid


@dataclass(frozen=True)
class LlamaGenConfig:
    """The file, and the sizes of its network: by default VQ-16's."""

    name: str = result("llamagen")
    codes: int = result(16384, within="[2, inf)")
    code_width: int = result(8, within="[1, inf)")
    channels: int = result(128, within="[32, inf)")  # of the first level, a multiple of 32
    multipliers: str = result("1-1-2-2-4")  # of the channels, by level; each level but the last halves the image
    latent_channels: int = result(256, within="[1, inf)")
    checkpoint: str | None = performance(None, path=True)  # .pt or .safetensors; its content is in the key


class LlamaGen(TokenizerMethod):
    """See the module's docstring."""

    name, Config = "llamagen", LlamaGenConfig

    def content(self, config: Any) -> dict[str, Any]:
        """Also the sha256 of the file. Raises UserError if there is none."""
        return {**super().content(config), "model": {"sha256": weight_files.sha256(file_of(config.checkpoint))}}

    def training_level(self, level: int) -> int:
        """The trial's own: nothing is trained, and the codes of a coarse image are no part of those of a finer one."""
        return level

    def levels(self, config: Any, shape: Shape) -> range:
        """Those whose coarse image is made of whole patches."""
        side, deepest = 2 ** (len(multipliers_of(config)) - 1), 0
        while all(length % (side << (deepest + 1)) == 0 for length in shape[1:]):
            deepest += 1
        return range(deepest + 1)

    def check(self, trial: TrialConfig) -> list[str]:
        """There is a file, and coarse images are made of whole patches."""
        file_of(trial.tokenizer.checkpoint)
        self.untrained(trial.tokenizer, data.shape(trial.data), trial.level)
        return []

    def check_models(self, trial: TrialConfig) -> None:
        """Load the file. Raises UserError for keys or shapes that are not those of the configuration."""
        self.build(trial.tokenizer, data.shape(trial.data), trial.level, {})

    def build(self, config: Any, shape: Shape, level: int, weights: Weights) -> Tokenizer:
        """The file's network, frozen."""
        from wavedp.tokenizers.llamagen.model import LlamaGenTokenizer

        return LlamaGenTokenizer(config, shape, level)

    def untrained(self, config: Any, shape: Shape, level: int) -> Grid:  # type: ignore[override]
        """Its grid of codes, without a network."""
        from wavedp.tokenizers.llamagen.model import Grid

        return Grid(config, shape, level)


def file_of(checkpoint: str | None) -> Path:
    """The file. Raises UserError when there is none."""
    path = Path(checkpoint or "").expanduser()
    if checkpoint is None or not path.is_file():
        raise UserError(
            f"tokenizer.checkpoint={checkpoint} is not a file: give LlamaGen's vq_ds16_t2i.pt or vq_ds16_c2i.pt."
        )
    return path


def multipliers_of(config: LlamaGenConfig) -> tuple[int, ...]:
    """The channels' multipliers. Raises UserError for a text of another form, or channels without groups."""
    parts = config.multipliers.split("-")
    if len(parts) < 2 or not all(part.isdigit() and int(part) > 0 for part in parts) or config.channels % 32:
        raise UserError(
            f"tokenizer.multipliers={config.multipliers} and channels={config.channels} make no network: use numbers "
            "joined by -, such as 1-1-2-2-4, and a multiple of 32."
        )
    return tuple(map(int, parts))

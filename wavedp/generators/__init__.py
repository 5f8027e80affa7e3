"""Stage one's models, all behind one protocol.

    fit_public(images, conditions, seed, report, checkpoint)  -> weights, from public images; goes on from `checkpoint`
    fit_private(weights, images, conditions, fit, report)     -> PrivateFit, from sensitive coarse images
    sample(weights, conditions, sampling, seed, report)       -> coarse images, one per condition

Images are B C h w float32 in [0, 1], weights flat dicts of tensors. Conditions are labels B int64, or float32 sentence
embeddings: B E, and in `fit_private` B V E with one for each view. `fit_private` states every mechanism it ran, so that
the ledger can price it; whatever it returns counts as released.
To add one: write a class with these methods in its own file, give it a line in `NAMES` and `build`, and run
tests/wavedp/test_generators.py, which takes its names from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from wavedp.config import DiffusionConfig, GeneratorConfig, PrivacyConfig, SamplingConfig
from wavedp.errors import UserError
from wavedp.privacy.accounting import Mechanism
from wavedp.progress import Report

if TYPE_CHECKING:  # torch too: plans are made without it
    from torch import Tensor

    from wavedp.tokenizers import Tokenizer

Weights: TypeAlias = "dict[str, Tensor]"


@dataclass(frozen=True)
class FitSettings:
    """How one private fit runs: the mechanisms it may use, calibrated (σ = 0 when ε = ∞), the seed that their sampling
    and noise derive from, and the file its checkpoints go to.

    mechanisms: accounting.mechanisms(privacy, N): the release of class means if there is one, and the fit.
    """

    privacy: PrivacyConfig
    mechanisms: list[Mechanism]
    seed: int
    checkpoint: Path


@dataclass(frozen=True)
class PrivateFit:
    """weights: what is released. mechanisms: those that saw the sensitive images, by purpose and in order (σ = 0:
    without privacy); empty for the anchors, which run none. releases: by the same purposes, the ids of their noise
    (wavedp.privacy.training), so that a fit made once more, of other first weights, counts once more."""

    weights: Weights
    mechanisms: dict[str, Mechanism]
    releases: dict[str, str]


class Generator(Protocol):
    """See the module's docstring."""

    def fit_public(
        self, images: Tensor, conditions: Tensor, seed: int, report: Report, checkpoint: Path | None = None
    ) -> Weights: ...

    def fit_private(
        self, weights: Weights, images: Tensor, conditions: Tensor, fit: FitSettings, report: Report
    ) -> PrivateFit: ...

    def sample(
        self, weights: Weights, conditions: Tensor, sampling: SamplingConfig, seed: int, report: Report
    ) -> Tensor: ...


NAMES = ("spectral_ar", "blur_diffusion", "public", "real")


def build(
    config: GeneratorConfig,
    tokenizer: Tokenizer,
    public: Tokenizer,
    n_classes: int,
    device: str,
    shape: tuple[int, int, int],
    diffusion: DiffusionConfig | None = None,
    blur: str = "none",
) -> Generator:
    """The generator for coarse images of `shape` (C, h, w) with `n_classes` classes.

    tokenizer: of these images, and public: of those it is pretrained on; read by generators over tokens. diffusion,
    blur: read by generators that diffuse. Raises UserError for an unknown name.
    """
    from wavedp.generators.anchors import PublicOnly, Real
    from wavedp.generators.spectral_ar import SpectralAR

    if config.name == "real":
        return Real()
    if config.name == "blur_diffusion":
        from wavedp.generators.blur_diffusion import BlurDiffusion

        return BlurDiffusion(config, diffusion or DiffusionConfig(), blur, shape, n_classes, device)
    if config.name == "public":
        return PublicOnly(config, tokenizer, public, n_classes, device)
    if config.name == "spectral_ar":
        return SpectralAR(config, tokenizer, public, n_classes, device)
    raise UserError(f"generator.name={config.name!r} is not a generator: use one of {', '.join(NAMES)}.")

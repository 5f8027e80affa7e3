"""Stage one's models: each in a folder, its declaration (no torch) beside its model.

A declaration is a `GeneratorMethod`: what it reads and refuses, which mechanisms its private fit runs, and `build`,
which gives the model:

    fit_private(weights, images, conditions, fit, report)     -> PrivateFit, from sensitive coarse images
    sample(weights, conditions, sampling, seed, report)       -> coarse images, one per condition

Images are B C h w float32 in [0, 1], weights flat dicts of tensors. Conditions are labels B int64, or float32 sentence
embeddings: B E, and in `fit_private` B V E with one for each view; for a method with `text_tokens`, states of a
sentence's tokens in place of E (wavedp.text.encode_tokens); or what the model itself makes of captions, B … and B V …
(`EncodesCaptions`). Captions need not be in memory: what comes is a wavedp.captions.Captions, which is indexed like the
tensor that it stands for, and which wavedp.privacy.training takes among its records. Whatever `fit_private` returns
counts as released.
More abilities, asked for with isinstance: `Pretrains`, `Completes`, `Scores`.

To add one, write a file as CONTRIBUTING.md has one, give it an entry point in the group `wavedp.generators` (or name it
`generator.name=package.module:Mine`), and subclass `wavedp.testing.generators.GeneratorSuite` for its tests. `needs`
says which shared fields it reads, `mechanisms` what its private fit will run, calibrated to privacy.epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from wavedp import data, methods
from wavedp.config import PrivacyConfig, SamplingConfig, TrialConfig
from wavedp.methods import Inputs, Method, Weights
from wavedp.privacy import accounting
from wavedp.privacy.accounting import Mechanism
from wavedp.progress import Report

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

FitKind = Literal["dp", "nonprivate", "public", "real"]
"""The use that a private_fit makes of sensitive images: with differential privacy, without (ε = ∞), none (ε = 0), or
keeping them as they are."""


@dataclass(frozen=True)
class TextTokens:
    """A sentence as the states of `length` tokens. encoder: folder of the frozen encoder (None: the packaged one)."""

    length: int
    encoder: str | None = None


@dataclass(frozen=True)
class FitSettings:
    """Settings of one private fit. mechanisms: those that it may run, by purpose, calibrated (σ = 0 when ε = ∞). seed:
    of their sampling and noise; secret. checkpoint: the file to save to and go on from."""

    privacy: PrivacyConfig
    mechanisms: dict[str, Mechanism]
    seed: int
    checkpoint: Path


@dataclass(frozen=True)
class PrivateFit:
    """weights: what is released. mechanisms: what saw the sensitive images, by purpose and in order (σ = 0: without
    privacy). releases: purpose -> noise id. A refit from other initial weights gets a new id and counts as a new
    release."""

    weights: Weights
    mechanisms: dict[str, Mechanism]
    releases: dict[str, str]


class Generator(Protocol):
    """A generator's model; see the module's docstring."""

    def fit_private(
        self, weights: Weights, images: Tensor, conditions: Tensor, fit: FitSettings, report: Report
    ) -> PrivateFit: ...

    def sample(
        self, weights: Weights, conditions: Tensor, sampling: SamplingConfig, seed: int, report: Report
    ) -> Tensor: ...


@runtime_checkable
class Pretrains(Protocol):
    """Learns from public images before it sees a sensitive one."""

    def fit_public(
        self, images: Tensor, conditions: Tensor, seed: int, report: Report, checkpoint: Path | None = None
    ) -> Weights:
        """Weights from public coarse images; goes on from `checkpoint`."""

    def start(self, weights: Weights) -> Weights:
        """The public weights as the private fit begins with them, which is also the model at ε = 0."""


class EncodesCaptions(Protocol):
    """Has a frozen text encoder of its own; its declaration says so by `encodes_captions`."""

    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        """Conditions, one row a caption, on the CPU: token ids or states of a public encoder."""


@runtime_checkable
class Completes(Protocol):
    """A declaration whose public model draws the finer scales of a coarse image, as `upscaler=spectral` needs."""

    def completer(self, trial: TrialConfig, inputs: Inputs, device: str) -> Callable[[Tensor, float], Tensor]:
        """(coarse images B C h w, temperature) -> full images; an image's draws depend on that image only. inputs: of
        `tokenizer` and `pretrain`, which is public."""


@runtime_checkable
class Scores(Protocol):
    """Gives records a log-likelihood, which membership attacks need."""

    def log_likelihoods(self, weights: Weights, images: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Two arrays B float64, up to a constant: of images B C h w given their labels, and without a condition."""


class GeneratorMethod(Method):
    """The declaration of a generator. A subclass overrides what differs for it. encodes_captions: whether its model
    has the ability `EncodesCaptions`; else captions go through wavedp.text."""

    encodes_captions: bool = False

    def fit_kind(self, trial: TrialConfig) -> FitKind:
        """The use that its private_fit makes of sensitive images; by default ε decides."""
        epsilon = trial.privacy.epsilon
        return "public" if epsilon == 0 else "nonprivate" if math.isinf(epsilon) else "dp"

    def mechanisms(self, trial: TrialConfig, n_records: int) -> dict[str, Mechanism]:
        """The mechanisms that the private fit will run, by purpose and in order, together within privacy.epsilon at
        privacy.delta; σ = 0 for ε = ∞. The plan, the budget, the dry run, the fit and the ledger all use this answer.
        Not asked for the fit kinds `public` and `real`. Raises InfeasibleError when no noise meets the budget."""
        raise NotImplementedError(f"{self.name} does not say what its private fit runs")

    def pretrain_level(self, trial: TrialConfig) -> int:
        """The wavelet level of the public images it learns from."""
        return trial.level

    def conditioning(self, trial: TrialConfig) -> Literal["class", "text"]:
        """The condition of its samples: a class, or a sentence."""
        return "class"

    def text_tokens(self, trial: TrialConfig) -> TextTokens | None:
        """The form in which it is given sentences: token by token (None: one vector for each)."""
        return None

    def draws_captions(self, trial: TrialConfig) -> bool:
        """Whether each step of its private fit draws which of a record's captions its views show; else the first."""
        return False

    def pretraining_content(self, trial: TrialConfig) -> list[Any]:
        """The shared fields, other than blur, privacy and sampling, that it reads: they enter the key of `pretrain`."""
        return methods.shared(trial, self, leave=("blur", "privacy", "sampling"))

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> Generator:
        """The model for coarse images of the trial."""
        raise NotImplementedError(f"{self.name} has no model")


def coarse_shape(trial: TrialConfig) -> tuple[int, int, int]:
    """C, h, w of the images that the private generator makes."""
    channels, height, width = data.shape(trial.data)
    return channels, height >> trial.level, width >> trial.level


def gaussian(trial: TrialConfig, n_records: int, purpose: str) -> dict[str, Mechanism]:
    """One Gaussian release of everything the fit looks at, at the trial's whole budget."""
    delta = accounting.delta(trial.privacy, n_records)
    return {purpose: Mechanism(1, accounting.calibrate(trial.privacy.epsilon, delta, 1, 1), 1)}

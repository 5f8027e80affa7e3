"""The chain of stages: what each one reads, and the key that names its artifact. `wavedp.stages` says what they do.

    reference ─────────────────────────────────────────────────────────────┐
    tokenizer → pretrain → private_fit → coarse_samples → upscale → evaluate
    upscaler ────────────────────────────────────────────────┘

`upscaler` is there for trials alone whose stage two has to be trained. A stage's key is the sha256 of its name, its
code version, the PRIVACY and RESULT fields it reads, the keys of its inputs and the fingerprints of the data it reads.
Two trials that agree on all of these share the artifact, so trials that differ only in the super-resolution model share
one private fit. Bump `version` when the code's results change.

Nothing here imports torch, so that a study of hundreds of trials is planned in seconds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from wavedp import data, tokenizers, weight_files
from wavedp.config import DataConfig, TrialConfig, identity
from wavedp.privacy import accounting


@dataclass(frozen=True)
class Stage:
    """fields: what of the trial's configuration enters the key. reads: the datasets and splits it looks at. applies:
    whether a trial has this stage at all; in `inputs`, stages that it has not count for nothing."""

    name: str
    inputs: tuple[str, ...] = ()
    fields: Callable[[TrialConfig], Any] = lambda trial: None
    reads: Callable[[TrialConfig], list[tuple[DataConfig, str]]] = lambda trial: []
    applies: Callable[[TrialConfig], bool] = lambda trial: True
    version: int = 1


# A study of thousands of trials asks the same again and again. A process looks at its data's files once: change the
# files of a dataset between runs, not during one.
fingerprint = cache(data.fingerprint)
n_records = cache(data.n_records)


def pretrain_level(trial: TrialConfig) -> int:
    """The level of public pretraining: the trial's own, or a finer one."""
    return trial.level if trial.generator.pretrain_level is None else trial.generator.pretrain_level


def coarse_shape(trial: TrialConfig) -> tuple[int, int, int]:
    """C, h, w of the images that the private generator makes."""
    channels, height, width = data.shape(trial.data)
    return channels, height >> trial.level, width >> trial.level


def diffuses(trial: TrialConfig) -> bool:
    """Whether the generator has a blur schedule."""
    return trial.generator.name == "blur_diffusion"


def trains_upscaler(trial: TrialConfig) -> bool:
    """Whether stage two is a model of our own, trained on public images."""
    return trial.upscaler.name in ("blur_diffusion", "wavelet_detail")


def deblurs(trial: TrialConfig) -> bool:
    """Whether that model is a diffusion, with a blur schedule of its own."""
    return trial.upscaler.name == "blur_diffusion"


def fit_kind(trial: TrialConfig) -> Literal["dp", "nonprivate", "real", "public"]:
    """How a trial's private_fit uses sensitive images: with differential privacy, without (ε = ∞), by keeping them as
    they are (the anchor `real`), or not at all (the anchor `public`)."""
    if trial.generator.name in ("real", "public"):
        return "real" if trial.generator.name == "real" else "public"
    return "nonprivate" if math.isinf(trial.privacy.epsilon) else "dp"


def mechanisms(trial: TrialConfig) -> list[accounting.Mechanism]:
    """What the trial's private fit will run, calibrated to its budget (σ = 0 for ε = ∞); nothing for an anchor, which
    fits nothing. Raises InfeasibleError."""
    if fit_kind(trial) in ("real", "public"):
        return []
    return accounting.mechanisms(trial.privacy, n_records(trial.data, "train"))


def _reference_data(trial: TrialConfig) -> list[tuple[DataConfig, str]]:
    return [(trial.data, trial.metrics.reference_split)]


def _evaluation_data(trial: TrialConfig) -> list[tuple[DataConfig, str]]:
    """A published protocol's classifiers are tested on the test split, whatever FID looks at."""
    also = [] if trial.metrics.downstream == "cnn" else ["test"]
    return [(trial.data, split) for split in dict.fromkeys([trial.metrics.reference_split, *also])]


def _tokenizer_data(trial: TrialConfig) -> list[tuple[DataConfig, str]]:
    learned = tokenizers.training_level(trial.tokenizer, trial.level) is not None
    return [(trial.public, "train")] if learned and trial.public is not None else []


def _public_data(trial: TrialConfig) -> list[tuple[DataConfig, str]]:
    return [(trial.public, "train")] if trial.public is not None and trial.generator.pretrain_steps else []


def _prompt_data(trial: TrialConfig) -> list[tuple[DataConfig, str]]:
    from_public = trial.generator.conditioning == "text" and trial.sampling.prompts is None
    return [(trial.public, "test")] if from_public and trial.public is not None else []


CHAIN = (
    Stage(
        "reference",
        fields=lambda t: [
            *(t.metrics.mode, t.metrics.precision, t.metrics.reference_split, t.metrics.reference_samples),
            *([{"floor": t.metrics.fid_samples}] if t.metrics.floor else []),
            *([{"second_network": _second_network(t)}] if t.metrics.second_network else []),
            *([{"downstream": "test"}] if len(_evaluation_data(t)) > 1 else []),
        ],
        reads=_reference_data,
    ),
    Stage(
        "upscaler",
        fields=lambda t: [_upscaler_training(t), data.shape(t.data), *([identity(t.diffusion)] if deblurs(t) else [])],
        reads=lambda t: [(t.public, "train")] if t.public is not None else [],
        applies=trains_upscaler,
    ),
    Stage(
        "tokenizer",
        fields=lambda t: [identity(t.tokenizer), data.shape(t.data), tokenizers.training_level(t.tokenizer, t.level)],
        reads=_tokenizer_data,
    ),
    Stage(
        "pretrain",
        inputs=("tokenizer",),
        fields=lambda t: [
            identity(t.generator),
            pretrain_level(t),
            t.blur,
            data.shape(t.data),
            data.n_classes(t.data),
            *([identity(t.diffusion)] if diffuses(t) else []),
        ],
        reads=_public_data,
    ),
    Stage(
        "private_fit",
        inputs=("tokenizer", "pretrain"),
        fields=lambda t: [identity(t.privacy) if fit_kind(t) in ("dp", "nonprivate") else None, t.level, t.seed],
        reads=lambda t: [(t.data, "train")] if fit_kind(t) != "public" else [],
    ),
    Stage(
        "coarse_samples",
        inputs=("tokenizer", "private_fit"),
        fields=lambda t: [_sampling(t), _prompt_file(t), t.seed],
        reads=_prompt_data,
    ),
    Stage(
        "upscale",
        inputs=("tokenizer", "pretrain", "coarse_samples", "upscaler"),
        fields=lambda t: _upscaling(t),
    ),
    Stage(
        "evaluate",
        inputs=("reference", "upscale"),
        fields=lambda t: [_measuring(t), t.seed],
        reads=_evaluation_data,
    ),
)


NAMES = tuple(stage.name for stage in CHAIN)


def chain_of(trial: TrialConfig) -> list[Stage]:
    """The stages that this trial has, inputs before those that use them."""
    present = [stage for stage in CHAIN if stage.applies(trial)]
    names = {stage.name for stage in present}
    return [
        dataclasses.replace(stage, inputs=tuple(name for name in stage.inputs if name in names)) for stage in present
    ]


def keys(trial: TrialConfig) -> dict[str, str]:
    """The key of every stage of a trial (64 hex digits each); nothing is run, no image decoded."""
    found: dict[str, str] = {}
    for stage in chain_of(trial):
        content = [
            stage.name,
            stage.version,
            stage.fields(trial),
            [found[name] for name in stage.inputs],
            [fingerprint(config, split) for config, split in stage.reads(trial)],
        ]
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        found[stage.name] = hashlib.sha256(canonical.encode()).hexdigest()
    return found


def _sampling(trial: TrialConfig) -> dict[str, Any]:
    """The sampling fields that the trial's kind of generator reads."""
    of_tokens, of_diffusion = ("temperature", "top_k", "top_p"), ("diffusion_steps", "algorithm", "timestep_spacing")
    unread = of_tokens if diffuses(trial) else of_diffusion
    return {name: value for name, value in identity(trial.sampling).items() if name not in unread}


_TRAINING = ("train_steps", "train_batch", "train_learning_rate", "public_seed")
_DETAIL = ("detail", "detail_perceptual", "detail_adversarial", "detail_width", "detail_depth")
# How a network runs, by upscalers that do not read what the published ones do.
_WITHOUT = ("identity", "nearest", "bilinear", "bicubic", "lanczos", "spectral", "blur_diffusion", "wavelet_detail")
_NETWORK_OPTIONS: dict[str, Set[str]] = dict.fromkeys(_WITHOUT, frozenset()) | {
    "spandrel": {"precision", "tile"},
    "ldm_sr": {"precision"},
    "sd_x4": {"precision", "prompt"},
}


def _upscaler_training(trial: TrialConfig) -> dict[str, Any]:
    """The upscaler's fields that its training reads."""
    read = (*_TRAINING, "blur") if deblurs(trial) else (*_TRAINING, "name", *_DETAIL)
    return {name: value for name, value in identity(trial.upscaler).items() if name in read}


def _upscaling(trial: TrialConfig) -> dict[str, Any]:
    """The upscaler's fields that its use reads, and what names the weights of one whose name does not."""
    name = trial.upscaler.name
    diffusion = deblurs(trial) or name in weight_files.HUB_IDS
    unread = {*_TRAINING, *_DETAIL, "blur", "revision", *(() if diffusion else ("diffusion_steps",))}
    unread |= {"temperature"} if diffusion or trains_upscaler(trial) else set()
    unread |= {"engine", "precision", "tile", "prompt"} - _NETWORK_OPTIONS.get(name, {"engine", "precision", "tile"})
    read = {field: value for field, value in identity(trial.upscaler).items() if field not in unread}
    model = weight_files.identity(trial.upscaler)
    return read | ({"model": model} if model else {})


def _measuring(trial: TrialConfig) -> dict[str, Any]:
    """The metrics' fields that the trial's kind of downstream classifier reads."""
    unread = () if trial.metrics.downstream == "cnn" else ("downstream_steps",)
    return {name: value for name, value in identity(trial.metrics).items() if name not in unread}


def _second_network(trial: TrialConfig) -> str:
    """What the second feature network is; the path of a file is no part of a trial's identity, its content is."""
    from wavedp.metrics import second_networks  # which imports torch

    return second_networks.identity(trial.metrics)


def _prompt_file(trial: TrialConfig) -> str | None:
    """sha256 of the prompts; the path is no part of a trial's identity."""
    if trial.generator.conditioning != "text" or trial.sampling.prompts is None:
        return None
    from wavedp import text  # which imports torch

    return hashlib.sha256("\n".join(text.read_prompts(trial.sampling.prompts)).encode()).hexdigest()

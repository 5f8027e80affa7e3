"""The method, as a chain of keyed stages.

    reference ─────────────────────────────────────────────────────────────┐
    tokenizer → pretrain → private_fit → coarse_samples → upscale → evaluate

`tokenizer` and `pretrain` see public images alone, and later stages use what they made. `private_fit` is the only stage
that trains on sensitive images; `reference` looks at the sensitive set's evaluation split. These two leave lines for
the privacy ledger in their artifact. Every stage after `private_fit` is post-processing.

A stage's key is the sha256 of its name, its code version, the PRIVACY and RESULT fields it reads, the keys of its
inputs and the fingerprints of the data it reads. Two trials that agree on all of these share the artifact, so trials
that differ only in the super-resolution model share one private fit. Nothing else may reach a stage: its `make`
function gets the trial, its inputs' artifacts and a place to write. Bump `version` when the code's results change.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from wavedp import data, generators, text, tokenizers, upscalers
from wavedp.config import DataConfig, TokenizerConfig, TrialConfig, identity
from wavedp.errors import UserError
from wavedp.generators import FitSettings, Generator
from wavedp.generators.spectral_ar import SpectralAR
from wavedp.generators.transformer import require_prefix
from wavedp.metrics import suite
from wavedp.privacy import accounting, ledger
from wavedp.progress import Report, silent
from wavedp.seeds import derive_seed
from wavedp.store import Artifact, Draft, Store
from wavedp.tokenizers import training as tokenizer_training
from wavedp.tokenizers.losses import Perceptual
from wavedp.upscalers import Upscaler
from wavedp.upscalers.spectral import SpectralUpscaler
from wavedp.views import view
from wavedp.wavelets import check_level, coarse


@dataclass
class Work:
    """What a stage's `make` function may see."""

    trial: TrialConfig
    inputs: dict[str, Artifact]
    draft: Draft
    key: str
    folder: Path  # checkpoints of this stage
    cache: Path  # content-addressed features, shared by all stages
    device: str
    report: Report = silent


@dataclass(frozen=True)
class Stage:
    """fields: what of the trial's configuration enters the key. reads: the datasets and splits it looks at."""

    name: str
    make: Callable[[Work], None]
    inputs: tuple[str, ...] = ()
    fields: Callable[[TrialConfig], Any] = lambda trial: None
    reads: Callable[[TrialConfig], list[tuple[DataConfig, str]]] = lambda trial: []
    version: int = 1


def make_reference(work: Work) -> None:
    """Evaluation statistics of the sensitive set's held-out split: a non-private look, priced as such in the ledger."""
    metrics, real = work.trial.metrics, data.load(work.trial.data, work.trial.metrics.reference_split)
    images, labels = torch.tensor(real.images), torch.tensor(real.labels)
    reference = suite.make_reference(images, labels, metrics, work.cache, work.report, work.device)
    work.draft.tensors("reference", {"features": reference.features})
    look = f"evaluation on the {metrics.reference_split} split (FID and KID statistics, downstream test)"
    work.draft.json(
        "ledger",
        [ledger.line_nonprivate(look, dataset=real.fingerprint, n_records=len(labels), stage_key=work.key, trials=[])],
    )


def make_tokenizer(work: Work) -> None:
    """The public map from images to codes: learned on public images, or (scalar) fixed by its configuration."""
    trial = work.trial
    level = tokenizers.training_level(trial.tokenizer, trial.level)
    if level is None:
        work.draft.tensors("weights", {})
        work.draft.json("tokenizer", {})
        return
    images = _coarse_images(data.load(_public(trial), "train"), level)

    def network() -> tokenizers.SpectralNetwork:
        return tokenizers.network(trial.tokenizer, data.shape(trial.data), trial.level)

    weights, report = tokenizer_training.fit(network, images, trial.tokenizer, work.device, work.report)
    work.draft.tensors("weights", weights)
    work.draft.json("tokenizer", report)


def make_pretrain(work: Work) -> None:
    """The generator's weights after public pretraining, at the trial's level or a finer one."""
    trial, generator = work.trial, _generator(work)
    if trial.public is None or trial.generator.pretrain_steps == 0:
        images, conditions = torch.zeros(0, *_coarse_shape(trial)), torch.zeros(0, dtype=torch.long)
    else:
        public = data.load(trial.public, "train")
        images, conditions = _coarse_images(public, _pretrain_level(trial)), _conditions(public, trial, views=1)
        conditions = conditions[:, 0] if conditions.ndim == 3 else conditions
    work.draft.tensors("weights", generator.fit_public(images, conditions, trial.generator.public_seed, work.report))


def make_private_fit(work: Work) -> None:
    """The release: the generator fitted to the coarse sensitive images, with differential privacy."""
    trial, generator = work.trial, _generator(work)
    weights = work.inputs["pretrain"].tensors("weights")
    kind = fit_kind(trial)
    if kind == "public":
        nothing = torch.zeros(0, *_coarse_shape(trial)), torch.zeros(0, dtype=torch.long)
        settings = FitSettings(trial.privacy, [], 0, work.folder / "none")
        work.draft.tensors("weights", generator.fit_private(weights, *nothing, settings, work.report).weights)
        work.draft.json("ledger", [])
        return
    sensitive = data.load(trial.data, "train")
    images, conditions = _coarse_images(sensitive, trial.level), _conditions(sensitive, trial, trial.privacy.views)
    source: dict[str, Any] = {
        "dataset": sensitive.fingerprint,
        "n_records": len(images),
        "stage_key": work.key,
        "trials": [],
    }
    seed = derive_seed(trial.seed, "private_fit", work.key)
    checkpoint = work.folder / "checkpoint.safetensors"
    settings = FitSettings(trial.privacy, mechanisms(trial), seed, checkpoint)
    fit = generator.fit_private(weights, images, conditions, settings, work.report)
    lines = [
        ledger.line_for_fit(item, trial.privacy, **source, purpose=purpose) for purpose, item in fit.mechanisms.items()
    ]
    if kind == "real":
        lines = [ledger.line_nonprivate("real images as samples (the anchor)", **source)]
    work.draft.tensors("weights", fit.weights)
    work.draft.json("ledger", lines)


def make_coarse_samples(work: Work) -> None:
    """Coarse samples of the private generator, classes (or public prompts) in equal shares."""
    trial = work.trial
    if trial.generator.conditioning == "text":
        prompts = _prompts(trial)
        order = torch.arange(trial.sampling.n) % len(prompts)
        conditions, labels = text.encode(prompts)[order], torch.zeros_like(order)
    else:
        conditions = labels = torch.arange(trial.sampling.n) % data.n_classes(trial.data)
    weights = work.inputs["private_fit"].tensors("weights")
    images = _generator(work).sample(weights, conditions, trial.sampling, trial.seed, work.report)
    work.draft.tensors("samples", {"images": images, "labels": labels})


def make_upscale(work: Work) -> None:
    """Stage two: the coarse samples brought to full size by a public super-resolution model."""
    if work.trial.upscaler.name == "spectral":
        generator, public = _generator(work), work.inputs["pretrain"].tensors("weights")
        assert isinstance(generator, SpectralAR)  # as `check` saw to
        complete = partial(generator.complete, public, temperature=work.trial.upscaler.temperature)
        upscaler: Upscaler = SpectralUpscaler(complete)
    else:
        upscaler = upscalers.build(work.trial.upscaler)
    factor = 2**work.trial.level
    samples = work.inputs["coarse_samples"].tensors("samples")
    parts = []
    for part in samples["images"].split(50):
        parts.append((upscaler.upscale(part, factor) * 255).round().clamp(0, 255).to(torch.uint8))
        work.report(sum(map(len, parts)), len(samples["images"]))
    work.draft.tensors("samples", {"images": torch.cat(parts), "labels": samples["labels"]})
    work.draft.json("upscaler", {"bridge": upscaler.bridge(factor)})


def make_evaluate(work: Work) -> None:
    """Metrics of the full-size samples against the reference."""
    trial = work.trial
    real = data.load(trial.data, trial.metrics.reference_split)
    reference = suite.Reference(
        features=work.inputs["reference"].tensors("reference")["features"],
        images=torch.tensor(real.images),
        labels=torch.tensor(real.labels),
        split=trial.metrics.reference_split,
    )
    samples = work.inputs["upscale"].tensors("samples")
    metrics = suite.evaluate(
        samples["images"], samples["labels"], reference, trial.metrics, trial.seed, work.cache, work.report, work.device
    )
    work.draft.json("metrics", metrics)


def fit_kind(trial: TrialConfig) -> Literal["dp", "nonprivate", "real", "public"]:
    """How a trial's private_fit uses sensitive images: with differential privacy, without (ε = ∞), by keeping them as
    they are (the anchor `real`), or not at all (the anchor `public`)."""
    if trial.generator.name in ("real", "public"):
        return "real" if trial.generator.name == "real" else "public"
    return "nonprivate" if math.isinf(trial.privacy.epsilon) else "dp"


def mechanisms(trial: TrialConfig) -> list[accounting.Mechanism]:
    """What the trial's private fit will run, calibrated to its budget (σ = 0 for ε = ∞). Raises InfeasibleError."""
    return accounting.mechanisms(trial.privacy, _n_records(trial.data, "train"))


def _reference_data(trial: TrialConfig) -> list[tuple[DataConfig, str]]:
    return [(trial.data, trial.metrics.reference_split)]


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
        make_reference,
        fields=lambda t: [t.metrics.mode, t.metrics.precision, t.metrics.reference_split, t.metrics.reference_samples],
        reads=_reference_data,
    ),
    Stage(
        "tokenizer",
        make_tokenizer,
        fields=lambda t: [identity(t.tokenizer), data.shape(t.data), tokenizers.training_level(t.tokenizer, t.level)],
        reads=_tokenizer_data,
    ),
    Stage(
        "pretrain",
        make_pretrain,
        inputs=("tokenizer",),
        fields=lambda t: [
            identity(t.generator),
            _pretrain_level(t),
            t.blur,
            data.shape(t.data),
            data.n_classes(t.data),
        ],
        reads=_public_data,
    ),
    Stage(
        "private_fit",
        make_private_fit,
        inputs=("tokenizer", "pretrain"),
        fields=lambda t: [identity(t.privacy) if fit_kind(t) in ("dp", "nonprivate") else None, t.level, t.seed],
        reads=lambda t: [(t.data, "train")] if fit_kind(t) != "public" else [],
    ),
    Stage(
        "coarse_samples",
        make_coarse_samples,
        inputs=("tokenizer", "private_fit"),
        fields=lambda t: [identity(t.sampling), _prompt_file(t), t.seed],
        reads=_prompt_data,
    ),
    Stage(
        "upscale",
        make_upscale,
        inputs=("tokenizer", "pretrain", "coarse_samples"),
        fields=lambda t: identity(t.upscaler),
    ),
    Stage(
        "evaluate",
        make_evaluate,
        inputs=("reference", "upscale"),
        fields=lambda t: [identity(t.metrics), t.seed],
        reads=_reference_data,
    ),
)


def keys(trial: TrialConfig) -> dict[str, str]:
    """The key of every stage of a trial (64 hex digits each); nothing is run, no image decoded."""
    found: dict[str, str] = {}
    for stage in CHAIN:
        content = [
            stage.name,
            stage.version,
            stage.fields(trial),
            [found[name] for name in stage.inputs],
            [_fingerprint(config, split) for config, split in stage.reads(trial)],
        ]
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        found[stage.name] = hashlib.sha256(canonical.encode()).hexdigest()
    return found


def make(stage: Stage, trial: TrialConfig, store: Store, device: str, report: Report = silent) -> tuple[Artifact, bool]:
    """The stage's artifact and whether this call made it (False: it was in the store). Inputs must be published.

    Holds the key's lock meanwhile, so two processes never make the same release; the second finds the first's.
    """
    names = keys(trial)
    key = names[stage.name]
    with store.lock(stage.name, key):
        published = store.open(stage.name, key)
        if published is not None:
            return published, False
        inputs = {}
        for name in stage.inputs:
            artifact = store.open(name, names[name])
            if artifact is None:
                artifact, _ = make(STAGE[name], trial, store, device, report)
            inputs[name] = artifact
        folder = store.work_folder(stage.name, key)
        work = Work(trial, inputs, Draft(), key, folder, folder.parent / "features", device, report)
        stage.make(work)
        return store.publish(stage.name, key, work.draft), True


STAGE = {stage.name: stage for stage in CHAIN}


def check(trial: TrialConfig) -> list[str]:
    """What can be known to be wrong from the configuration and the data alone. Returns warnings.

    Raises UserError (InfeasibleError for a budget no noise meets) with one sentence of cause and one of remedy.
    """
    channels, height, width = data.shape(trial.data)
    if trial.generator.width % trial.generator.heads:
        raise UserError(
            f"generator.width={trial.generator.width} can't be shared by {trial.generator.heads} heads: use a multiple."
        )
    check_level(trial.level, height, width)
    if trial.blur != "none":
        raise UserError(
            f"blur={trial.blur} needs a generator that diffuses, generator.name={trial.generator.name} has no blur "
            "schedule: use blur=none."
        )
    if trial.generator.name not in generators.NAMES:
        raise UserError(
            f"generator.name={trial.generator.name!r} is not a generator: use one of {', '.join(generators.NAMES)}."
        )
    if trial.public is not None and data.shape(trial.public) != (channels, height, width):
        raise UserError(
            f"public images are {data.shape(trial.public)} (C, H, W), sensitive ones {(channels, height, width)}: "
            "set public.size and public.channels to match."
        )
    if trial.public is not None and trial.generator.pretrain_steps:
        _n_records(trial.public, "train")
    _check_tokenizer(trial)
    _check_conditioning(trial)
    return accounting.check(trial.privacy, _n_records(trial.data, "train"))


def check_models(trial: TrialConfig) -> None:
    """That stage two and the metrics can run: their weights are there, whole, and take this trial's images. Opens the
    weight files, which `check` does not, so that a dry run stays quick. Raises UserError."""
    if trial.generator.conditioning == "text":
        text.check()
        _prompts(trial)
    if trial.tokenizer.perceptual and tokenizers.training_level(trial.tokenizer, trial.level) is not None:
        Perceptual("cpu")
    if trial.upscaler.name != "spectral":
        _check_upscaler(trial.upscaler, 2**trial.level, _coarse_shape(trial))
    n_reference = _n_records(trial.data, trial.metrics.reference_split)
    _check_metrics(trial.metrics, n_reference, trial.sampling.n, labelled=True)


# A study of thousands of trials asks the same again and again. A process looks at its data's files once: change the
# files of a dataset between runs, not during one.
_fingerprint = cache(data.fingerprint)
_n_records = cache(data.n_records)
_check_metrics = cache(suite.check)
_check_upscaler = cache(upscalers.check)


def _check_tokenizer(trial: TrialConfig) -> None:
    """That the trial's tokens are a prefix of those the generator is pretrained on, and that stage two can use them."""
    level, finest = trial.level, _pretrain_level(trial)
    if not 0 <= finest <= level:
        raise UserError(
            f"generator.pretrain_level={finest} is coarser than level={level}: use 0 to {level}, or null for the level."
        )
    if trial.tokenizer.name == "raster" and finest != level:
        raise UserError(
            f"generator.pretrain_level={finest} is not level={level}, and tokenizer=raster has other codes at every "
            "level: use pretrain_level=null."
        )
    if tokenizers.training_level(trial.tokenizer, level) is not None and trial.public is None:
        raise UserError(f"tokenizer={trial.tokenizer.name} is learned on public images: set public, or use scalar.")
    if trial.tokenizer.train_steps < 1:
        raise UserError(f"tokenizer.train_steps={trial.tokenizer.train_steps} trains nothing: use 1 or more.")
    _require_prefix(trial.tokenizer, data.shape(trial.data), level, finest)
    if trial.upscaler.name == "spectral" and (trial.generator.name == "real" or finest != 0 or trial.public is None):
        raise UserError(
            "upscaler=spectral completes images with the public generator: use generator=spectral_ar, "
            "generator.pretrain_level=0 and a public dataset."
        )


def _check_conditioning(trial: TrialConfig) -> None:
    if trial.generator.conditioning == "text":
        for config in (trial.data, trial.public):
            if config is not None and not data.has_captions(config):
                raise UserError(
                    f"generator.conditioning=text needs captions and {config.name} has none: use conditioning=class, "
                    "or a dataset with captions."
                )
        if trial.generator.name == "real":
            raise UserError("generator=real draws images by class: use generator.conditioning=class.")
        if trial.privacy.mean_share:
            raise UserError(
                "privacy.mean_share releases class means, and generator.conditioning=text has no classes: set it to 0."
            )
        if trial.metrics.downstream_steps:
            raise UserError(
                "metrics.downstream_steps needs class labels, which images made from prompts lack: set it to 0."
            )
    if trial.sampling.guidance != 1 and trial.generator.condition_dropout == 0:
        raise UserError(
            f"sampling.guidance={trial.sampling.guidance} needs a model that has seen images without condition: set "
            "generator.condition_dropout, such as 0.1, or guidance=1."
        )
    if not 0 <= trial.generator.condition_dropout < 1:
        raise UserError(
            f"generator.condition_dropout={trial.generator.condition_dropout} is no share: use 0 <= dropout < 1."
        )
    view(torch.zeros(1, 1, 2, 2), trial.privacy.views - 1)
    if trial.privacy.views > 1 and trial.privacy.grad_sample_mode == "ghost":
        raise UserError(
            f"privacy.grad_sample_mode=ghost sees one forward pass a record, privacy.views={trial.privacy.views} makes "
            "several: use hooks."
        )
    if trial.privacy.trained == "lora" and not 1 <= trial.privacy.lora_rank < trial.generator.width:
        raise UserError(
            f"privacy.lora_rank={trial.privacy.lora_rank} is no low rank of layers {trial.generator.width} wide: use "
            f"1 to {trial.generator.width - 1}, or privacy.trained=all."
        )


@cache
def _require_prefix(config: TokenizerConfig, shape: tuple[int, int, int], level: int, finest: int) -> None:
    private, public = (tokenizers.untrained(config, shape, each) for each in (level, finest))
    require_prefix(public, private)


def _coarse_images(dataset: data.Dataset, level: int) -> Tensor:
    """B C h w float32 in [0, 1]."""
    parts = [coarse(part.float() / 255, level) for part in torch.tensor(dataset.images).split(4096)]
    return torch.cat(parts)


def _conditions(dataset: data.Dataset, trial: TrialConfig, views: int) -> Tensor:
    """Labels B int64, or one caption's embedding a view, B V E."""
    if trial.generator.conditioning == "text":
        return text.embed_captions(dataset.captions, views)
    return torch.tensor(dataset.labels)


def _prompts(trial: TrialConfig) -> list[str]:
    """Public sentences to sample from."""
    if trial.sampling.prompts is not None:
        return text.read_prompts(trial.sampling.prompts)
    captions = data.load(_public(trial), "test").captions or ()
    return [line for record in captions for line in record.splitlines()[:1]]


def _prompt_file(trial: TrialConfig) -> str | None:
    """sha256 of the prompts; the path is no part of a trial's identity."""
    if trial.generator.conditioning != "text" or trial.sampling.prompts is None:
        return None
    return hashlib.sha256("\n".join(text.read_prompts(trial.sampling.prompts)).encode()).hexdigest()


def _public(trial: TrialConfig) -> DataConfig:
    if trial.public is None:
        raise UserError("there are no public images (public=null) and this trial needs some: set public.")
    return trial.public


def _pretrain_level(trial: TrialConfig) -> int:
    return trial.level if trial.generator.pretrain_level is None else trial.generator.pretrain_level


def _coarse_shape(trial: TrialConfig) -> tuple[int, int, int]:
    channels, height, width = data.shape(trial.data)
    return channels, height >> trial.level, width >> trial.level


def _generator(work: Work) -> Generator:
    """The trial's generator, around its tokenizer at the private level and at the level of public pretraining."""
    trial, weights = work.trial, work.inputs["tokenizer"].tensors("weights")
    private, public = (
        tokenizers.build(trial.tokenizer, data.shape(trial.data), level, weights)
        for level in (trial.level, _pretrain_level(trial))
    )
    return generators.build(trial.generator, private, public, data.n_classes(trial.data), work.device)

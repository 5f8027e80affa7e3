"""The method, as a chain of keyed stages.

    reference ─────────────────────────────────────────────────────────────┐
    tokenizer → pretrain → private_fit → coarse_samples → upscale → evaluate

`private_fit` is the only stage that trains on sensitive images; `reference` looks at the sensitive set's evaluation
split. Both leave lines for the privacy ledger in their artifact. Every stage after `private_fit` is post-processing.

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
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from wavedp import data, generators, tokenizers, upscalers
from wavedp.config import DataConfig, TrialConfig, identity
from wavedp.errors import UserError
from wavedp.generators import FitSettings, Generator
from wavedp.metrics import suite
from wavedp.privacy import accounting, ledger
from wavedp.progress import Report, silent
from wavedp.seeds import derive_seed
from wavedp.store import Artifact, Draft, Store
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
    """The public map from coarse images to codes. The scalar tokenizer is fixed by its configuration."""
    work.draft.json("tokenizer", identity(work.trial.tokenizer))


def make_pretrain(work: Work) -> None:
    """The generator's weights after public pretraining at the trial's level."""
    trial = work.trial
    generator = _generator(trial, work.device)
    if trial.public is None or trial.generator.pretrain_steps == 0:
        images, labels = torch.zeros(0, *_coarse_shape(trial)), torch.zeros(0, dtype=torch.long)
    else:
        images, labels = _coarse_images(data.load(trial.public, "train"), trial.level)
    work.draft.tensors("weights", generator.fit_public(images, labels, trial.generator.public_seed, work.report))


def make_private_fit(work: Work) -> None:
    """The release: the generator fitted to the coarse sensitive images, with differential privacy."""
    trial, generator = work.trial, _generator(work.trial, work.device)
    weights = work.inputs["pretrain"].tensors("weights")
    kind = fit_kind(trial)
    if kind == "public":
        work.draft.tensors("weights", weights)
        work.draft.json("ledger", [])
        return
    sensitive = data.load(trial.data, "train")
    images, labels = _coarse_images(sensitive, trial.level)
    source: dict[str, Any] = {
        "dataset": sensitive.fingerprint,
        "n_records": len(labels),
        "stage_key": work.key,
        "trials": [],
    }
    seed = derive_seed(trial.seed, "private_fit", work.key)
    checkpoint = work.folder / "checkpoint.safetensors"
    settings = FitSettings(trial.privacy, mechanism(trial).noise_multiplier, seed, checkpoint)
    fit = generator.fit_private(weights, images, labels, settings, work.report)
    lines = [ledger.line_for_fit(item, trial.privacy, **source) for item in fit.mechanisms]
    if kind == "real":
        lines = [ledger.line_nonprivate("real images as samples (the anchor)", **source)]
    work.draft.tensors("weights", fit.weights)
    work.draft.json("ledger", lines)


def make_coarse_samples(work: Work) -> None:
    """Coarse samples of the private generator, classes in equal shares."""
    trial = work.trial
    labels = torch.arange(trial.sampling.n) % data.n_classes(trial.data)
    weights = work.inputs["private_fit"].tensors("weights")
    images = _generator(trial, work.device).sample(weights, labels, trial.sampling, trial.seed, work.report)
    work.draft.tensors("samples", {"images": images, "labels": labels})


def make_upscale(work: Work) -> None:
    """Stage two: the coarse samples brought to full size by a public super-resolution model."""
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


def mechanism(trial: TrialConfig) -> accounting.Mechanism:
    """What the trial's private fit will run, σ calibrated to its budget (0 for ε = ∞). Raises InfeasibleError."""
    config, n_records = trial.privacy, _n_records(trial.data, "train")
    rate = accounting.sample_rate(config, n_records)
    sigma = accounting.calibrate(config.epsilon, accounting.delta(config, n_records), rate, config.steps)
    return accounting.Mechanism(rate, sigma, config.steps)


def _reference_data(trial: TrialConfig) -> list[tuple[DataConfig, str]]:
    return [(trial.data, trial.metrics.reference_split)]


def _public_data(trial: TrialConfig) -> list[tuple[DataConfig, str]]:
    return [(trial.public, "train")] if trial.public is not None and trial.generator.pretrain_steps else []


CHAIN = (
    Stage(
        "reference",
        make_reference,
        fields=lambda t: [t.metrics.mode, t.metrics.reference_split, t.metrics.reference_samples],
        reads=_reference_data,
    ),
    Stage("tokenizer", make_tokenizer, fields=lambda t: identity(t.tokenizer)),
    Stage(
        "pretrain",
        make_pretrain,
        inputs=("tokenizer",),
        fields=lambda t: [identity(t.generator), t.level, t.blur, data.shape(t.data), data.n_classes(t.data)],
        reads=_public_data,
    ),
    Stage(
        "private_fit",
        make_private_fit,
        inputs=("pretrain",),
        fields=lambda t: [identity(t.privacy) if fit_kind(t) in ("dp", "nonprivate") else None, t.seed],
        reads=lambda t: [(t.data, "train")] if fit_kind(t) != "public" else [],
    ),
    Stage(
        "coarse_samples", make_coarse_samples, inputs=("private_fit",), fields=lambda t: [identity(t.sampling), t.seed]
    ),
    Stage("upscale", make_upscale, inputs=("coarse_samples",), fields=lambda t: identity(t.upscaler)),
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
    return accounting.check(trial.privacy, _n_records(trial.data, "train"))


def check_models(trial: TrialConfig) -> None:
    """That stage two and the metrics can run: their weights are there, whole, and take this trial's images. Opens the
    weight files, which `check` does not, so that a dry run stays quick. Raises UserError."""
    _check_upscaler(trial.upscaler, 2**trial.level, _coarse_shape(trial))
    n_reference = _n_records(trial.data, trial.metrics.reference_split)
    _check_metrics(trial.metrics, n_reference, trial.sampling.n, labelled=True)


# A study of thousands of trials asks the same again and again. A process looks at its data's files once: change the
# files of a dataset between runs, not during one.
_fingerprint = lru_cache(maxsize=None)(data.fingerprint)
_n_records = lru_cache(maxsize=None)(data.n_records)
_check_metrics = lru_cache(maxsize=None)(suite.check)
_check_upscaler = lru_cache(maxsize=None)(upscalers.check)


def _coarse_images(dataset: data.Dataset, level: int) -> tuple[Tensor, Tensor]:
    """B C h w float32 in [0, 1] and B int64."""
    parts = [coarse(part.float() / 255, level) for part in torch.tensor(dataset.images).split(4096)]
    return torch.cat(parts), torch.tensor(dataset.labels)


def _coarse_shape(trial: TrialConfig) -> tuple[int, int, int]:
    channels, height, width = data.shape(trial.data)
    return channels, height >> trial.level, width >> trial.level


def _generator(trial: TrialConfig, device: str) -> Generator:
    tokenizer = tokenizers.build(trial.tokenizer, _coarse_shape(trial))
    return generators.build(trial.generator, tokenizer, data.n_classes(trial.data), device)

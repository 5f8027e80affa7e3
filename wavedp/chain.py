"""The chain of stages: what each one reads, and the key that names its artifact. `wavedp.stages` says what they do.

    reference ─────────────────────────────────────────────────────────────┐
    tokenizer → pretrain → private_fit → coarse_samples → upscale → evaluate
    upscaler → [upscaler_fit] ───────────────────────────────┘

Only trials whose upscaler trains have the stage `upscaler`, and only those that give it a share of ε have
`upscaler_fit`. The stages that are `private` make releases: whoever counts releases asks the chain which they are.

A stage's key is the sha256 of its name, its code version,
the PRIVACY and RESULT fields it reads, the keys of its inputs and the fingerprints of the data it reads. Trials that
agree on all of these share the artifact, so that those which differ only in the upscaler share one private fit.

Keys are made from the canonical trial (wavedp.methods): what no method reads is at its default. Raise a method's
`version` when its results change, and a stage's here when the code of the stage itself changes them. The source of
methods from outside this package is in the keys of the stages that run it (wavedp.methods.versions).

Nothing here imports torch, so that a study of hundreds of trials is planned in seconds.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from wavedp import data, methods, metrics, tokenizers
from wavedp.config import DataConfig, PrivacyConfig, TrialConfig, identity
from wavedp.fields import first_stages, once
from wavedp.generators import FitKind, coarse_shape
from wavedp.methods import Method, canonical
from wavedp.privacy import accounting, shares
from wavedp.privacy.accounting import Mechanism

__all__ = [
    "CHAIN", "NAMES", "PRIVATE", "chain_of", "coarse_shape", "fingerprint", "fit_kind", "fit_kinds", "given_prompts",
    "keys", "mechanisms", "n_records", "privacy_of", "prompts_from", "use_of",
]  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """fields: what of the trial's configuration enters the key. reads: the datasets and splits it looks at. named:
    those that only its key holds. runs: the methods whose code it runs. applies: whether a trial has this stage at all.
    Inputs that a trial does not run are ignored. private: the way in which it uses sensitive images to fit a model,
    which then is a release (None: it fits none)."""

    name: str
    inputs: tuple[str, ...] = ()
    fields: Callable[[TrialConfig], Any] = lambda trial: None
    reads: Callable[[TrialConfig], list[tuple[DataConfig, str]]] = lambda trial: []
    named: Callable[[TrialConfig], Sequence[tuple[DataConfig, str]]] = lambda trial: ()
    runs: Callable[[TrialConfig], Sequence[Method]] = lambda trial: []
    applies: Callable[[TrialConfig], bool] = lambda trial: True
    private: Callable[[TrialConfig], FitKind] | None = None
    version: int = 1


CANONICAL_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)

# A study of thousands of trials asks the same again and again. A process looks at its data's files once: change the
# files of a dataset between runs, not during one.
fingerprint = cache(data.fingerprint)
n_records = cache(data.n_records)
has_images = cache(data.has_images)


def fit_kind(trial: TrialConfig, stage: str = "private_fit") -> FitKind:
    """The way in which one of a trial's private stages uses sensitive images (wavedp.generators.FitKind)."""
    private = next(item for item in CHAIN if item.name == stage).private
    assert private is not None  # or nobody may ask
    return private(trial)


def fit_kinds(trial: TrialConfig) -> dict[str, FitKind]:
    """The private stages that a trial has, in order, with their ways of using sensitive images."""
    return {stage.name: stage.private(trial) for stage in chain_of(trial) if stage.private}


def use_of(trial: TrialConfig) -> FitKind:
    """The worst use that a trial's private stages make of sensitive images: what its samples as a whole are."""
    kinds = fit_kinds(trial).values()
    return next((kind for kind in ("real", "nonprivate", "dp") if kind in kinds), "public")  # type: ignore[return-value]


def mechanisms(trial: TrialConfig, stage: str = "private_fit") -> dict[str, Mechanism]:
    """The mechanisms that one of the trial's private stages will run, by purpose, calibrated to its part of the budget
    (σ = 0 for ε = ∞). Those of all its private stages together spend at most the trial's ε, by PLD.

    None where it uses no sensitive image, or keeps them as they are. Raises InfeasibleError.
    """
    if fit_kind(trial, stage) in ("real", "public"):
        return {}
    trial, count = canonical(trial), n_records(trial.data, "train")
    settings = privacy_of(trial, stage)
    if stage == "upscaler_fit":
        return {stage: accounting.mechanisms(settings, count)[-1]}
    return methods.generator(trial).mechanisms(_with(trial, privacy=settings), count)


def privacy_of(trial: TrialConfig, stage: str = "private_fit") -> PrivacyConfig:
    """The settings of one of the trial's private stages, with the part of ε that is its own.

    The upscaler's fit has exactly its share of ε. The generator's has as much as, composed with that fit by PLD, keeps
    both within the trial's ε: more than the rest. Raises InfeasibleError.
    """
    trial = canonical(trial)
    if stage == "private_fit" and fit_kind(trial) != "dp":
        return trial.privacy
    detail = methods.upscaler_privacy(trial)
    if stage == "upscaler_fit":
        assert detail is not None  # or the trial would not have this stage
        return detail
    if detail is None:
        return trial.privacy
    whole, count, generator = trial.privacy, n_records(trial.data, "train"), methods.generator(trial)

    def planned(epsilon: float) -> list[Mechanism]:
        part = _with(trial, privacy=_with(whole, epsilon=epsilon))
        return list(generator.mechanisms(part, count).values())

    beside = accounting.mechanisms(detail, count)[-1]
    part = shares.epsilon_beside(beside, whole.epsilon, accounting.delta(whole, count), planned)
    return _with(whole, epsilon=part)


def _with(config: Any, **changes: Any) -> Any:
    """A copy of a section with changes. Unlike dataclasses.replace it reads no field, and what a stage reads must be in
    its key."""
    copied = copy.copy(config)
    vars(copied).update(changes)
    return copied


def _own(trial: TrialConfig, stage: str) -> list[dict[str, Any]]:
    """The fields of the generator's own that this stage is the first to read."""
    first = first_stages(trial.generator.__class__)
    content = methods.generator(trial).content(trial.generator)
    found = {name: value for name, value in content.items() if first.get(name, "pretrain") == stage}
    return [found] if found else []


def _private_fit(trial: TrialConfig) -> list[Any]:
    if fit_kind(trial) == "public":  # nothing is drawn
        return [None, trial.level, 0]
    generator, private = methods.generator(trial), fit_kind(trial) in ("dp", "nonprivate")
    mechanism = methods.section(trial, "privacy", generator) if private else None
    return [mechanism, trial.level, trial.seed, *_own(trial, "private_fit"), *_beside(trial)]


def _beside(trial: TrialConfig) -> list[dict[str, Any]]:
    """What of the upscaler's private fit decides how much of ε is left to the generator's."""
    detail = methods.upscaler_privacy(trial) if fit_kind(trial) == "dp" else None
    if detail is None:
        return []
    content = identity(detail)
    return [{"upscaler_fit": {name: content[name] for name in ("epsilon", "delta", "batch_size", "steps")}}]


def _upscaler_fit(trial: TrialConfig) -> list[Any]:
    """The trial's level is not in it: one fit serves every level, and every generator."""
    method = methods.upscaler(trial)
    return [method.fit_content(trial), methods.section(trial, "privacy", method), trial.seed]


def _coarse_samples(trial: TrialConfig) -> list[Any]:
    sampling = methods.section(trial, "sampling", methods.generator(trial))
    return [sampling, _prompt_file(trial), trial.seed, *_own(trial, "coarse_samples")]


def _pretrain(trial: TrialConfig) -> list[Any]:
    generator = methods.generator(trial)
    return [
        *_own(trial, "pretrain"),
        generator.pretrain_level(trial),
        trial.blur,
        data.shape(trial.data),
        data.n_classes(trial.data),
        *generator.pretraining_content(trial),
    ]


def _upscaler(trial: TrialConfig) -> list[Any]:
    own, shared = methods.upscaler(trial).training_content(trial)
    return [own, data.shape(trial.data), *shared]


def _upscale(trial: TrialConfig) -> Any:
    """Its own configuration; shared fields too, unless the training's key holds them."""
    method = methods.upscaler(trial)
    shared = [] if methods.trains(method) else methods.shared(trial, method)
    own = method.content(trial.upscaler)
    return [own, *shared] if shared else own


def _prompts(trial: TrialConfig) -> list[tuple[DataConfig, str]]:
    from_public = methods.generator(trial).conditioning(trial) == "text" and not given_prompts(trial)
    return [(trial.public, "test")] if from_public and trial.public is not None else []


def _prompt_file(trial: TrialConfig) -> str | None:
    """sha256 of the prompts: their content enters the key, not their path."""
    if methods.generator(trial).conditioning(trial) != "text":
        return None
    given = given_prompts(trial)
    return hashlib.sha256("\n".join(given).encode()).hexdigest() if given else None


def given_prompts(trial: TrialConfig) -> list[str]:
    """The sentences of sampling.prompts, or else those that the dataset makes of no record (wavedp.data.prompts); an
    empty list where the captions of the public test split are the prompts."""
    if trial.sampling.prompts is None:
        return data.prompts(trial.data)
    from wavedp import text  # which imports torch

    return text.read_prompts(trial.sampling.prompts)


def prompts_from(trial: TrialConfig) -> str | None:
    """Whose sentences the samples are drawn for, in words; None for a trial that draws for classes."""
    if methods.generator(trial).conditioning(trial) != "text":
        return None
    if trial.sampling.prompts is not None:
        return f"the file {Path(trial.sampling.prompts).name} of sha256 {_prompt_file(trial)}"
    if data.prompts(trial.data):
        return f"public sentences of {trial.data.name} that are made of no record"
    return f"the captions of {trial.public.name if trial.public else 'no set'}, public test split"


CHAIN = (
    Stage(
        "reference",
        fields=lambda t: metrics.reference_content(t.metrics),
        reads=lambda t: metrics.reference_data(t),
        runs=lambda t: metrics.looking(t.metrics),
    ),
    Stage(
        "upscaler",
        fields=_upscaler,
        reads=lambda t: list(methods.needs(t, methods.upscaler(t)).data),
        runs=lambda t: [methods.upscaler(t)],
        applies=lambda t: methods.trains(methods.upscaler(t)),
    ),
    Stage(
        "tokenizer",
        fields=lambda t: [
            methods.tokenizer(t).content(t.tokenizer),
            data.shape(t.data),
            tokenizers.training_level(t.tokenizer, t.level),
        ],
        reads=lambda t: list(methods.needs(t, methods.tokenizer(t)).data),
        runs=lambda t: [methods.tokenizer(t)],
    ),
    Stage(
        "pretrain",
        inputs=("tokenizer",),
        fields=_pretrain,
        reads=lambda t: list(methods.needs(t, methods.generator(t)).data),
        named=lambda t: methods.needs(t, methods.generator(t)).named,
        runs=lambda t: [methods.generator(t)],
    ),
    Stage(
        "private_fit",
        inputs=("tokenizer", "pretrain"),
        fields=_private_fit,
        reads=lambda t: [(t.data, "train")] if fit_kind(t) != "public" else [],
        private=lambda t: methods.generator(t).fit_kind(t),
    ),
    Stage(
        "upscaler_fit",
        inputs=("upscaler",),
        fields=_upscaler_fit,
        reads=lambda t: [(t.data, "train")],
        runs=lambda t: [methods.upscaler(t)],
        applies=lambda t: methods.upscaler_privacy(t) is not None,
        private=lambda t: "nonprivate" if math.isinf(t.privacy.epsilon) else "dp",
    ),
    Stage(
        "coarse_samples",
        inputs=("tokenizer", "private_fit"),
        fields=_coarse_samples,
        reads=_prompts,
    ),
    Stage(
        "upscale",
        inputs=("tokenizer", "pretrain", "coarse_samples", "upscaler", "upscaler_fit"),
        fields=_upscale,
        runs=lambda t: [methods.upscaler(t)],
    ),
    Stage(
        "evaluate",
        inputs=("reference", "upscale"),
        fields=lambda t: [metrics.content(t.metrics), t.seed],
        reads=lambda t: metrics.evaluation_data(t),
        runs=lambda t: metrics.asked(t.metrics),
    ),
)


REBUILDING = ("tokenizer", "pretrain", "upscaler", "upscaler_fit")
"""What stage two needs of earlier stages, beside its images."""
NAMES = tuple(stage.name for stage in CHAIN)
PRIVATE = tuple(stage.name for stage in CHAIN if stage.private)
"""Stages that fit a model to sensitive images: each of their artifacts is a release."""
PUBLIC = ("upscaler", "tokenizer", "pretrain", "coarse_samples")
"""Stages whose data must be public: no ε covers what they learn, or the prompts that they take, from it."""


@once
def chain_of(trial: TrialConfig) -> list[Stage]:
    """The stages that this trial has, inputs before those that use them."""
    names = frozenset(stage.name for stage in CHAIN if stage.applies(trial))
    return _joined(names, metrics.rebuilds(trial.metrics))


@cache
def _joined(names: frozenset[str], rebuilds: bool) -> list[Stage]:
    """The stages of these names, each with those of its inputs that are among them. rebuilds: `evaluate` runs stage two
    too, and has its inputs."""
    more = {"evaluate": REBUILDING} if rebuilds else {}
    return [
        dataclasses.replace(
            stage, inputs=tuple(name for name in stage.inputs + more.get(stage.name, ()) if name in names)
        )
        for stage in CHAIN
        if stage.name in names
    ]


def before(trial: TrialConfig, name: str) -> list[Stage]:
    """The stage of this name and those that it rests on, in the chain's order; [] if the trial does not have it."""
    found: dict[str, Stage] = {}
    stages = chain_of(canonical(trial))
    for stage in reversed(stages):
        if stage.name == name or any(stage.name in later.inputs for later in found.values()):
            found[stage.name] = stage
    return [stage for stage in stages if stage.name in found]


def missing_images(trial: TrialConfig, has: Callable[[str, str], bool]) -> list[tuple[str, str, DataConfig]]:
    """(stage, key, dataset) of each stage that has to be made, by `has(stage, key)`, of images that are not here:
    facts that came with the zoo give its key, and cannot train it (wavedp.data.facts)."""
    trial = canonical(trial)
    absent = [
        (stage, config)
        for stage in chain_of(trial)
        for config in dict.fromkeys(config for config, _ in stage.reads(trial))
        if not has_images(config)
    ]
    named = keys(trial) if absent else {}
    return [(stage.name, named[stage.name], of) for stage, of in absent if not has(stage.name, named[stage.name])]


def public_reads(trial: TrialConfig) -> list[tuple[DataConfig, str]]:
    """The datasets and splits that the trial takes for public."""
    trial = canonical(trial)
    found = [read for stage in chain_of(trial) if stage.name in PUBLIC for read in stage.reads(trial)]
    return list(dict.fromkeys(found))


def keys(trial: TrialConfig, of: str | None = None) -> dict[str, str]:
    """The key of every stage of a trial (64 hex digits each); nothing is run, no image decoded.

    of: only of this stage and those that it rests on, so that no other data is asked for.
    """
    trial = canonical(trial)
    found: dict[str, str] = {}
    for stage in chain_of(trial) if of is None else before(trial, of):
        content = [
            stage.name,
            stage.version,
            stage.fields(trial),
            [found[name] for name in stage.inputs],
            [fingerprint(config, split) for config, split in (*stage.reads(trial), *stage.named(trial))],
            *methods.versions(stage.runs(trial)),
        ]
        found[stage.name] = hashlib.sha256(CANONICAL_JSON.encode(content).encode()).hexdigest()
    return found

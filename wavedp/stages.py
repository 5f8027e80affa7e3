"""The method: what every stage of the chain does.

    reference ─────────────────────────────────────────────────────────────┐
    tokenizer → pretrain → private_fit → coarse_samples → upscale → evaluate
    upscaler → [upscaler_fit] ───────────────────────────────┘

`tokenizer`, `pretrain` and `upscaler` see public images only, and later stages use what they made; a trial has the
stage `upscaler` when its stage two must be trained. `private_fit` trains on sensitive images, and so does
`upscaler_fit`, in the trials that give stage two a share of ε; `reference` looks at the sensitive set's evaluation
split. These leave lines for the privacy ledger in their artifact. Every stage after them is post-processing.

`wavedp.chain` lists what each stage reads: the fields and data that its key is made of. A stage gets its inputs'
artifacts, a place to write, and the canonical trial (wavedp.methods), in which every setting that the trial's methods
do not read is at its default.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from wavedp import chain, data, methods, metrics, text, tokenizers
from wavedp.chain import (
    PRIVATE,
    PUBLIC,
    chain_of,
    coarse_shape,
    fit_kind,
    keys,
    mechanisms,
    n_records,
    privacy_of,
    public_reads,
)
from wavedp.config import DataConfig, TrialConfig
from wavedp.data import duplicates, overlap
from wavedp.errors import UserError
from wavedp.finite import require_finite
from wavedp.generators import FitSettings, Generator, Pretrains, PrivateFit
from wavedp.levels import check_level
from wavedp.mapped import as_tensor, empty
from wavedp.methods import Trains, Weights, canonical
from wavedp.metrics import suite
from wavedp.privacy import ledger
from wavedp.privacy.ranks import together
from wavedp.progress import Report, silent
from wavedp.seeds import derive_seed
from wavedp.store import Artifact, Draft, Store
from wavedp.upscalers import Upscaler
from wavedp.wavelets import coarse


@dataclass
class Work:
    """Everything that a stage's `make` function may see."""

    trial: TrialConfig
    inputs: dict[str, Artifact]
    draft: Draft
    key: str
    folder: Path  # checkpoints of this stage
    cache: Path  # content-addressed features, shared by all stages
    device: str
    report: Report = silent
    ranks: int = 1  # processes, a GPU each, if it is a private fit

    @property
    def training(self) -> Path:
        """The checkpoint of a public training."""
        return self.folder / "training.pt"


def make_reference(work: Work) -> None:
    """Evaluation statistics of the sensitive set's held-out split: a non-private look, priced as such in the ledger."""
    trial = work.trial
    reference = suite.make_reference(_real(trial), trial.metrics, work.cache, work.report, work.device)
    work.draft.tensors("reference", reference)
    lines = [
        ledger.line_nonprivate(
            look,
            dataset=data.fingerprint(trial.data, split),  # type: ignore[arg-type]
            n_records=n_records(trial.data, split),
            stage_key=work.key,
            trials=[],
        )
        for look, split in metrics.looks(trial.metrics)
    ]
    work.draft.json("ledger", lines)


def make_tokenizer(work: Work) -> None:
    """The public map from images to codes: learned on public images, or fixed by its configuration."""
    trial, method = work.trial, methods.tokenizer(work.trial)
    weights: Weights = {}
    report: dict[str, Any] = {}
    level = tokenizers.training_level(trial.tokenizer, trial.level)
    if isinstance(method, Trains) and level is not None:
        images = _coarse_images(data.load(_public(trial), "train"), level, work.folder)
        weights, report = method.train(trial, images, work.device, work.report, work.training)
        _require_trained(weights, f"tokenizer={trial.tokenizer.name}")
    work.draft.tensors("weights", weights)
    work.draft.json("tokenizer", report)


def make_pretrain(work: Work) -> None:
    """The generator's weights after public pretraining, at the trial's level or a finer one."""
    trial, method = work.trial, methods.generator(work.trial)
    generator = build_generator(trial, work.inputs, work.device)
    weights: Weights = {}
    if isinstance(generator, Pretrains):
        images = torch.zeros(0, *coarse_shape(trial))
        conditions = torch.zeros(0, dtype=torch.long)
        for config, split in method.needs(trial).data:
            public = data.load(config, split)  # type: ignore[arg-type]
            images = _coarse_images(public, method.pretrain_level(trial), work.folder)
            encode = encoder_of(trial, generator, work.device)
            conditions = conditions_of(public, trial, encode, work.folder, in_views=False)
        seed = getattr(trial.generator, "public_seed", 0)  # a Config may have none
        weights = generator.fit_public(images, conditions, seed, work.report, work.training)
        _require_trained(weights, f"generator={method.name}")
    work.draft.tensors("weights", weights)


def make_private_fit(work: Work) -> None:
    """The release: the generator fitted to the coarse sensitive images, with differential privacy.

    A fit whose weights are not finite is a release like any other, with its ledger lines: the next stage refuses it.
    """
    trial = work.trial
    kind = fit_kind(trial)
    if work.ranks != 1 and kind in ("dp", "nonprivate"):
        _share(work, "private_fit")
        return
    generator = build_generator(trial, work.inputs, work.device)
    weights = _input_weights(work.inputs, "pretrain")
    if kind == "public":
        work.draft.tensors("weights", generator.start(weights) if isinstance(generator, Pretrains) else weights)
        work.draft.json("ledger", [])
        return

    def fit(sensitive: data.Dataset, settings: FitSettings) -> PrivateFit:
        images = _coarse_images(sensitive, trial.level, work.folder)
        encode = encoder_of(trial, generator, work.device)
        conditions = conditions_of(sensitive, trial, encode, work.folder)
        return generator.fit_private(weights, images, conditions, settings, work.report)

    _release(work, "private_fit", fit)


def make_upscaler_fit(work: Work) -> None:
    """A release too: stage two's public model, trained on with the full-size sensitive images for its share of ε."""
    if work.ranks != 1:
        _share(work, "upscaler_fit")
        return
    trial, method, weights = work.trial, methods.upscaler(work.trial), _input_weights(work.inputs, "upscaler")

    def fit(sensitive: data.Dataset, settings: FitSettings) -> PrivateFit:
        images = _coarse_images(sensitive, 0, work.folder)
        return method.fit_private(trial, weights, images, settings, work.device, work.report)

    _release(work, "upscaler_fit", fit)


def _release(work: Work, stage: str, fit: Callable[[data.Dataset, FitSettings], PrivateFit]) -> None:
    """Run one of the trial's private fits on the sensitive images; its weights and ledger lines are the artifact."""
    trial = work.trial
    kind, settings, planned = fit_kind(trial, stage), privacy_of(trial, stage), mechanisms(trial, stage)
    if kind == "dp":
        duplicates.check(trial.data)
    sensitive = data.load(trial.data, "train")
    source: dict[str, Any] = {
        "dataset": sensitive.fingerprint,
        "n_records": len(sensitive.images),
        "stage_key": work.key,
        "trials": [],
    }
    seed = derive_seed(trial.seed, stage, work.key)
    done = fit(sensitive, FitSettings(settings, planned, seed, work.folder / "checkpoint.safetensors"))
    if done.mechanisms != planned:  # the budget was asked for what was planned; nothing has left the stage yet
        whose = f"upscaler={trial.upscaler.name}" if stage == "upscaler_fit" else f"generator={trial.generator.name}"
        raise UserError(
            f"{whose} ran {done.mechanisms} where {planned} was planned, and nothing is released: make its "
            "`mechanisms` and its fit agree."
        )
    lines = [
        ledger.line_for_fit(
            item,
            settings,
            **source,
            purpose=purpose,
            release=done.releases[purpose],
            copies=data.repeats(trial.data, "train").copies,
        )
        for purpose, item in done.mechanisms.items()
    ]
    if kind == "real":
        lines = [ledger.line_nonprivate("real images as samples (the anchor)", **source)]
    work.draft.tensors("weights", done.weights)
    work.draft.json("ledger", lines)


def _share(work: Work, stage: str) -> None:
    """Let several processes run a private stage, each as if it were alone: they find each other in its fit."""
    one = replace(work, ranks=1, report=silent)
    work.draft.files |= together(work.ranks, partial(_files_of, stage), one, work.device, work.report)


def _files_of(stage: str, work: Work, report: Report) -> dict[str, bytes]:
    MAKE[stage](replace(work, report=report))
    return work.draft.files


def make_coarse_samples(work: Work) -> None:
    """Coarse samples of the private generator, classes (or public prompts) in equal shares."""
    trial = work.trial
    generator = build_generator(trial, work.inputs, work.device)
    if methods.generator(trial).conditioning(trial) == "text":
        shown = prompts(trial)
        order = torch.arange(trial.sampling.n) % len(shown)
        said = text.embed_captions(shown, 1, encoder_of(trial, generator, work.device), work.folder)
        conditions = cast("Tensor", said.one_each(order))
        labels = torch.zeros_like(order)
    else:
        conditions = labels = torch.arange(trial.sampling.n) % data.n_classes(trial.data)
    weights, name = work.inputs["private_fit"].tensors("weights"), trial.generator.name
    require_finite(
        weights,
        f"weights of generator={name} after its private fit",
        "what it spent stays in the ledger; lower privacy.learning_rate, which is another release",
    )
    again = trial.sampling.seed
    seed = derive_seed(trial.seed, "coarse_samples", again) if again else trial.seed
    images = generator.sample(weights, conditions, trial.sampling, seed, work.report)
    require_finite({"images": images}, f"samples of generator={name}", "its model diverged; lower a learning rate")
    work.draft.tensors("samples", {"images": images, "labels": labels})


def make_upscaler(work: Work) -> None:
    """Stage two's model, where it is one of ours: trained on full-size public images, for every level alike."""
    method, public = methods.upscaler(work.trial), data.load(_public(work.trial), "train")
    images = _coarse_images(public, 0, work.folder)
    assert isinstance(method, Trains)  # or the trial would not have this stage
    weights, _ = method.train(work.trial, images, work.device, work.report, work.training)
    _require_trained(weights, f"upscaler={work.trial.upscaler.name}")
    work.draft.tensors("weights", weights)


def make_upscale(work: Work) -> None:
    """Stage two: the coarse samples brought to full size by a super-resolution model that is public or released."""
    factor, upscaler = 2**work.trial.level, build_upscaler(work.trial, work.inputs, work.device)
    samples = work.inputs["coarse_samples"].tensors("samples")
    parts = []
    for part in samples["images"].split(50):
        images = upscaler.upscale(part, factor)
        require_finite({"images": images}, f"images of upscaler={upscaler.name}", "look for damaged weights")
        parts.append((images * 255).round().clamp(0, 255).to(torch.uint8))
        work.report(sum(map(len, parts)), len(samples["images"]))
    work.draft.tensors("samples", {"images": torch.cat(parts), "labels": samples["labels"]})
    work.draft.json("upscaler", {"bridge": upscaler.bridge(factor)})


def make_evaluate(work: Work) -> None:
    """Metrics of the full-size samples against the reference."""
    trial = work.trial
    samples = work.inputs["upscale"].tensors("samples")
    suite.require_variety(samples["images"], samples["labels"])
    measured = suite.evaluate(
        samples["images"],
        samples["labels"],
        work.inputs["reference"].tensors("reference"),
        _real(trial),
        partial(n_records, trial.data),
        trial.metrics,
        trial.seed,
        work.cache,
        work.report,
        work.device,
        captions(trial),
        _rebuild(work) if metrics.rebuilds(trial.metrics) else None,
    )
    work.draft.json("metrics", measured)


MAKE: dict[str, Callable[[Work], None]] = {
    "reference": make_reference,
    "tokenizer": make_tokenizer,
    "pretrain": make_pretrain,
    "private_fit": make_private_fit,
    "upscaler_fit": make_upscaler_fit,
    "coarse_samples": make_coarse_samples,
    "upscaler": make_upscaler,
    "upscale": make_upscale,
    "evaluate": make_evaluate,
}


def make(
    stage: str, trial: TrialConfig, store: Store, device: str, report: Report = silent, ranks: int = 1
) -> tuple[Artifact, bool]:
    """The artifact of the stage so named and whether this call made it (False: it was in the store), its inputs first.

    Everything that is missing is made in this process: for a notebook, a shard, a report. A private fit alone
    may be shared by several processes, `ranks`, a GPU each, which changes its weights by rounding only.
    """

    def missing(name: str) -> Artifact:
        return make(name, trial, store, device, report, ranks)[0]

    return _make(stage, canonical(trial), store, device, report, ranks, missing)


def make_alone(
    stage: str,
    key: str,
    trial: TrialConfig,
    store: Store,
    device: str,
    report: Report = silent,
    ranks: int = 1,
) -> tuple[Artifact, bool]:
    """As `make`, where others make the inputs, on this machine or another.

    key: what was asked for. Raises UserError if this machine's code or data would make something else, and for an input
    that is not in the store as this machine sees it.
    """
    trial = canonical(trial)
    here = keys(trial)
    if here.get(stage) != key:
        raise UserError(
            f"{stage} {key[:12]} was asked for and {socket.gethostname()} would make {here.get(stage, 'none')[:12]}: "
            "let every node have the same commit of wavedp and the same data."
        )

    def missing(name: str) -> Artifact:
        raise UserError(
            f"{stage} {key[:12]} needs {name} {here[name][:12]}, which {socket.gethostname()} does not find intact in "
            f"{store.root}: give a store that every node reaches, and start the same command again."
        )

    return _make(stage, trial, store, device, report, ranks, missing)


def _make(
    stage: str,
    trial: TrialConfig,
    store: Store,
    device: str,
    report: Report,
    ranks: int,
    missing: Callable[[str], Artifact],
) -> tuple[Artifact, bool]:
    """Holds the key's lock while it makes, so two processes never make the same release; the second finds the first's.

    missing: gives an input that is not in the store.
    """
    names = keys(trial, stage)
    if stage not in names:
        raise UserError(f"This trial has no stage {stage}: its stages are {', '.join(keys(trial))}.")
    key = names[stage]
    if stage in (*PUBLIC, *PRIVATE):
        overlap.refuse_shared(trial.data, public_reads(trial))
    published, made = store.open(stage, key), False
    if published is None:
        with store.lock(stage, key):
            published = store.open(stage, key)  # another process may have made it meanwhile
            if published is None:
                inputs = {}
                for name in next(item for item in chain_of(trial) if item.name == stage).inputs:
                    inputs[name] = store.open(name, names[name]) or missing(name)
                with store.working(stage, key) as folder:
                    work = Work(trial, inputs, Draft(), key, folder, folder.parent / "features", device, report, ranks)
                    MAKE[stage](work)
                published = store.publish(stage, key, work.draft)
                made = published.files == work.draft.files  # not where another machine was first
    store.discard_work(stage, key)
    return published, made


def build_generator(trial: TrialConfig, inputs: dict[str, Artifact], device: str) -> Generator:
    """The trial's generator, around what earlier stages made."""
    method = methods.generator(trial)
    return method.build(trial, _weights(method, trial, inputs), device)


def build_upscaler(trial: TrialConfig, inputs: dict[str, Artifact], device: str) -> Upscaler:
    """The trial's upscaler: one that is ready, or a public model that another stage has trained (among `inputs`)."""
    method = methods.upscaler(trial)
    return method.build(trial, _weights(method, trial, inputs), device)


def _weights(method: methods.Method, trial: TrialConfig, inputs: dict[str, Artifact]) -> dict[str, Weights]:
    """Weights of the earlier stages that the method needs."""
    return {name: _input_weights(inputs, name) for name in method.needs(trial).inputs if name in inputs}


def _input_weights(inputs: dict[str, Artifact], stage: str) -> Weights:
    """Of an earlier stage. Raises UserError for weights that are not finite, which an old store may hold."""
    weights = inputs[stage].tensors("weights")
    require_finite(weights, f"weights that the stage {stage} left in the store", "lower its learning rate")
    return weights


def _require_trained(weights: Weights, whose: str) -> None:
    require_finite(weights, f"weights of {whose} after its public training", "lower its learning rate")


def _real(trial: TrialConfig) -> suite.Load:
    """Reads splits of the sensitive images, with their labels."""

    def load(split: str) -> tuple[Tensor, Tensor]:
        real = data.load(trial.data, split)  # type: ignore[arg-type]
        return as_tensor(real.images), torch.tensor(real.labels)

    return load


def _rebuild(work: Work) -> Callable[[Tensor], Tensor]:
    """What stage two makes of the coarse images of full-size ones, uint8 B C H W both."""
    factor, upscaler = 2**work.trial.level, build_upscaler(work.trial, work.inputs, work.device)

    def rebuild(images: Tensor) -> Tensor:
        made = upscaler.upscale(coarse(images.float() / 255, work.trial.level), factor)
        require_finite({"images": made}, f"images of upscaler={upscaler.name}", "look for damaged weights")
        return (made * 255).round().clamp(0, 255).to(torch.uint8)

    return rebuild


def _coarse_images(dataset: data.Dataset, level: int, folder: Path) -> Tensor:
    """B C h w float32 in [0, 1], of which memory need not hold all: those of many records lie on the folder's disk."""
    n, channels, height, width = dataset.images.shape
    check_level(level, height, width)
    found = empty((n, channels, height >> level, width >> level), folder)
    for rows in data.ranges(n, (channels, height, width), width=4):
        part = slice(rows.start, rows.stop)
        found[part] = coarse(as_tensor(dataset.images[part]).float() / 255, level)
    return found


def conditions_of(
    dataset: data.Dataset,
    trial: TrialConfig,
    encode: Callable[[Sequence[str]], Tensor],
    folder: Path,
    in_views: bool = True,
) -> Tensor:
    """Labels N int64, or captions as `encode` makes them, N V ..., for the views of a private fit; not in_views: the
    first of each record, N .... Captions are no tensor, but stand for one (wavedp.captions). folder: on whose disk many
    of them lie."""
    method = methods.generator(trial)
    if method.conditioning(trial) != "text":
        return torch.tensor(dataset.labels)
    if not in_views:
        return cast("Tensor", text.embed_captions(dataset.captions, 1, encode, folder).one_each())
    drawn = method.draws_captions(trial)
    return cast("Tensor", text.embed_captions(dataset.captions, trial.privacy.views, encode, folder, drawn))


def encoder_of(trial: TrialConfig, generator: Any, device: str = "cpu") -> Callable[[Sequence[str]], Tensor]:
    """Makes conditions of captions: the generator's own text encoder, or one that generators share, which gives a
    vector for each, B E, or for a method with `text_tokens` the states of its tokens, B L E+1."""
    method = methods.generator(trial)
    if method.encodes_captions:
        return generator.encode_captions  # type: ignore[no-any-return]
    form = method.text_tokens(trial)
    if form is None:
        return text.encode
    # The packaged encoder is small, and gives on a CPU what does not depend on there being a GPU.
    on = "cpu" if form.encoder is None else device
    return partial(text.encode_tokens, length=form.length, folder=form.encoder, device=on)


def captions(trial: TrialConfig) -> list[str] | None:
    """The prompt of each sample, or None where samples have classes."""
    if methods.generator(trial).conditioning(trial) != "text":
        return None
    shown = prompts(trial)
    return [shown[number % len(shown)] for number in range(trial.sampling.n)]


def prompts(trial: TrialConfig) -> list[str]:
    """Public sentences to sample from (`chain.prompts_from` says whose)."""
    if given := chain.given_prompts(trial):
        return given
    captions = data.captions(_public(trial), "test")
    return [text.captions_of(record, place, "the public test split")[0] for place, record in enumerate(captions)]


def _public(trial: TrialConfig) -> DataConfig:
    if trial.public is None:
        raise UserError("there are no public images (public=null) and this trial needs some: set public.")
    return trial.public

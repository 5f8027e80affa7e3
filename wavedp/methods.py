"""Methods: a generator, tokenizer, upscaler or metric is one thing in one room.

A method's declaration says its name, version, configuration, what it reads and needs, and what it refuses. It imports
no torch, so that a study of hundreds of trials is planned in seconds. Its model is built when a stage runs.

    name      as in `generator=name`; part of every key
    version   raise it when the code's results change: only this method's artifacts are made again. Of a method from
              another package the keys hold the source too, so that a changed constant is noticed by itself
    Config    a frozen dataclass of what it reads of its own, `name` among it

Everything shared (wavedp.config: privacy, sampling, diffusion, blur, the tokenizer) reaches a method only where `needs`
names it: `canonical` puts the rest at its defaults before a key is made and before a stage runs. So a key holds what is
read, and what is not read can change nothing.

Abilities that only some methods have are protocols, asked for with isinstance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, runtime_checkable

from wavedp import data, registry, sources
from wavedp.config import DataConfig, PrivacyConfig, TrialConfig, configure
from wavedp.fields import identity, is_read, once, settled
from wavedp.progress import Report

if TYPE_CHECKING:  # plans are made without torch
    from torch import Tensor
    from torch.nn import Module

Weights: TypeAlias = "dict[str, Tensor]"
Inputs: TypeAlias = "Mapping[str, Weights]"
"""Weights that earlier stages made, by stage: those of `Needs.inputs` that the trial has."""

Reads: TypeAlias = "list[tuple[DataConfig, str]]"
"""Datasets and their splits."""

SPINE = frozenset({"level", "seed", "sampling.n", "sampling.seed", "privacy.epsilon", "metrics.*"})
"""Shared fields that the chain itself reads in every trial."""


@dataclass(frozen=True)
class Needs:
    """fields: shared fields that are read, such as `blur`, `sampling.temperature`, `diffusion.*`, `tokenizer` (the
    trial's tokens). inputs: earlier stages whose weights `build` is given. data: datasets that the method's public
    training, or a metric's reference, looks at beyond the trial's own splits. named: those that it never looks at and
    that its keys hold all the same, since studies were published with them."""

    fields: frozenset[str] = frozenset()
    inputs: tuple[str, ...] = ()
    data: tuple[tuple[DataConfig, str], ...] = ()
    named: tuple[tuple[DataConfig, str], ...] = ()


class Method:
    """Common to all kinds. published: values that this method's keys hold although it does not read them, by section:
    studies were published before methods had a Config of their own."""

    name: str
    version: int = 1
    Config: type
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def needs(self, trial: TrialConfig) -> Needs:
        """The shared fields, inputs and data that this method reads beside its own Config."""
        return Needs()

    def check(self, trial: TrialConfig) -> list[str]:
        """Refuse, before anything runs, what this method cannot do. Returns warnings, one sentence each.

        Raises UserError with one sentence of cause and one of remedy."""
        return []

    def check_models(self, trial: TrialConfig) -> None:
        """Open the files that it will need, which `check` does not. Raises UserError as `check`."""

    def seen(self, trial: TrialConfig) -> dict[str, tuple[str, ...] | None]:
        """The ready-made models that it uses, as a sentence calls them, each with the sets that it was trained on, by
        names such as "LAION" that datasets have in MAY_BE_IN (wavedp.data.seen); None where nobody says."""
        return {}

    def content(self, config: Any) -> dict[str, Any]:
        """The part of its Config that enters keys: PRIVACY and RESULT fields, and the content of files."""
        return {**self.published.get("own", {}), **identity(config), "name": self.name}


@runtime_checkable
class Trains(Protocol):
    """A tokenizer or an upscaler that learns from public images before it is used. An upscaler that does adds the stage
    `upscaler` to its trials."""

    def train(
        self, trial: TrialConfig, images: Tensor, device: str, report: Report, checkpoint: Path | None
    ) -> tuple[Weights, dict[str, Any]]:
        """Weights, and what to record of the training, from public images B C H W float32 in [0, 1] at full size (a
        tokenizer: of its training_level). Goes on from `checkpoint` (wavedp.resume)."""


@dataclass(frozen=True)
class Rehearsal:
    """One pass of a training over made-up records, on the default device, for wavedp.footprint. run: the pass, with its
    gradients. beside: other tensors that are there all the time. averages: numbers kept for each trained weight beyond
    what `run` holds, such as Adam's two. records: of a step, and at_once: of `run`. steps: of the training."""

    stage: str
    model: Module
    run: Callable[[], object]
    averages: int
    records: int
    at_once: int
    steps: int
    beside: tuple[Tensor, ...] = ()


@runtime_checkable
class Rehearses(Protocol):
    """A tokenizer or a generator that says what its trainings hold in memory before they run."""

    def rehearsals(self, trial: TrialConfig) -> Iterable[Rehearsal]:
        """Of its trainings in this trial, in order. Called where torch's default device is `meta`, so that tensors made
        here, weights among them, take no memory."""


@runtime_checkable
class FitsPrivately(Protocol):
    """An upscaler whose training may go on on sensitive images, for a share of the trial's ε. One that does so in a
    trial adds the stage `upscaler_fit` to it, whose weights `build` finds beside those of `upscaler`."""

    def fit_privacy(self, trial: TrialConfig) -> PrivacyConfig | None:
        """The settings of that fit, with ε times its share as epsilon; None where it has none. They must depend on
        nothing but its own Config and the fields of the section privacy that `needs` names then, so that trials which
        differ in the generator, the level or the sampling share the fit. Not asked where `upscaler_privacy` says."""

    def fit_content(self, trial: TrialConfig) -> dict[str, Any]:
        """The part of its Config, as JSON, that the fit reads beyond its public training."""

    def fit_private(
        self, trial: TrialConfig, weights: Weights, images: Tensor, fit: Any, device: str, report: Report
    ) -> Any:
        """From `weights` of its public training, on full-size sensitive images B C H W float32 in [0, 1]. fit:
        wavedp.generators.FitSettings with one mechanism, `upscaler_fit`. Returns a wavedp.generators.PrivateFit."""


def generator(trial: TrialConfig) -> Any:
    """The trial's generator, as declared."""
    return registry.find("generator", trial.generator.name)


def tokenizer(trial: TrialConfig) -> Any:
    """The trial's tokenizer, as declared."""
    return registry.find("tokenizer", trial.tokenizer.name)


def upscaler(trial: TrialConfig) -> Any:
    """The trial's upscaler, as declared."""
    return registry.find("upscaler", trial.upscaler.name)


@once
def needs(trial: TrialConfig, method: Method) -> Needs:
    """`method.needs(trial)`, asked once: every stage's key wants to know."""
    return method.needs(trial)


@cache  # a protocol takes 40 µs to look
def trains(method: Method) -> bool:
    """True if the method has the ability `Trains`."""
    return isinstance(method, Trains)


@cache
def fits_privately(method: Method) -> bool:
    """True if the method has the ability `FitsPrivately`."""
    return isinstance(method, FitsPrivately)


def upscaler_privacy(trial: TrialConfig) -> PrivacyConfig | None:
    """The settings of the upscaler's private fit; None if the trial has none, as always at ε = 0, where no sensitive
    image is used, and at level 0, where there is nothing to enlarge."""
    method = upscaler(trial)
    if trial.level == 0 or trial.privacy.epsilon == 0 or not fits_privately(method):
        return None
    return method.fit_privacy(trial)


def fields_read(trial: TrialConfig) -> frozenset[str]:
    """The shared fields that the trial's methods read, `section.*` for all of a section."""
    read = SPINE | needs(trial, generator(trial)).fields | needs(trial, upscaler(trial)).fields
    return read | needs(trial, tokenizer(trial)).fields if "tokenizer" in read else read


def reads(trial: TrialConfig, field: str) -> bool:
    """True if some method of the trial reads a shared field, such as `blur` or `sampling.temperature`."""
    read = fields_read(trial)
    return field in read or f"{field.partition('.')[0]}.*" in read


@partial(once, final=True)
def canonical(trial: TrialConfig) -> TrialConfig:
    """The same trial with every field at its default that its methods do not read: equal results, equal keys.

    Paths and other PERFORMANCE fields stay, and so do the datasets, whose fingerprints stand for them; public images
    that are chosen by names get those of the trial's classes. A canonical trial is given back as it is.
    """
    read = fields_read(trial)
    values = {item.name: _canonical(trial, item, read) for item in _fields()}
    changes = {name: value for name, value in values.items() if value is not getattr(trial, name)}
    return dataclasses.replace(trial, **changes) if changes else trial


def public_of(trial: TrialConfig) -> DataConfig | None:
    """The trial's public images; where they are chosen by names and none are given, by those of its data's classes,
    which are public."""
    public = trial.public
    if public is None or public.names or "names" not in getattr(data.source_of(public.name), "READS", ()):
        return public
    return dataclasses.replace(public, names=_class_names(trial.data))


@cache  # the trials of a study ask the same again and again
def _class_names(config: DataConfig) -> tuple[str, ...]:
    return data.class_names(config)


def _canonical(trial: TrialConfig, item: dataclasses.Field[Any], read: frozenset[str]) -> Any:
    """The value of one of its fields in a trial's canonical form; the same object where that is its value."""
    value, kind = getattr(trial, item.name), item.metadata.get("method")
    if item.name in ("data", "public"):
        return public_of(trial) if item.name == "public" else value
    if kind == "tokenizer" and "tokenizer" not in read:
        return _default(kind)
    if kind:
        return settled(value)
    if hasattr(value, "__dataclass_fields__"):  # dataclasses.is_dataclass, for hundreds of thousands of values
        return settled(value, _names_read(value.__class__, item.name, read))
    return value if item.metadata["class"] == "performance" or item.name in read else item.default


@cache
def _fields() -> tuple[dataclasses.Field[Any], ...]:
    return fields(TrialConfig)


@cache
def _default(kind: str) -> Any:
    return configure(kind, registry.DEFAULT[kind])


@lru_cache(maxsize=1024)
def _names_read(cls: Any, section: str, read: frozenset[str]) -> frozenset[str]:
    """The fields of a shared section that are among those read, `section.*` standing for all."""
    names = (item.name for item in fields(cls))
    return frozenset(name for name in names if f"{section}.{name}" in read or f"{section}.*" in read)


def section(trial: TrialConfig, name: str, method: Method) -> dict[str, Any]:
    """The part of a shared section in a method's keys: the fields that it reads, and its published values for others.
    trial: canonical."""
    read, config = SPINE | needs(trial, method).fields, getattr(trial, name)
    return {**method.published.get(name, {}), **_content(config, _names_read(config.__class__, name, read))}


@once
def _content(config: Any, names: frozenset[str]) -> dict[str, Any]:
    """The identity of a section in these fields, where the section's other fields let them be read."""
    read = {item.name for item in fields(config) if item.name in names and is_read(config, item)}
    return {field: value for field, value in identity(config).items() if field in read}


def shared(trial: TrialConfig, method: Method, leave: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The part of the shared fields in a method's keys, by section, where it reads any. leave: sections and fields that
    another place of the keys holds. trial: canonical."""
    names = sorted({name.partition(".")[0] for name in needs(trial, method).fields - SPINE} - {"tokenizer", *leave})
    found = {
        name: section(trial, name, method) if dataclasses.is_dataclass(getattr(trial, name)) else getattr(trial, name)
        for name in names
    }
    return [found] if found else []


def unread(trial: TrialConfig) -> list[tuple[str, Any]]:
    """The shared fields that stand at another value than their default although no method of the trial reads them."""
    settled_trial, found = canonical(trial), []
    for item in fields(trial):
        mine, other = getattr(trial, item.name), getattr(settled_trial, item.name)
        if mine is other or item.name == "public":
            continue
        if item.metadata.get("method") == "tokenizer" and mine != other and "tokenizer" not in fields_read(trial):
            found.append((item.name, mine.name))
        elif dataclasses.is_dataclass(mine) and type(mine) is type(other):
            found += [
                (f"{item.name}.{each.name}", getattr(mine, each.name))
                for each in fields(mine)
                if getattr(mine, each.name) != getattr(other, each.name)
            ]
        elif mine != other:
            found.append((item.name, mine))
    return found


def unread_sentence(trial: TrialConfig, field: str, value: Any) -> str:
    """Why a setting changes nothing, and what would read it."""
    head, _, last = field.partition(".")
    config = getattr(trial, head)
    if last:
        item = next(each for each in fields(config) if each.name == last)
        if not is_read(config, item):
            wanted = " and ".join(f"{head}.{name}={other}" for name, other in item.metadata["read_if"].items())
            return f"{field}={value} is read only with {wanted}: set that too, or leave {field} out."
    readers = []
    for kind in ("generator", "upscaler"):
        for name, method in registry.each(kind):
            other = dataclasses.replace(trial, **{kind: configure(kind, name)})
            found = method.needs(other).fields
            if field in found or f"{head}.*" in found:
                readers.append(f"{kind}={name}")
    chosen = f"generator={trial.generator.name} and upscaler={trial.upscaler.name}"
    instead = f"use {' or '.join(readers)}, or " if readers else ""
    return f"{field}={value} is not read by {chosen}: {instead}leave {field} out."


def is_ours(method: Method) -> bool:
    """True for a method of this package, whose tests know it; one that is derived from it elsewhere is not."""
    return type(method).__module__.partition(".")[0] == "wavedp"


def versions(methods: Iterable[Method]) -> list[dict[str, Any]]:
    """The code of methods in the key of a stage that runs it, if there is something to say: for one of this package its
    version, unless it is 1; for any other its version and the hash of its source (wavedp.sources)."""
    found: dict[str, Any] = {}
    for method in methods:
        if not is_ours(method):
            found[method.name] = [method.version, sources.digest(type(method).__module__)]
        elif method.version != 1:
            found[method.name] = method.version
    return [found] if found else []


def variant(kind: str, config: Any, **changes: Any) -> Any:
    """The same method's configuration with changes."""
    return configure(kind, config.name, **{**_values(config), **changes})


def _values(config: Any) -> dict[str, Any]:
    return {item.name: getattr(config, item.name) for item in fields(config) if item.name != "name"}

"""Overrides on the command line: spelled so that Hydra takes them, and refused where nothing would read them."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override as Parsed
from hydra.errors import HydraException

from sweeps.plan import ALIASES, AXES
from sweeps.study import as_typed
from wavedp import methods, registry
from wavedp.config import METHODS, DataConfig, MetricsConfig, SamplingConfig, TrialConfig
from wavedp.errors import UserError
from wavedp.fields import is_read, paths, who_reads

SECTIONS = ("data", "public", "tokenizer", "generator", "diffusion", "privacy", "sampling", "upscaler", "metrics")
GROUPS = (*(name for name in SECTIONS if name != "public"), "ray", "preset", "sweep")
SEEDS = {"seed": "seeds", "sampling.seed": "sampling_seeds"}
"""Axes that have a list of their own in a sweep."""
FILES = {name for section in (DataConfig, SamplingConfig, MetricsConfig) for name in paths(section)}
TEXTS = {"study", "sweep.name", "results", "store", "plan"}


@dataclass(frozen=True)
class Override:
    """One setting that the user typed. name: `upscaler` for the choice of a group's option, otherwise the dotted field;
    value: the option, the field's value, or None where the setting is taken away."""

    text: str
    name: str
    value: Any


def normalised(arguments: Sequence[str]) -> list[str]:
    """The same overrides as Hydra wants them, so that nobody needs to know where it wants a `+`.

    Hydra's flags stay. Raises UserError for what Hydra would take and wavedp does not mean: several values for one
    setting, Hydra's own settings, a needed setting taken away. A field that does not exist is refused once all are
    known (`sweeps.settings`), in a sentence, and not by Hydra.
    """
    found: list[str] = []
    chosen: dict[str, str] = {}
    for before, text in zip(["", *arguments], arguments, strict=False):
        if text == "-m" or text.startswith("--m"):
            raise UserError(f"{text} is Hydra's way to run several studies, and one command runs one: start each.")
        if text.startswith("-") or before.startswith("-"):  # a flag of Hydra's, and its value
            found.append(text)
            continue
        text = _only(text)
        spelled = _spelled(text, parsed(text))
        for each in spelled:
            group = each.lstrip("+").partition("=")[0]
            if chosen.setdefault(group, text) != text and not each.startswith("++"):
                raise UserError(f"{chosen[group]} and {text} choose twice: keep one of them.")
        found += spelled
    return found


def _only(text: str) -> str:
    """Ids of trials have signs that Hydra wants quoted: only=epsilon=1,seed=0 -> only=["epsilon=1","seed=0"]."""
    name, _, value = text.partition("=")
    if name.lstrip("+") != "only" or value in ("", "null"):
        return text
    ids = [each.strip(" \"'") for each in value.strip("[]").split(",")]
    return f"{name}=[{','.join(json.dumps(each) for each in ids)}]"


@functools.cache  # for a list of thousands it takes Hydra a second
def parsed(text: str) -> Parsed:
    """An override as Hydra reads it. Raises UserError for one that it cannot read."""
    try:
        found = OverridesParser.create().parse_override(text)
        if found.key_or_group:
            return found
        raise HydraException("it has no name")
    except HydraException as error:
        shown, why = (_printable(each) for each in (text, str(error).splitlines()[0].strip()))
        raise UserError(
            f"{shown} can't be read ({why}): write name=value, and quotes around a value that has commas or brackets, "
            "such as 'data.path=\"/a (1)\"'."
        ) from error


def typed(overrides: Sequence[str]) -> list[Override]:
    """The settings among these overrides, in their order, those of a dict one by one."""
    found = []
    for text in overrides:
        each = parsed(text)
        name = "public" if (each.key_or_group, each.package) == ("data", "public") else each.key_or_group
        if not each.is_delete():
            found += [Override(as_typed(text), *item) for item in _flat(ALIASES.get(name, name), each.value())]
    return found


def refuse_unread(overrides: Sequence[str], trials: Sequence[TrialConfig]) -> None:
    """Raises UserError for a setting on the command line that no method of any trial reads. Axes of a sweep are not
    refused: trials that differ in nothing that is read share their stages."""
    if not trials:
        return
    for setting in typed(overrides):
        name, value = setting.name, setting.value
        head, _, last = name.partition(".")
        if head in METHODS and last:
            _refuse_field(trials, head, last, value)
        elif head in ("diffusion", "privacy", "sampling", "metrics") and last:
            section = getattr(trials[0], head)
            item = next((each for each in fields(section) if each.name == last), None)
            if item is None or item.metadata.get("class") == "performance":
                continue
            if not any(methods.reads(trial, name) and is_read(getattr(trial, head), item) for trial in trials):
                raise UserError(methods.unread_sentence(trials[0], name, value))
        elif name in ("blur", "tokenizer") and not any(methods.reads(trial, name) for trial in trials):
            if name == "blur" and value == "none":
                continue
            raise UserError(methods.unread_sentence(trials[0], name, value))


def _refuse_field(trials: Sequence[TrialConfig], kind: str, last: str, value: str) -> None:
    """A field of a method's own section."""
    unread = kind == "tokenizer" and not any(methods.reads(trial, kind) for trial in trials)
    if unread:
        raise UserError(methods.unread_sentence(trials[0], kind, getattr(trials[0], kind).name))
    configs = {type(getattr(trial, kind)): getattr(trial, kind) for trial in trials}
    if last == "name":
        return
    for trial in trials:
        config = getattr(trial, kind)
        item = next((each for each in fields(config) if each.name == last), None)
        if item is not None and is_read(config, item):
            return
    config = getattr(trials[0], kind)
    item = next((each for each in fields(config) if each.name == last), None)
    if item is not None:
        wanted = " and ".join(f"{kind}.{name}={other}" for name, other in item.metadata["read_if"].items())
        raise UserError(f"{kind}.{last}={value} is read only with {wanted}: set that too, or leave {kind}.{last} out.")
    chosen = " and ".join(sorted({getattr(trial, kind).name for trial in trials}))
    readers = who_reads(kind, last, type(next(iter(configs.values()))))
    known = {each.name for _, method in registry.each(kind) for each in fields(method.Config)}
    near = [] if last in known else difflib.get_close_matches(last, known, 1)
    hint = f" Did you mean {kind}.{near[0]}?" if near else ""
    raise UserError(f"{kind}.{last}={value} is not read by {kind}={chosen}: {readers}{hint}")


def _spelled(text: str, each: Parsed) -> list[str]:
    """One override as Hydra wants it."""
    name, raw = each.key_or_group, text.partition("=")[2]
    if name.startswith(("hydra.", "hydra/")):
        raise UserError(f"{text} is a setting of Hydra's own: leave it out; `results`, `study` and `store` say where.")
    if each.is_delete():
        if name.split(".")[0] == "sweep" and name.split(".")[1:2] and name.split(".")[1] in AXES:
            return [text]
        raise UserError(f"{text} takes away a setting that a study needs: give it another value, {name}=…")
    if name.startswith("sweep.") and each.is_range_sweep():  # sweep.seeds=range(500), which Hydra takes for many runs
        return [f"++{name}='{raw}'"]
    if each.is_sweep_override():
        raise UserError(_several(text.lstrip("+"), name, raw))
    value, place = each.value(), f"{name}@{each.package}" if each.package else name
    if name == "public" and isinstance(value, str):
        name, place = "data", "data@public"
    if place == "data@public" and value is None:
        return ["++public=null"]
    if name in METHODS and isinstance(value, str) and ":" in value:
        name, place = f"{name}.name", ""
    if name in GROUPS and not isinstance(value, str | dict):
        raise UserError(f"{text} chooses no option: write {name}=NAME.")
    if name in GROUPS and not isinstance(value, dict):
        return [f"+{place}={raw}" if name == "sweep" else f"{place}={raw}"]
    if isinstance(value, int | float) and (name in TEXTS or name.rpartition(".")[2] in FILES):
        raw = f"'{raw}'"  # study=2024 is a name, not a number
    kind = name.removesuffix(".name")
    alone = kind in METHODS and kind != name and ":" in str(value)  # package.module:Object has no yaml: leave all out
    return [f"~{kind}"] * alone + [f"++{ALIASES.get(name, name)}={raw}"]


def _several(text: str, name: str, raw: str) -> str:
    """What to say of several values for one setting."""
    bare = name.removeprefix("sweep.")
    if name in ("sweep", "preset"):
        return f"{text} names several, and one command takes one {name}: start a command for each."
    short = {field: axis for axis, field in ALIASES.items()}.get(name, name)
    listed = f"[{raw}]" if re.fullmatch(r"[^()]*", raw) else "[…]"
    if name == "watch":
        return f"{text} names several: write watch={listed}."
    if bare != name:
        axis = f"{name}={listed}"
    else:
        axis = f"sweep.{SEEDS[name]}={listed}" if name in SEEDS else f"sweep.grid.{short}={listed}"
    return f"{text} is several values: write {axis} to sweep them, or quote a value that has a comma."


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and not name.startswith("sweep.cases"):
        for key, item in value.items():
            yield from _flat(f"{name}.{key}", item)
    else:
        yield name, value


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)[1:-1]

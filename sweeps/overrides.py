"""Overrides on the command line: spelled so that Hydra takes them, and refused where nothing would read them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from wavedp import methods, registry
from wavedp.config import METHODS, TrialConfig
from wavedp.errors import UserError
from wavedp.fields import is_read, who_reads

SECTIONS = ("data", "public", "tokenizer", "generator", "diffusion", "privacy", "sampling", "upscaler", "metrics")
AXES = ("grid", "zip", "cases", "seeds", "sampling_seeds", "search")


def normalised(arguments: Sequence[str]) -> list[str]:
    """The same overrides, so that a new axis or a method's field need no `+` and an old one may have one.

    A field that the chosen option's file lacks is then refused by us, in a sentence, and not by Hydra.
    """
    found = []
    for text in arguments:
        bare = text.lstrip("+")
        name, equals, value = bare.partition("=")
        if name in METHODS and ":" in value:  # package.module:Object has no yaml, and its options are its defaults
            bare, name = f"{name}.name={value}", f"{name}.name"
        head, _, rest = name.partition(".")
        section = head in SECTIONS and rest
        axis = head == "sweep" and rest.partition(".")[0] in AXES
        found.append(f"++{bare}" if equals and (section or axis) else text)
    return found


def refuse_unknown(values: dict[str, Any], known: Iterable[str]) -> None:
    """Raises UserError for a top-level key that nothing reads, with the nearest that something does."""
    names = sorted(known)
    for name in values:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            raise UserError(
                f"{name} is not a setting: "
                + (f"did you mean {near[0]}?" if near else f"use one of {', '.join(names)}.")
            )


def refuse_unread(overrides: Sequence[str], trials: Sequence[TrialConfig]) -> None:
    """Raises UserError for a setting on the command line that no method of any trial reads. Axes of a sweep are not
    refused: trials that differ in nothing that is read share their stages."""
    if not trials:
        return
    for text in overrides:
        name, equals, value = text.lstrip("+").partition("=")
        head, _, last = name.partition(".")
        if not equals:
            continue
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

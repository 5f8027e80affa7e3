"""The configuration of a recorded trial, by which rows of several studies are told alike or apart.

Rows are compared by what their methods read (wavedp.methods.canonical), never by an axis' or a case's name: two studies
may call one setting by two names, and two settings by one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from analysis.load import Study, Trial
from wavedp import methods, registry
from wavedp.config import METHODS, TrialConfig, configure, fields_of, identity, sections, trial_of
from wavedp.errors import UserError
from wavedp.methods import Method, canonical

Flat = Mapping[str, Any]
"""Settings by dotted name."""

MOST_NAMED = 3  # settings in a label


def configuration(study: Study, trial: Trial) -> TrialConfig | None:
    """The canonical configuration of a row; None if the study does not say enough, or needs a method not installed.

    Rows of older studies have no `settings`: they are the study's own configuration with the values of the row's axes,
    which is unknown for a named case and for an option that is no method's name.
    """
    values = _older(study, trial) if trial.settings is None else trial.settings
    try:
        return None if values is None else canonical(trial_of(values))
    except (UserError, TypeError, KeyError):
        return None


def _older(study: Study, trial: Trial) -> dict[str, Any] | None:
    found = json.loads(json.dumps(study.meta.get("config") or {}))
    if not found:
        return None
    for axis, value in trial.axes.items():
        head, *inner = {"epsilon": "privacy.epsilon"}.get(axis, axis).split(".")
        if head not in sections(TrialConfig) or len(inner) > 1:
            return None
        section = found.get(head)
        if inner:
            found[head] = {**(section or {}), inner[0]: value}
        elif head in METHODS:
            if value not in registry.names(head):
                return None
            if (section or {}).get("name") != value:
                found[head] = {"name": value}
        elif isinstance(section, dict):
            return None
        else:
            found[head] = value
    return found


def data_of(config: TrialConfig) -> Flat:
    """The sensitive images."""
    return _flat("data", config.data)


def method_of(config: TrialConfig, kind: str) -> Flat:
    """A method's own settings, and the public images that it learns from."""
    section = getattr(config, kind)
    return {**_flat(kind, section), **_learnt(config, registry.find(kind, section.name))}


def fit_of(config: TrialConfig) -> Flat:
    """Everything that a generator's samples depend on beside data, level, tokens, ε and seeds."""
    whole = replace(
        config, privacy=replace(config.privacy, epsilon=1.0), sampling=replace(config.sampling, seed=0, n=2)
    )
    whole = canonical(whole)  # at one ε, for settings of the noise are read at finite ε alone
    found: dict[str, Any] = {"blur": whole.blur, **method_of(whole, "generator")}
    for name in ("privacy", "diffusion", "sampling"):
        found |= _flat(name, getattr(whole, name))
    return found


def _learnt(config: TrialConfig, method: Method) -> Flat:
    """The public images that a method reads, if there are any."""
    read = [data for data, _ in methods.needs(config, method).data if data == config.public]
    return _flat("public", read[0]) if read else {}


def _flat(name: str, section: Any) -> Flat:
    """Settings that change results. A path counts too: it tells folders apart that have one name."""
    found = identity(section)
    path = fields_of(section, "performance").get("path")
    return {f"{name}.{field}": value for field, value in {**found, **({"path": path} if path else {})}.items()}


def key(*settings: Flat | str | int | None) -> str:
    """A text that is equal for equal settings."""
    return json.dumps(settings, sort_keys=True)


def labels(every: Sequence[Flat], kind: str) -> dict[str, str]:
    """{key: label} of settings of one kind: the method's name, with what tells it from others of that name and is not
    at its default. Different settings have different labels."""
    distinct = {key(each): each for each in every}
    said: dict[str, list[str]] = {}
    for name, each in distinct.items():
        alike = [other for other in distinct.values() if other[f"{kind}.name"] == each[f"{kind}.name"]]
        usual = _defaults(kind, str(each[f"{kind}.name"]))
        varying = sorted({field for other in alike for field in other if other.get(field) != each.get(field)})
        said[name] = [f"{_short(field)} {each[field]}" for field in varying if each.get(field) != usual.get(field)]
    short = {name: _label(distinct[name], kind, fields[:MOST_NAMED], fields) for name, fields in said.items()}
    whole = {name: _label(distinct[name], kind, fields, fields) for name, fields in said.items()}
    clear = {name: label for name, label in short.items() if list(short.values()).count(label) == 1}
    return {**whole, **clear}


def _label(each: Flat, kind: str, shown: list[str], every: list[str]) -> str:
    title = str(each[f"{kind}.name"])
    return f"{title} ({', '.join([*shown, *(['…'] if len(shown) < len(every) else [])])})" if every else title


def _defaults(kind: str, name: str) -> Flat:
    """The settings of a method that is used as it comes."""
    trial = TrialConfig()
    found = {"blur": trial.blur, **_flat("public", trial.public)}
    for section in ("privacy", "diffusion", "sampling", "data"):
        found |= _flat(section, getattr(trial, section))
    return {**found, **_flat(kind, configure(kind, name))} if kind in METHODS else found


def _short(field: str) -> str:
    head, _, last = field.rpartition(".")
    return head if last == "name" else last

"""Checks of a declaration that the suites share: its Config, its content, its imports.

Each raises AssertionError with a sentence for the author of the method.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from wavedp import chain
from wavedp.config import TrialConfig, to_dict
from wavedp.fields import FieldClass
from wavedp.methods import Method, Needs

PLAN = """
import json, sys
trial, kind = json.loads(sys.stdin.read())
from wavedp import registry
registry.find(kind, trial[kind]["name"])
importing = "torch" in sys.modules
from wavedp import chain
from wavedp.config import TrialConfig, from_dict
trial = from_dict(TrialConfig, trial)
method = registry.find(kind, getattr(trial, kind).name)
method.needs(trial)
method.content(getattr(trial, kind))
if kind == "generator":
    method.conditioning(trial), method.pretrain_level(trial), method.pretraining_content(trial), chain.mechanisms(trial)
print(json.dumps({"importing": importing, "planning": "torch" in sys.modules, "keys": chain.keys(trial)}))
"""


def check_config(config: type) -> None:
    """A frozen dataclass that begins with `name`; every field has a class and a default, every number a range."""
    named = config.__name__
    assert dataclasses.is_dataclass(config), f"{named} must be a dataclass: write @dataclass(frozen=True) above it"
    assert config.__dataclass_params__.frozen, (  # type: ignore[attr-defined]
        f"{named} can be changed after it entered a key: write @dataclass(frozen=True) above it"
    )
    for item in dataclasses.fields(config):
        assert item.metadata.get("class") in get_args(FieldClass), (
            f"{named}.{item.name} is in no class: declare it by result(default), performance(default) or "
            "privacy(default) of wavedp.fields, so that keys hold it or leave it out on purpose"
        )
        assert item.default is not dataclasses.MISSING, (
            f"{named}.{item.name} has no default: give it one, as a study may name the method and set nothing"
        )
        assert item.name not in numbers_of(config) or item.metadata.get("within"), (
            f"{named}.{item.name} is a number of no range: say which values it takes, such as within='(0, inf)', so "
            "that others are refused before any work"
        )
    assert "name" in names_of(config), f"{named} has no field `name`: begin with name: str = result(...)"


def check_content(method: Method, config: Any, other: Mapping[str, Any]) -> None:
    """`content` is JSON, and moves with every PRIVACY and RESULT field and no other. other: see `another`."""
    content = method.content(config)
    try:
        same = json.loads(json.dumps(content, allow_nan=False)) == content
    except (TypeError, ValueError) as error:
        raise AssertionError(f"content() is not JSON ({error}): use text, numbers, lists and dicts") from error
    assert same, "content() does not survive JSON: use lists instead of tuples, and text for the names in dicts"
    assert content.get("name") == method.name, f"content() must hold the name {method.name!r}: begin with super()'s"
    for item in dataclasses.fields(config):
        if item.name == "name":
            continue
        before = dataclasses.replace(config, **(item.metadata.get("read_if") or {}))
        value = other[item.name] if item.name in other else another(before, item.name)
        moved = method.content(dataclasses.replace(before, **{item.name: value})) != method.content(before)
        counts = item.metadata["class"] != "performance"
        assert moved or not counts, (
            f"{item.name} changes results and content() stays the same: two trials that differ in it would share "
            "artifacts; content() must hold it"
        )
        assert counts or not moved or isinstance(value, str), (  # the content of a file may be in the key
            f"{item.name} is a PERFORMANCE field and moves content(): leave it out, or declare it by result(...)"
        )


def check_needs(needs: Any, trial: TrialConfig, inputs: tuple[str, ...]) -> None:
    """Shared fields that exist, stages among `inputs`, datasets with their splits."""
    assert isinstance(needs, Needs), f"needs() returned {needs!r}: return a wavedp.methods.Needs"
    sections = {item.name: getattr(trial, item.name) for item in dataclasses.fields(trial)}
    own = {item.name for item in dataclasses.fields(trial) if item.metadata.get("method")}
    shared = {name for name, value in sections.items() if dataclasses.is_dataclass(value) and name not in own}
    known = {"tokenizer", *(name for name in sections if name not in own | shared)}
    for name in shared:
        known |= {f"{name}.*", *(f"{name}.{field}" for field in names_of(type(sections[name])))}
    unknown = sorted(set(needs.fields) - known)
    assert not unknown, f"needs().fields names {unknown}, which no trial has: see the sections in wavedp.config"
    unknown = sorted(set(needs.inputs) - set(inputs))
    assert not unknown, f"needs().inputs names {unknown}: the stages before it are {', '.join(inputs) or 'none'}"
    for config, split in needs.data:
        assert split in ("train", "val", "test"), f"needs().data names the split {split!r}: use train, val or test"
        chain.n_records(config, split)


def check_planning(kind: str, trial: TrialConfig) -> None:
    """Another process imports and plans it without torch, and finds the same keys."""
    values = to_dict(trial)
    done = subprocess.run(
        [sys.executable, "-c", PLAN],
        input=json.dumps([values, kind]),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, f"another process cannot plan the trial:\n{done.stderr}"
    found = json.loads(done.stdout)
    for when, named in (("importing", "importing the declaration"), ("planning", "needs(), content() or mechanisms()")):
        assert not found[when], (
            f"{named} imported torch, and a plan of hundreds of trials must not: in the declaration's module, import "
            "torch, and what imports it, inside `build` or `train` and the model's methods"
        )
    assert found["keys"] == chain.keys(trial), (
        "another process found other keys: content() must depend on the configuration and the content of files only, "
        "not on paths, times, hash() or the order of a set"
    )


def names_of(cls: type) -> list[str]:
    """The names of a dataclass' fields."""
    return [item.name for item in dataclasses.fields(cls)]


def numbers_of(cls: type) -> dict[str, type]:
    """int or float, by the name of each field of a dataclass that holds a number (or None, or a word such as auto)."""
    found: dict[str, type] = {}
    for name, hint in get_type_hints(cls).items():
        kinds = {kind for kind in get_args(hint) if kind is not type(None) and get_origin(kind) is not Literal} or {
            hint
        }
        if kinds <= {int, float}:
            found[name] = float if float in kinds else int
    return found


def another(config: Any, field: str) -> Any:
    """Another value of the field's type: an option, the other truth value, or a number a little larger. It is for keys;
    a Config that refuses it needs one of its own in the suite's `other`."""
    value, hint = getattr(config, field), get_type_hints(type(config))[field]
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] if type(None) in get_args(hint) else [hint]
    kind = kinds[0]
    if get_origin(kind) is Literal:
        options = [option for option in get_args(kind) if option != value]
        return options[0] if options else value
    if isinstance(value, tuple):
        return (*value, "another")
    if value is None:
        value = {bool: False, int: 0, float: 0.0}.get(kind, "")
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, float):
        return value / 2 if value and math.isfinite(value) else 0.25
    assert isinstance(value, int), f"no other value of {field} is known: set `other = {{{field!r}: ...}}` in the suite"
    return value + 1

"""Configuration fields: each in exactly one class, read from plain dicts, turned into the content of a stage key.

PRIVACY      enters the stage key and the ledger (changing it changes the guarantee)
RESULT       enters the stage key (changing it changes the numbers)
PERFORMANCE  enters neither: must not change results beyond rounding (device, threads, microbatch size, paths)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import MISSING, field, fields
from functools import cache, lru_cache, wraps
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from wavedp import registry
from wavedp.errors import UserError
from wavedp.ranges import Range

SEED = f"[0, {2**64})"
"""The range of seeds: what torch's generators take."""
FINITE = Range.of("(-inf, inf)")

FieldClass = Literal["privacy", "result", "performance"]

F = TypeVar("F", bound=Callable[..., Any])
KEPT = 4096


class Above(float):
    """In `read_if`: any number above 0. As a number it is an example of one."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int | float) and other > 0

    def __hash__(self) -> int:
        return hash(Above)

    def __str__(self) -> str:
        return f"{float(self):g} (or any other above 0)"


class AnyOf(str):
    """In `read_if`: any of some words. As a word it is the first of them."""

    words: tuple[str, ...]

    def __new__(cls, *words: str) -> AnyOf:
        made = super().__new__(cls, words[0])
        made.words = words
        return made

    def __eq__(self, other: object) -> bool:
        return other in self.words

    def __hash__(self) -> int:
        return hash(AnyOf)

    def __str__(self) -> str:
        return " or ".join(self.words)


def once(function: F, final: bool = False) -> F:
    """Remember what a function gives for a section: the trials of a plan share sections, and ask the same of each again
    and again. A section is known by being the same object, because 1 and 1.0 are equal and make different keys.
    final: what the function gives it gives back unchanged."""
    known: dict[tuple[Hashable, ...], tuple[Any, Any]] = {}

    @wraps(function)
    def remembered(config: Any, *rest: Hashable) -> Any:
        place = (id(config), *rest)
        if place not in known:
            if len(known) >= KEPT:
                known.clear()
            found = function(config, *rest)
            known[place] = config, found  # the section is kept, so that nothing else gets its id
            if final:
                known[(id(found), *rest)] = found, found
        return known[place][1]

    return remembered  # type: ignore[return-value]


def privacy(
    default: Any,
    later: bool = False,
    read_if: Mapping[str, Any] | None = None,
    stage: str | None = None,
    within: str | None = None,
) -> Any:
    """A field that changes the privacy guarantee. later: added after studies were published; at its default it is in
    no key, so their keys stay. read_if: values that other fields of the section must have for this one to be read.
    stage: as in `result`. within: the interval of a number (wavedp.ranges), such as `(0, 1]`; a field of a number needs
    one."""
    return _field(default, "privacy", within, later=later, read_if=read_if, stage=stage)


def result(
    default: Any,
    later: bool = False,
    before: Any = None,
    read_if: Mapping[str, Any] | None = None,
    stage: str | None = None,
    within: str | None = None,
    read: Callable[[str, Any], Any] | None = None,
) -> Any:
    """A field that changes the numbers a stage produces. later, read_if, within: as in `privacy`. before: the value
    that reproduces studies older than this field and keeps their keys. stage: of a generator's field, the first stage
    that reads it, `private_fit` or `coarse_samples` (None: `pretrain`), so that it moves no key before. read: (name,
    what YAML, JSON or Python gave) -> the field's value, for one that is neither a word nor a number; raises UserError.
    """
    said = {} if before is None else {"before": before}
    later = later or before is not None
    return _field(default, "result", within, later=later, read_if=read_if, stage=stage, read=read, **said)


def performance(default: Any, path: bool = False, within: str | None = None) -> Any:
    """A field that changes only how fast, where or with how much memory a stage runs. path: it names a file or folder,
    whose content, where it matters, is in a key by itself. within: as in `privacy`."""
    return _field(default, "performance", within, path=path)


def _field(default: Any, kind: FieldClass, within: str | None, **about: Any) -> Any:
    return field(default=default, metadata={"class": kind, "within": within and Range.of(within), **about})


def method(kind: str) -> Any:
    """A section that belongs to a method: its fields are those of the chosen method's Config."""
    return field(default_factory=lambda: configure(kind, registry.DEFAULT[kind]), metadata={"method": kind})


def methods(kind: str) -> Any:
    """A field that lists methods of a kind, by default none; each has a section of its own."""
    return field(default=(), metadata={"class": "result", "later": True, "methods": kind})


def configure(kind: str, name: str, /, **values: Any) -> Any:
    """The configuration of a method: `configure("upscaler", "bicubic", low_pass_consistency=True)`.

    Raises UserError for an unknown method, a field that it does not read, or a value of a wrong type or out of range.
    """
    found = registry.find(kind, name)
    unknown = sorted(set(values) - {item.name for item in fields(found.Config)})
    if unknown:
        raise UserError(
            f"{kind}.{unknown[0]} is not read by {kind}={name}: {who_reads(kind, unknown[0], found.Config)}"
        )
    return from_dict(found.Config, {"name": name, **values}, f"{kind}.")


def who_reads(kind: str, name: str, instead: type) -> str:
    """The rest of a sentence about a field that a method does not read: who does, or what this one reads."""
    readers = [other for other, found in registry.each(kind) if name in _names(found.Config)]
    if readers:
        return f"{', '.join(readers)} {'reads' if len(readers) == 1 else 'read'} it."
    own = [item for item in sorted(_names(instead)) if item != "name"]
    return f"it reads {', '.join(own)}." if own else "it has no options."


def fields_of(config: Any, *classes: FieldClass) -> dict[str, Any]:
    """The fields of one section (nested sections excluded) whose class is among `classes`, as plain JSON values.

    Raises TypeError for a field without a class: every field must be in exactly one.
    """
    chosen, values = {}, vars(config)
    for item in fields(config):
        value = values[item.name]
        if dataclasses.is_dataclass(value) or item.default_factory is not MISSING:
            continue
        if item.metadata.get("class") not in get_args(FieldClass):
            raise TypeError(f"{type(config).__name__}.{item.name} is in no field class")
        if item.metadata["class"] in classes:
            chosen[item.name] = _plain(value)
    return chosen


def identity(config: Any) -> dict[str, Any]:
    """The fields that make two sections the same for a stage key: PRIVACY and RESULT, without later ones that say what
    was done before them, or that the others do not let be read."""
    return dict(_identity(config))


@once
def _identity(config: Any) -> dict[str, Any]:
    young = {
        item.name: item.metadata.get("before", item.default) for item in fields(config) if item.metadata.get("later")
    }
    chosen = fields_of(config, "privacy", "result")
    unread = {item.name for item in fields(config) if item.name in young and not is_read(config, item)}
    return {
        name: value
        for name, value in chosen.items()
        if name not in young or (name not in unread and value != _plain(young[name]))
    }


@cache
def first_stages(cls: Any) -> dict[str, str]:
    """{field: stage} of the fields that say which stage is the first to read them, or whose class says it of all that
    say nothing, by a class variable `first_stage`."""
    common = getattr(cls, "first_stage", None)
    return {item.name: found for item in fields(cls) if (found := item.metadata.get("stage") or common)}


def is_read(config: Any, item: dataclasses.Field[Any]) -> bool:
    """True if the other fields of the section let this one be read."""
    values = vars(config)
    return all(values[name] == value for name, value in (item.metadata.get("read_if") or {}).items())


@once
def settled(config: Any, read: frozenset[str] | None = None) -> Any:
    """The section with every PRIVACY and RESULT field at its default that is not read: not among `read` (None: all are
    read), or not by its `read_if`. The section itself if nothing changes."""
    unread = {
        item.name: item.default
        for item in fields(config)
        if item.metadata.get("class") in ("privacy", "result")
        and not ((read is None or item.name in read) and is_read(config, item))
        and getattr(config, item.name) is not item.default
    }
    return dataclasses.replace(config, **unread) if unread else config


def fitting(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """A method's section without the fields that only other methods of its kind read: those of a preset that serves
    several methods, or of a study recorded when all methods of a kind shared one section."""
    own = _names(registry.find(kind, values["name"]).Config)
    others = set().union(*(_names(found.Config) for _, found in registry.each(kind)))
    return {name: value for name, value in values.items() if name in own or name not in others}


def section_of(kind: str, where: str, value: Any) -> Any:
    """The section of a method, from its name, its dict, or its Config itself. Raises UserError naming `where`."""
    if isinstance(value, str):
        return configure(kind, value)
    if dataclasses.is_dataclass(value):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise UserError(f"{where} must be the name of a method, or a section of fields with its name, not {value!r}.")
    return configure(kind, value["name"], **{name: item for name, item in value.items() if name != "name"})


def sections(cls: type) -> list[str]:
    """The names of a config's fields, nested sections included."""
    return [item.name for item in fields(cls)]


def from_dict(cls: type, values: dict[str, Any], section: str = "") -> Any:
    """Build a config from plain nested dicts (what Hydra resolves to), strict about names, types and ranges.

    section: what comes before its fields' names, such as `privacy.`. Raises UserError naming the key for an unknown
    field, a wrong type, a value outside a Literal or a number out of its field's range.
    """
    hints = _hints(cls)
    known = {item.name: item for item in fields(cls)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UserError(f"{cls.__name__} has no field {unknown[0]!r}: it has {', '.join(sorted(known))}.")
    made = {}
    for name, value in values.items():
        about, where = known[name].metadata, f"{section}{name}"
        if "method" in about:
            made[name] = section_of(about["method"], where, value)
        elif "methods" in about:
            made[name] = tuple(section_of(about["methods"], where, item) for item in value or ())
        elif about.get("read"):
            made[name] = about["read"](where, value)
        else:
            made[name] = _convert(where, hints[name], value, about.get("within"))
    return cls(**made)


@once
def check_values(config: Any, section: str = "") -> None:
    """Raises UserError for a value that `from_dict` would refuse, in a config that was built in Python."""
    cls: Any = type(config)
    hints, values = _hints(cls), vars(config)
    for item in fields(config):
        about, value, where = item.metadata, values[item.name], f"{section}{item.name}"
        if "methods" in about:
            for chosen in value:
                check_values(chosen, f"{about['methods']}.")
        elif about.get("read"):
            about["read"](where, value)
        elif dataclasses.is_dataclass(value):
            check_values(value, f"{where}.")
        else:
            _convert(where, hints[item.name], value, about.get("within"))


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dict of every field; `from_dict(type(config), to_dict(config)) == config`."""
    return dataclasses.asdict(config)


def differing(config: Any) -> dict[str, Any]:
    """The name of a section and its fields that are not at their defaults, as JSON values that `from_dict` reads."""
    values = to_dict(config)
    return {
        item.name: without_infinity(values[item.name])
        for item in fields(config)
        if item.name == "name" or getattr(config, item.name) != item.default
    }


def paths(cls: type) -> list[str]:
    """The fields that name files or folders."""
    return [item.name for item in fields(cls) if item.metadata.get("path")]


def without_infinity(value: Any) -> Any:
    """The value for JSON and YAML, which have no infinity and no tuple: "inf", which `from_dict` reads, and a list."""
    if isinstance(value, dict):
        return {name: without_infinity(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_infinity(item) for item in value]
    return "inf" if isinstance(value, float) and math.isinf(value) else value


_hints = lru_cache(maxsize=None)(get_type_hints)  # a plan of 180 trials asks 1,620 times


def _names(cls: type) -> set[str]:
    return {item.name for item in fields(cls)}


def _plain(value: Any) -> Any:
    """The value in JSON, which has no infinity and no tuple; the sections of listed methods as their identities."""
    if isinstance(value, tuple):
        return [identity(item) if dataclasses.is_dataclass(item) else _plain(item) for item in value]
    return "inf" if isinstance(value, float) and math.isinf(value) else value


def _convert(where: str, hint: Any, value: Any, within: Range | None) -> Any:
    options = get_args(hint)
    if type(None) in options:
        if value is None:
            return None
        hint = next(option for option in options if option is not type(None))
    words = [word for option in get_args(hint) if get_origin(option) is Literal for word in get_args(option)]
    if words:  # in place of a number, such as `int | Literal["auto"]`
        if value in words:
            return value
        hint = next(option for option in get_args(hint) if get_origin(option) is not Literal)
        if isinstance(value, str):
            raise UserError(f"{where}={value!r} is not offered: use {' or '.join(words)}, or give a number.")
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        if not isinstance(value, dict):
            raise UserError(f"{where} must be a section of fields, not {value!r}.")
        return from_dict(hint, value, f"{where}.")  # type: ignore[arg-type]
    if getattr(hint, "__origin__", None) is Literal:
        if value not in get_args(hint):
            raise UserError(f"{where}={value!r} is not offered: use one of {', '.join(map(str, get_args(hint)))}.")
        return value
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return _in_range(where, float(value), within)
        except (ValueError, OverflowError):
            raise UserError(f"{where}={value!r} is not a number: give a number or `inf`.") from None
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return _in_range(where, value, within)
    kind = get_origin(hint) or hint
    if not isinstance(kind, type) or (isinstance(value, kind) and hint is not int):
        return value
    raise UserError(f"{where}={value!r} must be {hint.__name__}, not {type(value).__name__}.")


def _in_range(where: str, value: float, within: Range | None) -> float:
    """The value. Raises UserError for one out of range; a field that says no range takes finite numbers."""
    allowed = within or FINITE
    if value not in allowed:
        raise UserError(f"{where}={value} must be {allowed.words(value)}.")
    return value

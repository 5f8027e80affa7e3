"""A setting typed on the command line for something that the sweep varies: it takes the place of the axis.

    typed                        the sweep has                  what runs
    privacy.epsilon=2, epsilon=2 grid or search over epsilon    ε = 2 alone
    upscaler=lanczos             grid or search over upscaler   lanczos alone
    seed=5, sampling.seed=5      seeds, sampling_seeds          this seed alone
    level=1                      level zipped with upscaler     refused: the sweep says which upscaler goes with it
    privacy.views=2              a case that sets it            2 in the other cases; refused where no other is left
    privacy.epsilon=2            a case that sets epsilon       refused: a case may not release more than was typed
    seed=5                       random_k                       refused: every run has a seed of its own

So nothing that was typed is ignored, and study.yaml records the axes as they ran. A value that a preset or the sweep's
own file sets is not typed: axes vary it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sweeps.overrides import SEEDS, Override, typed
from sweeps.plan import ALIASES
from wavedp.config import METHODS
from wavedp.errors import UserError

SPENT = ("privacy.epsilon", "privacy.delta")


def field_of(axis: str) -> str:
    """The one name of what an axis or a setting varies."""
    name = ALIASES.get(axis, axis)
    kind, _, last = name.partition(".")
    return kind if kind in METHODS and last == "name" else name


def with_typed_values(sweep: dict[str, Any], overrides: Sequence[str], values: dict[str, Any]) -> list[str]:
    """Put what was typed in the place of the axes that vary it, in `sweep` itself. values: the resolved configuration.

    Returns a sentence for each axis that was replaced. Raises UserError where a setting cannot take an axis's place.
    """
    settings = list({setting.name: setting for setting in typed(overrides)}.values())  # of two alike the last holds
    axes = {setting.name: setting for setting in settings if setting.name.startswith("sweep.")}
    said: list[str] = []
    for setting in settings:
        name = field_of(setting.name)
        _refuse_cases(sweep, setting, name)
        for kind, place, axis in _axes_of(sweep, name):
            also = axes.get(kind if axis is None else f"{kind}.{axis}")
            if also:
                raise UserError(f"{setting.text} and {also.text} say two things of {name}: keep one of them.")
            if kind == "sweep.zip":
                others = ", ".join(str(other) for other in place if other != axis)
                raise UserError(
                    f"{setting.text} is one value of an axis that the sweep walks together with {others}: write "
                    f"sweep.zip.{axis}=[…] and as many values of each of these, or take them away with ~sweep.zip."
                )
            value = _value(setting, name, values)
            if axis is None:
                key = kind.rpartition(".")[2]
                before, place[key] = place.get(key), value if kind == "sweep.search.seed" else [value]
            else:
                before, place[axis] = place[axis], [value]
            if before not in (value, [value]):
                said.append(f"{setting.text} takes the place of {kind}{f'.{axis}' if axis else ''}={_shown(before)}")
    return said


def _axes_of(sweep: dict[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any], str | None]]:
    """(place in the sweep, mapping that holds it, axis or None for a list of its own) of what varies a field."""
    search: dict[str, Any] = sweep.get("search") or {}
    places = {"sweep.grid": sweep.get("grid"), "sweep.zip": sweep.get("zip"), "sweep.search.space": search.get("space")}
    for kind, axes in places.items():
        for axis in axes or {}:
            if axes and field_of(axis) == name:
                yield kind, axes, axis
    if name not in SEEDS:
        return
    if search.get("random_k") and name == "seed":
        raise UserError("seed is not one value with random_k, where every run has a seed of its own: leave it out.")
    if search and name == "seed":
        yield "sweep.search.seed", search, None
    elif name == "seed" or (sweep.get(SEEDS[name]) or [0]) != [0]:
        yield f"sweep.{SEEDS[name]}", sweep, None


def _refuse_cases(sweep: dict[str, Any], setting: Override, name: str) -> None:
    """Raises UserError where no case is left that reads the setting, or where one would spend more than it says."""
    cases = sweep.get("cases") or {}
    setting_it = [case for case, changes in cases.items() if name in map(field_of, changes or {})]
    if setting_it and (len(setting_it) == len(cases) or name in SPENT):
        which = "every case" if len(setting_it) == len(cases) else f"the case {setting_it[0]!r}"
        raise UserError(f"{setting.text} is set by {which} of the sweep: leave it out, or write other sweep.cases.")


def _value(setting: Override, name: str, values: dict[str, Any]) -> Any:
    """What was typed, with its interpolations resolved; of a group, the option."""
    if "." not in setting.name and isinstance(values.get(name), dict):
        return setting.value
    found: Any = values
    for part in setting.name.split("."):
        found = found[part]
    return found


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return str(value)

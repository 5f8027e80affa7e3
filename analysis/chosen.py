"""Which studies a page can show, by which metric, and which of them may share an axis; a sentence for all others."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.comparable import differences, family, of_study
from analysis.load import Study, load
from wavedp.errors import UserError


def read(folders: Sequence[Path]) -> tuple[list[Study], list[str]]:
    """The studies that can be read, each folder once, and one sentence for each that can't or of which a line was left
    out. Raises UserError if none can."""
    studies: list[Study] = []
    said: list[str] = []
    for folder in {folder.resolve(): folder for folder in reversed(folders)}.values():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            try:
                studies.append(load(folder))
            except UserError as error:
                said.append(f"{folder} is left out: {error}")
        said += [str(warning.message) for warning in caught]
    if not studies:
        raise UserError(f"nothing can be compared: {' '.join(said)}")
    return studies[::-1], said[::-1]


def names_of(studies: Sequence[Study]) -> dict[Path, str]:
    """{folder: what to call its study}: its name, its folder's if several have that, or else the whole path."""
    for say in (lambda s: s.name, lambda s: s.folder.name, lambda s: str(s.folder)):
        named = {study.folder: say(study) for study in studies}
        if len(set(named.values())) == len(named):
            return named
    return named


Chosen = tuple[Study, str]
"""A study and the metric that it is shown by."""


def chosen_of(studies: Sequence[Study], names: dict[Path, str], metric: str | None) -> tuple[list[Chosen], list[str]]:
    """The metric of each study, and sentences about those that have none."""
    chosen: list[Chosen] = []
    left_out: list[str] = []
    wanted = metric and family(metric)
    for study in studies:
        if not study.metrics:
            left_out.append(f"{names[study.folder]} is left out: none of its {len(study.trials)} trials has finished.")
            continue
        if metric is None:
            primary = study.meta.get("primary_metric") or study.metrics[0]
            wanted = wanted or family(primary)
            preferred = [*(name for _, name in chosen[:1]), primary, *study.metrics]
            found = next((name for name in preferred if name in study.metrics and family(name) == wanted), None)
        else:
            found = metric if metric in study.metrics else None
        if found is None:
            left_out.append(
                f"{names[study.folder]} is left out: it has no {metric or wanted}, only {', '.join(study.metrics)}."
            )
        else:
            chosen.append((study, found))
    if not chosen:
        raise UserError(f"nothing can be compared: {' '.join(left_out)}")
    return chosen, left_out


def groups_of(chosen: Sequence[Chosen], names: dict[Path, str]) -> tuple[list[list[Chosen]], list[str]]:
    """Studies that may share an axis, in order of first appearance, and why the others may not."""
    groups: list[list[Chosen]] = []
    apart = []
    for study, metric in chosen:
        here = of_study(study, metric)
        against = [(group, differences(here, of_study(*group[0]))) for group in groups]
        home = next((group for group, found in against if not found), None)
        if home is not None:
            home.append((study, metric))
            continue
        apart += [
            f"{names[study.folder]} and {names[group[0][0].folder]} may not share an axis: "
            f"{'; '.join(each.sentence for each in found)}."
            for group, found in against
        ]
        groups.append([(study, metric)])
    return groups, apart


@dataclass(frozen=True)
class Shared:
    """Studies on one axis. names: what to call them; said: why others are not here, a sentence each."""

    studies: list[Study]
    names: list[str]
    metric: str
    lower_is_better: bool
    said: list[str]


def on_one_axis(studies: Sequence[Study], metric: str | None = None) -> Shared:
    """The first study with the metric (None: its primary one) and all that may share its axis. Raises UserError if none
    has a finished trial with it."""
    names = names_of(studies)
    chosen, left_out = chosen_of(studies, names, metric)
    (first, *_), apart = groups_of(chosen, names)
    metric = first[0][1]
    kept = [study for study, _ in first]
    return Shared(
        kept, [names[study.folder] for study in kept], metric, kept[0].lower_is_better(metric), [*left_out, *apart]
    )

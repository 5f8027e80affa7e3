"""Whether two results may share an axis, and in words why not.

A result's `Conditions` are what its number depends on beside the method: the private images, how the metric was made,
and how its ε is to be read. `differences(theirs, here)` names those that differ. Figures and tables draw a published
number hollow, and put two studies into tables of their own, unless there is no difference.

    condition     two results differ in it when
    data          the sensitive images are others: another data set, another folder, fewer records
    resolution    images have another size: an Inception network sees another blur
    split         other records were private: another N behind ε, and other images
    metric        another family: FID against accuracy
    measured by   another feature network, resize or precision; for accuracy another classifier's protocol
    generated     another number of generated images: FID and KID of fewer images are larger, accuracy lower
    reference     another split, or part of one, to compare with or to test on
    classifiers   the maximum of several against their mean, or against one
    δ             by more than 1 %
    accountant    another bound on ε for the same noise
    neighbours    add-or-remove-one against replace-one
    ε             of one release against that of a whole study

What a source does not state differs from everything, and is said to be not stated. A condition that does not apply (the
δ of a study without a private release) differs from nothing. Rows of one study are never held against each other: its
axes are what it varies on purpose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from analysis.captions import ACCURACY, COUNTS, PROTOCOL, RESIZING, delta_text
from analysis.literature import PUBLISHED, Paper, Table, papers
from analysis.load import Study, Trial
from analysis.recorded import configuration

UNSTATED = "not stated"
SAME_DELTA = 0.01  # relative; DPImageBench's and our δ of one data set differ by 10 %
UNKNOWN_PART = "unstated"  # in metrics' names in analysis/published

Values = frozenset[str]
"""What a condition is in all rows of a result; empty if it does not apply."""

WHY = {
    "data": "other images",
    "resolution": "the feature network sees another blur",
    "split": "other records were private, of another number N",
    "metric": "another quantity",
    "measured by": "the resize, precision and network behind a score change its value",
    "generated": "distances fall and accuracies rise with the number of generated images",
    "reference": "scores depend on which real images they are measured against",
    "classifiers": "the best of several classifiers is above their mean",
    "δ": "a smaller δ needs more noise at the same ε",
    "accountant": "accountants give other ε for the same noise",
    "neighbours": "the two relations give other ε for the same noise",
    "ε": "all releases of a study cost more than one of them",
}


@dataclass(frozen=True)
class Conditions:
    """What numbers depend on beside the method, as sets of texts."""

    data: Values
    resolution: Values
    split: Values
    metric: Values
    measured: Values
    generated: Values
    reference: Values
    classifiers: Values
    delta: Values
    accountant: Values
    neighbours: Values
    price: Values


NAMES = {"measured": "measured by", "delta": "δ", "price": "ε"}  # of conditions that are not called as their field


@dataclass(frozen=True)
class Difference:
    """A condition that keeps two results apart."""

    name: str
    theirs: str
    here: str

    @property
    def short(self) -> str:
        """`resolution 32×32 (here 28×28)`."""
        return f"{self.name} {self.theirs} (here {self.here})"

    @property
    def sentence(self) -> str:
        """`resolution 32×32 against 28×28 (the feature network sees another blur)`."""
        return f"{self.name} {self.theirs} against {self.here} ({WHY[self.name]})"


def differences(theirs: Conditions, here: Conditions) -> list[Difference]:
    """Why `theirs` may not be drawn on the axis of `here`; nothing if they may share it."""
    found = []
    for item in fields(Conditions):
        name = NAMES.get(item.name, item.name)
        one, other = getattr(theirs, item.name), getattr(here, item.name)
        if one and other and (UNSTATED in one | other or not _equal(name, one, other)):
            found.append(Difference(name, _listed(one), _listed(other)))
    return found


def _equal(name: str, one: Values, other: Values) -> bool:
    if name != "δ":
        return one == other
    near = [[math.isclose(float(a), float(b), rel_tol=SAME_DELTA) for b in other] for a in one]
    return all(map(any, near)) and all(map(any, zip(*near, strict=True)))


def _listed(values: Values) -> str:
    return ", ".join(sorted(values))


def of_study(study: Study, metric: str) -> Conditions:
    """The conditions of a study's finished trials that have the metric. ε is each trial's own."""
    trials = [trial for trial in study.done if metric in trial.metrics]
    data = [_data(study, trial) for trial in trials]
    private = [line for line in study.ledger if line["kind"] != "nonprivate"]
    return Conditions(
        **_metric(metric),
        data=frozenset(map(_images, data)),
        resolution=frozenset(_side(each.get("size")) for each in data),
        split=frozenset(str(each.get("split") or UNSTATED) for each in data),
        delta=frozenset(delta_text(trial.delta) for trial in trials if trial.delta) if private else frozenset(),
        accountant=frozenset(str(line["accountant"]) for line in private),
        neighbours=frozenset(str(line["relation"]).replace("_", " ") for line in private),
        price=frozenset({"one release"}) if private else frozenset(),
    )


def of_table(table: Table) -> Conditions:
    """The conditions of published numbers."""
    protocol = table.protocol
    found = _metric(table.metric)
    if table.metric.startswith("acc"):
        found["classifiers"] = frozenset({protocol.classifiers or UNSTATED})
    return Conditions(
        **found,
        data=frozenset({table.dataset or UNSTATED}),
        resolution=frozenset({_side(table.resolution)}),
        split=frozenset({protocol.split or UNSTATED}),
        delta=frozenset({UNSTATED if protocol.delta is None else delta_text(protocol.delta)}),
        accountant=frozenset({protocol.accountant or UNSTATED}),
        neighbours=frozenset({(protocol.relation or UNSTATED).replace("_", " ")}),
        price=frozenset({protocol.price or UNSTATED}),
    )


def family(metric: str) -> str:
    """The first word of a metric's name: fid, kid, acc."""
    return metric.split("_")[0].split("-")[0]


def _metric(name: str) -> dict[str, Values]:
    """The conditions that a metric's name tells, such as fid_clean-bf16_1k_test2k; parts that are missing from the
    right are not stated."""
    counts = COUNTS.search(name)
    how = name[: counts.start()] if counts else name
    generated, split, part, _ = counts.groups() if counts else (None, None, None, None)
    return {
        "metric": frozenset({family(name)}),
        "measured": frozenset({_measured(how.removeprefix(family(name)).lstrip("_-"))}),
        "generated": frozenset({_part(generated)}),
        "reference": frozenset({f"{part or 'all'} of {split}" if split else UNSTATED}),
        "classifiers": frozenset({_classifiers(name)} if family(name) == "acc" else ()),
    }


def _part(text: str | None) -> str:
    return UNSTATED if text in (None, "", UNKNOWN_PART) else str(text)


def _measured(how: str) -> str:
    """The middle of a metric's name in words: `clean-bf16` is clean-fid's resizing in bfloat16."""
    mode = how.removesuffix("-bf16")
    return _part(RESIZING.get(mode, mode)) + (" in bfloat16" if how != mode else "")


def _classifiers(name: str) -> str:
    """Of our own accuracies: one classifier, or the mean of a protocol's three."""
    if match := PROTOCOL.fullmatch(name):
        return "one" if match[2] else "mean of three"
    return "one" if ACCURACY.fullmatch(name) else UNSTATED


def _data(study: Study, trial: Trial) -> dict[str, Any]:
    """A trial's settings of the sensitive images: the study's own where its row does not tell."""
    config = configuration(study, trial)
    return vars(config.data) if config is not None else (study.meta.get("config") or {}).get("data") or {}


def _images(data: dict[str, Any]) -> str:
    """The sensitive images by name, with what makes them a part of that set or a folder of one's own."""
    limit, path = data.get("limit"), data.get("path")
    told = [f"{limit:,} records"] if isinstance(limit, int) else []
    return ", ".join([str(data.get("name") or UNSTATED), *([str(path)] if path else []), *told])


def _side(size: Any) -> str:
    return UNSTATED if size is None else f"{size}×{size}"


# --- published numbers beside a study's


@dataclass(frozen=True)
class Published:
    """Published numbers of one source and protocol beside a study. methods: {method: {ε: value}}; classifiers: how an
    accuracy sums up several; differences: of its conditions from the study's, in words; caveats: of its numbers."""

    name: str
    source: str
    metric: str
    classifiers: str | None
    methods: dict[str, dict[float, float]]
    differences: list[str]
    caveats: list[str]

    @property
    def comparable(self) -> bool:
        return not self.differences


def published(study: Study, metric: str, folder: Path = PUBLISHED) -> list[Published]:
    """Published numbers on the study's data set in the family of `metric`: tables that compare methods, for ablations
    vary something else. Tables of one source and protocol are one entry; a method of which they print different numbers
    for one ε is in an entry of its own."""
    here = of_study(study, metric)
    found: list[Published] = []
    for paper in papers(folder):
        for table in paper.tables:
            same_data = table.dataset in {data.split(",")[0] for data in here.data}
            if same_data and not table.ablation and family(table.metric) == family(metric):
                _add(found, _beside(paper, table, here), table.source)
    return found


def _add(found: list[Published], new: Published, source: str) -> None:
    """Put the numbers into the entry of their source and protocol, or into one of their own."""

    def protocol(each: Published) -> tuple[object, ...]:
        return each.name, each.metric, each.classifiers, each.differences

    place = next((index for index, each in enumerate(found) if protocol(each) == protocol(new)), None)
    if place is None:
        found.append(new)
        return
    home = found[place]
    agreeing = {
        method: row
        for method, row in new.methods.items()
        if all(home.methods.get(method, {}).get(epsilon, value) == value for epsilon, value in row.items())
    }
    joined = {
        method: dict(sorted({**home.methods.get(method, {}), **agreeing.get(method, {})}.items()))
        for method in home.methods | agreeing
    }
    if agreeing:
        caveats = list(dict.fromkeys([*home.caveats, *new.caveats]))
        found[place] = replace(home, source=f"{home.source}, {source}", methods=joined, caveats=caveats)
    others = {method: row for method, row in new.methods.items() if method not in agreeing}
    if others:
        found.append(replace(new, methods=others))


def _beside(paper: Paper, table: Table, here: Conditions) -> Published:
    doubts = [f"{method} at ε = {epsilon:g}: {says}" for (method, epsilon), says in table.doubts.items()]
    return Published(
        name=paper.name,
        source=paper.source(table),
        metric=table.metric,
        classifiers=table.protocol.classifiers,
        methods=table.methods,
        differences=[each.short for each in differences(of_table(table), here)],
        caveats=[*(caveat.rstrip(".") for caveat in table.caveats), *doubts],
    )


def published_sentences(every: list[Published]) -> list[str]:
    """For captions: where published numbers are from and why they are hollow, then what is to be known of them."""
    groups: dict[tuple[str, ...], list[Published]] = {}
    for each in every:
        groups.setdefault(tuple(each.differences), []).append(each)
    found = []
    for reasons, alike in groups.items():
        drawn = f"hollow, not comparable: {'; '.join(reasons)}" if reasons else "same protocol"
        found.append(f"{'; '.join(dict.fromkeys(f'{each.name} ({each.source})' for each in alike))}: {drawn}.")
    caveats = dict.fromkeys(f"{each.name}: {caveat}." for each in every for caveat in each.caveats)
    return [*found, *caveats]

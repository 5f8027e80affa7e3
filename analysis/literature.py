"""Results published by other papers: `papers() -> list[Paper]`, read from analysis/published/*.yaml.

A file holds one source. It looks like this, and anything else is refused with the place and the reason:

    name: DPImageBench                       what figures call it
    paper: Gong et al., …, arXiv 2503.14681v3
    repository: 2019ChenGong/DPImageBench@565f8d7    or null
    evidence: repository                     where the numbers were read: paper, repository, log, page or digest (weak)
    notes: [text, …]                         of the whole source, and statements without data set, ε, metric or value
    tables:
    - dataset: fashion_mnist                 as data.name; null if the source does not say
      resolution: 28                         pixels, or null
      metric: fid_pytorch_50k_train          as wavedp names metrics; from the right, what is not known is left away
                                             (`fid`) or called unstated (`fid_unstated_5k_test`)
      unit: percent                          or share, the default: a percentage is divided by 100
      protocol: {split: …, delta: …, accountant: …, relation: …, price: …, classifiers: …, seeds: …}   see Protocol
      source: README §7                      table, script or log
      caveats: [text, …]                     of all numbers of the table
      methods: {DPDM: {1: 28.8, 10: 17.1}}   {method: {ε: value}}, as printed
      doubts: [{method: DPDM, epsilon: 1, says: …}]    caveats of one number
      ablation: true                         rows vary something else than the method: figures leave them out

YAML's anchors and merge keys may be used; a key that occurs twice in one mapping is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from wavedp.errors import UserError, nearest

PUBLISHED = Path(__file__).parent / "published"

Evidence = Literal["paper", "repository", "log", "page", "digest"]
Price = Literal["one release", "whole study"]
Classifiers = Literal["one", "mean of three", "maximum of three"]


@dataclass(frozen=True)
class Protocol:
    """How numbers were made; None where the source does not say.

    split: which records were private, as data.split. price: whether ε is of the one release behind a number or of all
    releases that its paper made. classifiers: how an accuracy sums up several. seeds: private fits behind a number.
    """

    split: str | None
    delta: float | None
    accountant: str | None
    relation: str | None
    price: Price | None
    classifiers: Classifiers | None
    seeds: int | None


@dataclass(frozen=True)
class Table:
    """Numbers of one metric on one data set by one protocol. methods: {method: {ε: value}}, accuracies as shares.
    doubts: {(method, ε): caveat}."""

    dataset: str | None
    resolution: int | None
    metric: str
    protocol: Protocol
    source: str
    caveats: tuple[str, ...]
    methods: dict[str, dict[float, float]]
    doubts: dict[tuple[str, float], str]
    ablation: bool = False


@dataclass(frozen=True)
class Paper:
    """The content of a file."""

    name: str
    paper: str
    repository: str | None
    evidence: Evidence
    notes: tuple[str, ...]
    tables: tuple[Table, ...]

    def source(self, table: Table) -> str:
        """Where a table's numbers are from, for captions."""
        where = f"; {self.repository}" if self.repository else ""
        return f"{self.paper}{where}: {table.source}" + (" (from a digest)" if self.evidence == "digest" else "")


@dataclass(frozen=True)
class Result:
    """One published number with all that is known of it."""

    paper: str
    method: str
    dataset: str | None
    resolution: int | None
    epsilon: float
    value: float
    metric: str
    protocol: Protocol
    source: str
    evidence: Evidence
    caveats: tuple[str, ...]


def papers(folder: Path = PUBLISHED) -> list[Paper]:
    """Every file of the folder, by name. Raises UserError, one sentence, for a file that is not as the module says."""
    return [read_paper(path) for path in sorted(folder.glob("*.yaml"))]


def results(every: list[Paper]) -> list[Result]:
    """Every number by itself."""
    return [
        Result(
            paper.name, method, table.dataset, table.resolution, epsilon, value, table.metric, table.protocol,
            paper.source(table), paper.evidence,
            (*table.caveats, *([table.doubts[method, epsilon]] if (method, epsilon) in table.doubts else [])),
        )
        for paper in every
        for table in paper.tables
        for method, row in table.methods.items()
        for epsilon, value in row.items()
    ]  # fmt: skip


class _Refused(Exception):
    """What is wrong with a file; `read_paper` adds which."""


def read_paper(path: Path) -> Paper:
    """Read and check one file."""
    try:
        content = yaml.load(path.read_bytes().decode(), Loader=_Loader)
        return _paper(content)
    except UnicodeDecodeError:
        reason = "it is no UTF-8"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = f"{getattr(error, 'problem', None) or 'it is no YAML'}" + (f" in line {mark.line + 1}" if mark else "")
    except _Refused as error:
        reason = str(error)
    raise UserError(f"{path} can't be read, for {reason}: mend the file, whose form analysis/literature.py describes.")


class _Loader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which YAML keeps the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = []
        for key, _ in node.value:  # before merge keys are resolved: those may be overridden
            name = self.construct_object(key, deep=True) if key.tag != "tag:yaml.org,2002:merge" else "<<"
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} occurs twice", key.start_mark)
            seen.append(name)
        return super().construct_mapping(node, deep)


def _paper(content: Any) -> Paper:
    values = _mapping(content, "the file", needed=[item.name for item in fields(Paper)])
    return Paper(
        name=_text(values["name"], "name"),
        paper=_text(values["paper"], "paper"),
        repository=None if values["repository"] is None else _text(values["repository"], "repository"),
        evidence=_choice(values["evidence"], get_args(Evidence), "evidence"),
        notes=_texts(values["notes"], "notes"),
        tables=tuple(_table(each, f"tables[{index}]") for index, each in enumerate(_list(values["tables"], "tables"))),
    )


def _table(content: Any, place: str) -> Table:
    needed = ("dataset", "resolution", "metric", "protocol", "source", "caveats", "methods")
    values = _mapping(content, place, needed, ("unit", "doubts", "ablation"))
    metric = _text(values["metric"], f"{place}.metric")
    unit = _choice(values.get("unit", "share"), ("share", "percent"), f"{place}.unit")
    scale = {"share": 1.0, "percent": 100.0}[unit]
    methods = {
        _text(method, f"{place}.methods"): _row(row, scale, metric, f"{place}.methods.{method}")
        for method, row in _mapping(values["methods"], f"{place}.methods").items()
    }
    if not methods:
        raise _Refused(f"{place}.methods is empty")
    resolution = values["resolution"]
    if resolution is not None and (not isinstance(resolution, int) or isinstance(resolution, bool) or resolution < 1):
        raise _Refused(f"{place}.resolution is {resolution!r}, not a number of pixels or null")
    return Table(
        dataset=None if values["dataset"] is None else _text(values["dataset"], f"{place}.dataset"),
        resolution=resolution,
        metric=metric,
        protocol=_protocol(values["protocol"], metric, f"{place}.protocol"),
        source=_text(values["source"], f"{place}.source"),
        caveats=_texts(values["caveats"], f"{place}.caveats"),
        methods=methods,
        doubts=_doubts(values.get("doubts", []), methods, f"{place}.doubts"),
        ablation=_choice(values.get("ablation", False), (False, True), f"{place}.ablation"),
    )


def _protocol(content: Any, metric: str, place: str) -> Protocol:
    values = _mapping(content, place, needed=[item.name for item in fields(Protocol)])
    delta, seeds = values["delta"], values["seeds"]
    if delta is not None and not 0 < _number(delta, f"{place}.delta") < 1:
        raise _Refused(f"{place}.delta is {delta!r}, which is not between 0 and 1")
    if seeds is not None and (not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 1):
        raise _Refused(f"{place}.seeds is {seeds!r}, not a number of private fits or null")
    if values["classifiers"] is not None and not metric.startswith("acc"):
        raise _Refused(f"{place}.classifiers is {values['classifiers']!r}, and {metric} is no accuracy")
    told: dict[str, Any] = {
        name: None if values[name] is None else _text(values[name], f"{place}.{name}")
        for name in ("split", "accountant", "relation")
    }
    told |= {
        name: None if values[name] is None else _choice(values[name], allowed, f"{place}.{name}")
        for name, allowed in (("price", get_args(Price)), ("classifiers", get_args(Classifiers)))
    }
    return Protocol(delta=None if delta is None else float(delta), seeds=seeds, **told)


def _row(content: Any, scale: float, metric: str, place: str) -> dict[float, float]:
    found = {}
    for epsilon, value in _mapping(content, place).items():
        budget = _number(epsilon, f"an ε of {place}")
        score = _number(value, f"{place} at ε = {epsilon}")
        if math.isnan(budget) or budget < 0:
            raise _Refused(f"{place} has ε = {epsilon!r}, which is negative or no number")
        score = round(score / scale, 12) if math.isfinite(score) else score  # 85.4 % is 0.854, not 0.8540000000000001
        if not math.isfinite(score) or score < 0 or (metric.startswith("acc") and score > 1):
            raise _Refused(f"{place} at ε = {epsilon} is {value!r}, which no {metric} can be")
        found[budget] = score
    if not found:
        raise _Refused(f"{place} is empty")
    return found


def _doubts(content: Any, methods: dict[str, dict[float, float]], place: str) -> dict[tuple[str, float], str]:
    found = {}
    for index, each in enumerate(_list(content, place)):
        here = f"{place}[{index}]"
        values = _mapping(each, here, ("method", "epsilon", "says"))
        method, epsilon = values["method"], _number(values["epsilon"], f"{here}.epsilon")
        if epsilon not in methods.get(method, {}):
            raise _Refused(f"{here} is about {method} at ε = {epsilon:g}, which the table does not have")
        found[method, epsilon] = _text(values["says"], f"{here}.says")
    return found


def _mapping(value: Any, place: str, needed: Any = None, allowed: Any = ()) -> dict[Any, Any]:
    """needed: fields that must be there, of which with `allowed` there are no others; None: any."""
    if not isinstance(value, dict):
        raise _Refused(f"{place} is {_shown(value)}, not a mapping")
    if needed is not None:
        for name in value:
            if name not in (*needed, *allowed):
                known = nearest(str(name), (*needed, *allowed))
                raise _Refused(f"{place} has the unknown field {name!r} ({known.removesuffix('.')})")
        for name in needed:
            if name not in value:
                raise _Refused(f"{place} has no {name}")
    return value


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise _Refused(f"{place} is {_shown(value)}, not a list")
    return value


def _texts(value: Any, place: str) -> tuple[str, ...]:
    return tuple(_text(each, place) for each in _list(value, place))


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Refused(f"{place} holds {_shown(value)}, not a text")
    return value.strip()


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Refused(f"{place} is {_shown(value)}, not a number")
    return float(value)


def _choice(value: Any, allowed: tuple[Any, ...], place: str) -> Any:
    if not any(value is each or (isinstance(value, str) and value == each) for each in allowed):  # 1 == True
        raise _Refused(f"{place} is {_shown(value)}, not one of {', '.join(map(str, allowed))}")
    return value


def _shown(value: Any) -> str:
    """A value, short enough for a sentence."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

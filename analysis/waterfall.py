"""What bounds the picture: each loss of the chain on top of the one before.

    python -m analysis.waterfall runs/ceilings runs/eps_grid [more studies] -o runs/waterfall [--metric NAME]

    floor         real images against the split                       generator=real, level 0, no tokens
    + detail      real coarse images → upscaler                       generator=real
    + tokens      real coarse images → tokens → back → upscaler       generator=real generator.tokens=true
    + generator   what a generator without privacy draws → upscaler   ε = ∞
    + privacy     the same at each finite ε, from the largest down

`waterfall_data(studies)` finds the steps by the configuration of rows: same data, level, upscaler, tokens and metric,
and for the last two the same generator. One study may have all of them, or several studies some each.

**The order matters.** Losses do not add up: an upscaler makes texture of what tokens round off, so that quantisation
costs more before it than by itself. A step's size is what its loss adds to those that stand before it. Each bar ends at
what would be left if every later loss were removed: however good tokens and generator become, the picture stays at
`+ detail`, and however little privacy costs, at `+ generator`.

**A step the other way** (a lower FID, a higher accuracy) is no negative loss. Either it is within the noise of
replicates, as the intervals tell, or a later stage hides an earlier loss: samples drawn at a temperature below 1 can be
smoother than real images through the same tokens, which suits an upscaler. A step that is missing leaves its loss in
the next one.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, get_args

from analysis import captions, recorded
from analysis.load import Study, Trial, load, together
from analysis.price import composed, releases
from analysis.recorded import Flat, configuration, key
from analysis.replicates import Interval, Point, epsilon_text
from analysis.waterfall_rows import Kind, Row, rows_of
from wavedp.command import command
from wavedp.errors import UserError

FAMILIES = ("fid", "acc")  # metrics that are drawn unless one is asked for
ORDER = (
    "Each step adds one loss to those before it; in another order they would have other sizes. A step the other way is "
    "no negative loss: it is within the noise of replicates, or a later stage hides an earlier loss."
)


@dataclass(frozen=True)
class Step:
    """One bar. change: from the step before, None for the first. epsilon: of a generator's step."""

    kind: Kind
    value: Interval
    change: float | None = None
    epsilon: float | None = None

    @property
    def label(self) -> str:
        """As under the bar: `+ tokens`, `ε = 3`."""
        if self.kind == "privacy":
            return f"ε = {epsilon_text(self.epsilon or 0.0)}"
        return {"floor": "floor", "generator": "+ generator"}.get(self.kind, f"+ {self.kind}")


@dataclass(frozen=True)
class Waterfall:
    """The steps of one chain. tokenizer, upscaler, generator: what to call its parts; empty where there is none, or (of
    generators and data) one alone. side: of its coarse image in pixels. missing: steps that no row has."""

    level: int
    side: int
    tokenizer: str
    upscaler: str
    generator: str
    data: str
    steps: tuple[Step, ...]
    missing: tuple[Kind, ...]

    @property
    def parts(self) -> str:
        """`scalar → realsr_df2k_x4`."""
        named = " → ".join(filter(None, (self.tokenizer, self.upscaler))) or "whole images"
        return ", ".join(filter(None, (self.data, named, self.generator)))


@dataclass(frozen=True)
class WaterfallData:
    """Contents of the figure: the chains that have `metric`, coarser levels last."""

    title: str
    metric: str
    lower_is_better: bool
    chains: list[Waterfall]
    caption: str
    provenance: dict[str, Any]


def waterfall_metrics(studies: Sequence[Study]) -> list[str]:
    """The FIDs and accuracies that have a waterfall in these studies, FIDs first."""
    rows = rows_of(studies)
    names = dict.fromkeys(name for row in rows for name in row.trial.metrics if name.split("_")[0] in FAMILIES)
    first = sorted(names, key=lambda name: FAMILIES.index(name.split("_")[0]))
    return [name for name in first if _chains(rows, name)]


def waterfall_data(studies: Sequence[Study], metric: str | None = None) -> WaterfallData:
    """Steps, changes and intervals of every chain that has `metric` (None: the first of `waterfall_metrics`).

    A chain is drawn if it has the step of tokens, or that of detail and a generator's. Raises UserError if none is.
    """
    chosen = metric or next(iter(waterfall_metrics(studies)), None)
    rows = rows_of(studies)
    chains = _chains(rows, chosen) if chosen else []
    if chosen is None or not chains:
        named = ", ".join(study.name for study in studies)
        what = "" if metric is None else f" by {metric}"
        raise UserError(
            f"no chain of {named} can be taken apart{what}: a waterfall needs finished trials of generator=real with "
            "the same data, level, tokenizer, upscaler and metric, such as those of +sweep=ceilings."
        )
    both = together(studies)
    config = rows[0].config
    size = f"{config.data.size}×{config.data.size}"
    unknown = sum(configuration(study, trial) is None for study in studies for trial in study.done)
    return WaterfallData(
        title=f"<b>What bounds the picture</b>: {escape(config.data.name, quote=False)}, {size}",
        metric=chosen,
        lower_is_better=both.lower_is_better(chosen),
        chains=chains,
        caption=_caption(both, chosen, chains, _floor_sentence(rows, chosen), unknown),
        provenance={"studies": [study.provenance() for study in studies]},
    )


def _chains(rows: list[Row], metric: str) -> list[Waterfall]:
    """Those to draw, by level, then in the order of the studies."""
    rows = [row for row in rows if metric in row.trial.metrics]
    through = [row for row in rows if row.kind in ("tokens", "generator", "privacy")]
    through += [row for row in rows if row.kind == "detail"]  # for a generator without tokens there is nothing more
    names = {
        "tokenizer": recorded.labels([row.tokens for row in rows if row.tokens is not None], "tokenizer"),
        "upscaler": recorded.labels([row.upscaler for row in rows if row.upscaler is not None], "upscaler"),
        "generator": recorded.labels([row.fit for row in rows if row.fit is not None], "generator"),
        "data": recorded.labels([row.data for row in rows], "data"),
    }
    chains: dict[str, Waterfall] = {}
    for row in through:
        fits = {key(other.fit): other.fit for other in through if _same_tokens(row, other) and other.fit is not None}
        for fit in fits.values() or [None]:
            where = key(row.place, row.tokens, fit)
            if where not in chains:
                chains[where] = _chain(rows, row, fit, metric, names)
    return sorted((chain for chain in chains.values() if _is_drawn(chain)), key=lambda chain: chain.level)


def _same_tokens(one: Row, other: Row) -> bool:
    return one.place == other.place and one.tokens == other.tokens


def _chain(rows: list[Row], of: Row, fit: Flat | None, metric: str, names: dict[str, dict[str, str]]) -> Waterfall:
    """The chain through one row's tokens and upscaler, and a generator."""
    here = [row for row in rows if row.place == of.place]
    drawn = [row for row in here if row.fit is not None and row.fit == fit and row.tokens == of.tokens]
    budgets = sorted({row.epsilon for row in drawn if row.kind == "privacy"}, reverse=True)
    floors = [row for row in rows if row.kind == "floor" and row.data == of.data]
    asked: list[tuple[Kind, float | None, list[Row]]] = [("floor", None, floors)]
    if of.upscaler is not None:
        asked.append(("detail", None, [row for row in here if row.kind == "detail"]))
    if of.tokens is not None:
        asked.append(("tokens", None, [row for row in here if row.kind == "tokens" and row.tokens == of.tokens]))
    asked.append(("generator", math.inf, [row for row in drawn if row.kind == "generator"]))
    for budget in budgets or [0.0]:
        asked.append(("privacy", budget, [row for row in drawn if row.epsilon == budget]))
    steps: list[Step] = []
    for kind, epsilon, found in asked:
        value = _value(found, metric)
        if value is None and kind == "floor":
            value = _parts_floor([row.trial for row in here], metric)
        if value is not None:
            steps.append(Step(kind, value, value.mean - steps[-1].value.mean if steps else None, epsilon))
    present = {step.kind for step in steps}
    missing = tuple(dict.fromkeys(kind for kind, _, _ in asked if kind not in present))
    return Waterfall(
        level=of.config.level,
        side=of.config.data.size >> of.config.level,
        tokenizer=names["tokenizer"][key(of.tokens)] if of.tokens is not None else "",
        upscaler=names["upscaler"][key(of.upscaler)] if of.upscaler is not None else "",
        generator=names["generator"][key(fit)] if fit is not None and len(names["generator"]) > 1 else "",
        data=names["data"][key(of.data)] if len(names["data"]) > 1 else "",
        steps=tuple(steps),
        missing=missing,
    )


def _value(rows: Iterable[Row], metric: str) -> Interval | None:
    """Mean and interval over replicates; rows that share their last stage are one result."""
    trials = {row.trial.keys.get("evaluate", row.trial.trial): row.trial for row in rows}
    return Point("", 0.0, list(trials.values())).interval(metric)


def _parts_floor(trials: list[Trial], metric: str) -> Interval | None:
    """Of an FID: the distance between two parts of the real split, where no row has real images."""
    start = "floor_" + "_".join(metric.split("_")[:3]) + "_"  # family, mode and number of images
    found = [value for trial in trials for name, value in trial.metrics.items() if name.startswith(start)]
    return Interval(math.fsum(found) / len(found), None, 1) if found else None


def _is_drawn(chain: Waterfall) -> bool:
    present = {step.kind for step in chain.steps}
    drawn = "detail" in present and not present.isdisjoint(("generator", "privacy"))
    return len(present) > 1 and ("tokens" in present or drawn)


def _caption(study: Study, metric: str, chains: list[Waterfall], floor: str, unknown: int) -> str:
    lines = releases(study)
    made = f"All {captions.count_text(len(lines))} of these rows compose to ε = {composed(lines):.3g}." if lines else ""
    sentences = [
        captions.seeds_sentence((step.value for chain in chains for step in chain.steps), "step", "whiskers"),
        ORDER,
        captions.metric_sentence(study, metric),
        floor,
        *_missing_sentences(chains),
        f"{unknown} trials whose rows do not say their configuration are left out." if unknown else "",
        captions.privacy_sentence(study),
        made,
        captions.nonprivate_sentence(study),
    ]
    return " ".join(filter(None, sentences))


def _missing_sentences(chains: list[Waterfall]) -> list[str]:
    """Which steps no row has, the chains grouped by them."""
    groups: dict[str, list[Waterfall]] = {}
    for chain in chains:
        if chain.missing:
            groups.setdefault(", ".join(chain.missing), []).append(chain)
    found = []
    for steps, without in groups.items():
        whose = "; ".join(f"{chain.parts}, level {chain.level}" for chain in without)
        found.append(f"No row for {steps}: {'all chains' if len(without) == len(chains) else whose}.")
    gaps = any(kind != "privacy" and _is_between(kind, chain) for chain in chains for kind in chain.missing)
    return [*found, *(["Where a step is missing, the next one holds its loss."] if gaps else [])]


def _is_between(kind: Kind, chain: Waterfall) -> bool:
    order = get_args(Kind)
    return any(order.index(step.kind) > order.index(kind) for step in chain.steps)


def _floor_sentence(rows: list[Row], metric: str) -> str:
    floors = [row for row in rows if row.kind == "floor" and metric in row.trial.metrics]
    if not floors:
        return "Floor: real images of one part of the split against the others." if not metric.startswith("acc") else ""
    known = any(row.config.metrics.reference_split == "train" and metric.startswith("fid") for row in floors)
    same = ", some of which are among the images that they are compared with" if known else ""
    return f"Floor: real images of the train split in the place of generated ones{same}."


def write(studies: Sequence[Study], folder: Path, metric: str | None = None) -> list[Path]:
    """Write the figure of every metric (or the one) and the tables of all into `folder`/figures; returns the paths.
    Raises UserError as `waterfall_data`."""
    from analysis.figures import write_figure
    from analysis.waterfall_figure import waterfall_figure
    from analysis.waterfall_table import write_tables

    names = [metric] if metric else waterfall_metrics(studies)
    found = [waterfall_data(studies, name) for name in names] or [waterfall_data(studies)]
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    written = [
        path
        for index, data in enumerate(found)
        for path in write_figure(
            waterfall_figure(data), figures / ("waterfall" if not index and not metric else f"waterfall_{data.metric}")
        )
    ]
    return [*written, *write_tables(found, figures)]


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.waterfall", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("studies", type=Path, nargs="+", metavar="study", help="runs/<study>, one or several")
    parser.add_argument("-o", "--output", type=Path, help="folder to write (the first study's)")
    parser.add_argument("--metric", help="one metric (all FIDs and accuracies)")
    chosen = parser.parse_args(arguments)
    written = write([load(folder) for folder in chosen.studies], chosen.output or chosen.studies[0], chosen.metric)
    print("\n".join(map(str, written)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

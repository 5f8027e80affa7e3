"""Draw an audit:  python -m analysis.audit_figure runs/audit

Reads audit.jsonl and roc.jsonl (python -m wavedp.audit) and writes figures/audit.html and .json, with a browser also
.png and .pdf. One panel per claimed ε, both axes logarithmic: the ROC of each attack, and the curve that no attack on
an (ε, δ)-private mechanism can exceed.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wavedp.command import command, imports

with imports():
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

from analysis.captions import delta_text
from analysis.colours import GREY, INK, PALETTE
from analysis.figures import write_figure
from analysis.load import sha256
from analysis.panels import lay_out
from analysis.replicates import epsilon_text
from wavedp.errors import UserError
from wavedp.jsonl import read_lines

LEAST = 1e-5  # start of the logarithmic axes
GAP = 0.06  # between panels, as a share of the whole width
NAMES = {"step": "one step, white box", "fit": "one fit, white box"}


@dataclass(frozen=True)
class Roc:
    """ROC of one attack on one claimed ε: false and true positive rates, ascending, from (0, 0) to (1, 1)."""

    name: str
    claim: float
    fpr: list[float]
    tpr: list[float]


@dataclass(frozen=True)
class AuditData:
    """Contents of the figure. claims: claimed ε, ascending, inf last."""

    claims: list[float]
    delta: float
    curves: list[Roc]
    caption: str
    provenance: dict[str, Any]


def audit_data(folder: Path) -> AuditData:
    """Read an audit's folder. Raises UserError when a file is missing, broken, or of another kind."""
    for name in ("audit.jsonl", "roc.jsonl"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}: run python -m wavedp.audit --results {folder}.")
    about, *rows = read_lines(folder / "audit.jsonl")[0] or [{}]
    if about.get("kind") != "about":
        raise UserError(f"{folder / 'audit.jsonl'} does not begin with a line of kind about: run the audit again.")
    lines, _ = read_lines(folder / "roc.jsonl")
    curves = [Roc(row["curve"], float(row["claim"]), row["fpr"], row["tpr"]) for row in lines]
    settings, sabotages = about["settings"], [row for row in rows if row["kind"] == "sabotage" and row["sabotage"]]
    attack = settings["attack"]
    caption = (
        f"δ = {delta_text(about['delta'])}. Black: the limit of TPR for the panel's ε, which chance alone may let a "
        f"curve cross where few records stand behind it. One step: {settings['draws']} draws with the canary and as "
        f"many without. White-box fit: {settings['canaries']} canaries in spectral_ar's transformer, "
        f"{settings['steps']} steps of the whole set. Released weights: {attack['canaries']} canaries of random "
        f"pixels and {about['records']} {about['data']} images, each in by a coin; scores are log-likelihoods. ∞: the "
        "same fit without privacy, which shows what the attack can see. "
        f"{sum(row['rejected'] for row in sabotages)} of {len(sabotages)} sabotaged fits were rejected. An attack that "
        "finds nothing is no evidence of privacy."
    )
    hashes = {f"{name}_sha256": sha256(folder / f"{name}.jsonl") for name in ("audit", "roc")}
    return AuditData(sorted({c.claim for c in curves}), about["delta"], curves, caption, hashes)


def limit(fpr: np.ndarray, epsilon: float, delta: float) -> np.ndarray:
    """Largest TPR that (ε, δ)-privacy allows at these FPR (Kairouz, Oh & Viswanath 2015, arXiv 1311.0776)."""
    if math.isinf(epsilon):
        return np.ones_like(fpr)
    return np.minimum(1.0, np.minimum(math.exp(epsilon) * fpr + delta, 1 - math.exp(-epsilon) * (1 - delta - fpr)))


def audit_figure(data: AuditData) -> go.Figure:
    """Draw `audit_data`."""
    titles = [f"ε = {epsilon_text(claim)}" for claim in data.claims]
    figure = make_subplots(cols=len(titles), subplot_titles=titles, horizontal_spacing=GAP, shared_yaxes=True)
    names = list(dict.fromkeys(curve.name for curve in data.curves))
    colours = dict(zip(names, [*PALETTE, *PALETTE], strict=False))
    rates = np.geomspace(LEAST, 1, 200)
    seen: set[str] = set()
    for column, claim in enumerate(data.claims, start=1):
        shown = [
            ("chance", rates, rates, {"color": GREY, "dash": "dot", "width": 1}),
            ("limit of (ε, δ)", rates, limit(rates, claim, data.delta), {"color": INK, "width": 2}),
            *(
                (NAMES.get(c.name, f"released, {c.name}"), *_logarithmic(c), _line(names, c.name, colours))
                for c in data.curves
                if c.claim == claim
            ),
        ]
        for name, x, y, line in shown:
            entry = {"name": name, "legendgroup": name, "showlegend": None if name not in seen else False}
            figure.add_scatter(x=x, y=y, mode="lines", line=line, row=1, col=column, **entry)
            seen.add(name)
    lay_out(
        figure, "What attacks find, against what the claim allows", "false positive rate", data.caption, data.provenance
    )
    low = math.log10(LEAST)
    figure.update_xaxes(type="log", range=[low, 0], exponentformat="power", dtick=2, tickangle=0)
    figure.update_yaxes(type="log", range=[low, 0.05], exponentformat="power", dtick=1)
    figure.update_yaxes(title={"text": "true positive rate", "standoff": 4}, row=1, col=1)
    return figure


def render(folder: Path) -> list[Path]:
    """Write the figure and return its files. Raises UserError as `audit_data` does."""
    data = audit_data(folder)
    (folder / "figures").mkdir(exist_ok=True)
    return write_figure(audit_figure(data), folder / "figures" / "audit")


def _line(names: list[str], name: str, colours: dict[str, str]) -> dict[str, Any]:
    return {"color": colours[name], "width": 2, "dash": "solid" if names.index(name) < len(PALETTE) else "dash"}


def _logarithmic(curve: Roc) -> tuple[list[float], list[float]]:
    """Return the points with both rates > 0, which logarithmic axes can show."""
    kept = [(x, y) for x, y in zip(curve.fpr, curve.tpr, strict=True) if x > 0 and y > 0]
    return [x for x, _ in kept], [y for _, y in kept]


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line described in the module docstring. Returns exit status 2 for a UserError."""
    parser = argparse.ArgumentParser(prog="python -m analysis.audit_figure", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="runs/audit")
    print("\n".join(map(str, render(parser.parse_args(arguments).folder))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

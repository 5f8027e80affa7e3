"""What a figure must say about its own numbers: metric, sample counts, seeds, δ, accountant, non-private looks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from analysis.load import Study

# The names that wavedp.metrics.suite gives (and their like): family, mode, generated images, split and how much of it.
DISTANCE = re.compile(r"(fid|kid)_([a-z]+)(-bf16)?_(\d+k?)_(train|val|test)(\d+k?)?")
ACCURACY = re.compile(r"acc_cnn(\d+)_(\d+k?)_(train|val|test)")
RESIZING = {"clean": "clean-fid's resizing", "pytorch": "pytorch-fid's resizing"}


def metric_sentence(metric: str) -> str:
    """Feature network and sample counts behind a metric, which its name carries."""
    if match := DISTANCE.fullmatch(metric):
        _, mode, low, generated, split, part = match.groups()
        real = f"{part} of the" if part else "all"
        resizing = RESIZING.get(mode, f"{mode} resizing")
        counts = f"{generated} generated against {real} real {split} images"
        precision = ", in bfloat16" if low else ""
        return f"{metric}: Inception-v3 pool features{precision}, {resizing}, {counts}."
    if match := ACCURACY.fullmatch(metric):
        steps, generated, split = match.groups()
        return (
            f"{metric}: a CNN after {steps} steps on {generated} generated images, tested on the real {split} images."
        )
    return f"{metric}: as its name says."


def seeds_sentence(counts: Iterable[int]) -> str:
    """How many seeds stand behind the points, and so what the bars are."""
    counts = sorted(set(counts))
    if counts[-1] < 2:
        return "One seed a point, so no interval is drawn."
    span = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    single = " (none on a single seed)" if counts[0] < 2 else ""
    return f"Points are means over {span} seeds, bars their 95% Student t intervals{single}."


def privacy_sentence(study: Study) -> str:
    """δ, accountant, neighbouring relation: from the ledger's private lines."""
    private = [line for line in study.ledger if line["kind"] != "nonprivate"]
    if not private:
        return "No private release was made."
    versions = study.meta.get("versions", {})
    package = f" (dp-accounting {versions['dp-accounting']})" if "dp-accounting" in versions else ""
    deltas = _listed(delta_text(line["delta"]) for line in private)
    accountants = _listed(str(line["accountant"]) for line in private)
    relations = _listed(str(line["relation"]).replace("_", " ") for line in private)
    stated = " (totals at the largest)" if "," in deltas else ""
    return f"δ = {deltas}{stated}; accountant {accountants}{package}; neighbours: {relations} record."


def nonprivate_sentence(study: Study) -> str:
    """The looks at sensitive images that no ε covers, counted from the ledger."""
    # One key is one look, however many trials share it.
    looks = {(_look(line), line["stage_key"]) for line in study.ledger if line["kind"] == "nonprivate"}
    if not looks:
        return "Scores are measured against real images; the ledger holds no line for that look, and no ε covers it."
    counts = Counter(purpose for purpose, _ in looks)
    listed = ", ".join(f"{purpose} ×{count}" if count > 1 else purpose for purpose, count in sorted(counts.items()))
    return f"Non-private looks that no ε here covers: {listed}."


def _look(line: dict[str, Any]) -> str:
    """A fit without noise keeps its steps in the ledger; any other look has none."""
    purpose = str(line["purpose"]).replace("_", " ")
    return f"{purpose} at ε = ∞" if line.get("steps") else purpose


def count_text(releases: int) -> str:
    """1 private release, 9 private releases."""
    return f"{releases} private release" + "s" * (releases != 1)


def delta_text(delta: float) -> str:
    """δ as 1.67e-6."""
    digits, exponent = f"{delta:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def _listed(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))

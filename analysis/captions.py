"""Caption sentences that every figure needs: metric, sample counts, seeds, δ, accountant, non-private looks at data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from analysis.load import Study
from analysis.replicates import LEAST_SEEDS, Interval

# The ends of metrics' names: generated images, split and how much of it.
COUNTS = re.compile(r"_(\d+k?)_(train|val|test)(\d+k?)?(_train\d+k?)?$")
# Names in studies whose study.yaml does not say what they mean: family, mode, and counts.
DISTANCE = re.compile(r"(fid|kid)_([a-z]+)(-bf16)?_(\d+k?)_(train|val|test)(\d+k?)?")
SECOND = re.compile(r"fd_([\w-]+)_(\d+k?)_(train|val|test)(\d+k?)?")
ACCURACY = re.compile(r"acc_cnn(\d+)_(\d+k?)_(train|val|test)")
PROTOCOL = re.compile(r"acc_(dpimagebench|light)(-[\w-]+)?_(\d+k?)_(train|val|test)")
RESIZING = {
    "clean": "clean-fid's resizing",
    "pytorch": "pytorch-fid's resizing",
    "tensorflow": "TensorFlow 1's resizing, as torch-fidelity's",
}


def metric_sentence(study: Study, metric: str) -> str:
    """Describe a metric and the sample counts behind it, as study.yaml says, with the counts of the name."""
    said = study.meaning(metric).get("sentence")
    if said is None:
        return known_sentence(metric)
    counts = COUNTS.search(metric)
    if counts is not None:
        generated, split, part, _ = counts.groups()
        said = said.replace("{generated}", generated).replace("{real}", _real(split, part))
    return f"{metric}: {'as its name says' if '{' in said else said}."


def known_sentence(metric: str) -> str:
    """Feature network and sample counts behind a metric of a study that does not say them, from its name."""
    if match := DISTANCE.fullmatch(metric):
        _, mode, low, generated, split, part = match.groups()
        resizing = RESIZING.get(mode, f"{mode} resizing")
        precision = ", in bfloat16" if low else ""
        return f"{metric}: Inception-v3 pool features{precision}, {resizing}, {_counts(generated, split, part)}."
    if metric.startswith("floor_"):
        return f"{metric}: what real images of the split get in the place of generated ones."
    if match := SECOND.fullmatch(metric):
        network, *counts = match.groups()
        return f"{metric}: Fréchet distance of the features of {network}, {_counts(*counts)}."
    if match := ACCURACY.fullmatch(metric):
        steps, generated, split = match.groups()
        return (
            f"{metric}: a CNN after {steps} steps on {generated} generated images, tested on the real {split} images."
        )
    if match := PROTOCOL.fullmatch(metric):
        protocol, one, generated, split = match.groups()
        of = f"the classifier {one[1:]}" if one else "the classifiers, their mean"
        return (
            f"{metric}: {of} of protocol {protocol}, after {generated} generated images, chosen on generated images, "
            f"tested on the real {split} images."
        )
    return f"{metric}: as its name says."


def _counts(generated: str, split: str, part: str | None) -> str:
    return f"{generated} generated against {_real(split, part)}"


def _real(split: str, part: str | None) -> str:
    return f"{f'{part} of the' if part else 'all'} real {split} images"


def floor_clause(study: Study, metric: str) -> str:
    """Sentence on the score of real images in place of generated ones; empty if it was not measured."""
    floor = study.floor(metric)
    return "" if floor is None else f" Real images in their place get {floor:.3g}."


def seeds_sentence(values: Iterable[Interval], mark: str = "point", bars: str = "bars") -> str:
    """State over how many seeds or sample sets the points are means, and what the bars are. mark, bars: what the figure
    draws them as."""
    values = list(values)
    counts, sets = (sorted({value.n for value in values if value.of == kind}) for kind in ("seeds", "sample sets"))
    sentences, marks = [], f"{mark.capitalize()}s"
    if counts and counts[-1] > 1:
        sentences.append(f"{marks} are means over {_span(counts)} seeds, {_intervals(counts, bars)}.")
    elif counts:
        sentences.append(f"One seed a {mark}, so no interval is drawn.")
    if sets:
        which = f"{marks} of one seed" if counts else marks
        sentences.append(
            f"{which} are means over {_span(sets)} sample sets of one private fit, {_intervals(sets, bars)}; they say "
            "nothing of another fit."
        )
    return " ".join(sentences)


def _intervals(counts: list[int], bars: str) -> str:
    if counts[-1] < LEAST_SEEDS:
        return f"too few for {bars}"
    return f"{bars} their 95% Student t intervals" + (f" (none below {LEAST_SEEDS})" * (counts[0] < LEAST_SEEDS))


def intervals_sentence(values: Iterable[Interval]) -> str:
    """Explain ± and n for a table of these values."""
    of = {value.of for value in values if value.half_width is not None}
    sentence = "Mean ± half of the 95% Student t interval over n seeds; without ± there were fewer than three."
    if "sample sets" in of:
        sentence += (
            " n = 1×k: over k sample sets of one private fit, which cost no further ε; that interval says nothing of "
            "another fit."
        )
    return sentence


def _span(counts: list[int]) -> str:
    return f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"


def privacy_sentence(study: Study) -> str:
    """State δ, accountant and neighbouring relation, from the ledger's private lines."""
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
    """Count the looks at sensitive images that no ε covers, from the ledger."""
    # Trials that share a stage key share one look.
    looks = {(_look(line), line["stage_key"]) for line in study.ledger if line["kind"] == "nonprivate"}
    if not looks:
        return "Scores are measured against real images; the ledger holds no line for that look, and no ε covers it."
    counts = Counter(purpose for purpose, _ in looks)
    listed = ", ".join(f"{purpose} ×{count}" if count > 1 else purpose for purpose, count in sorted(counts.items()))
    return f"Non-private looks that no ε here covers: {listed}."


def _look(line: dict[str, Any]) -> str:
    """Name the look of a ledger line. Only a fit without noise (ε = ∞) has steps in the ledger."""
    purpose = str(line["purpose"]).replace("_", " ")
    return f"{purpose} at ε = ∞" if line.get("steps") else purpose


def count_text(releases: int) -> str:
    """Format a count: `1 private release`, `9 private releases`."""
    return f"{releases} private release" + "s" * (releases != 1)


def delta_text(delta: float) -> str:
    """Format δ as `1.67e-6`."""
    digits, exponent = f"{delta:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def _listed(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))

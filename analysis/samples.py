"""Sample sheets: one block per series, rows of ascending ε, columns that share their noise seed.

No image is hand-picked: the replicate is the smallest seed that all rows have (if there is none, each row's smallest,
and columns do not match), the columns are spaced evenly over the stored samples, and a sidecar file lists trials and
indices. Real images are not shown, since that would release them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from analysis.load import Study, Trial
from analysis.replicates import epsilon_text, points
from wavedp.errors import UserError

COLUMNS = 12
CELL, GAP, MARGIN, FONT_SIZE = 56, 4, 12, 15  # pixels; images smaller than CELL are enlarged by an integer factor
Stage = Literal["images", "coarse"]


@dataclass(frozen=True)
class Row:
    """One trial's images in the chosen columns, uint8 [n C H W]."""

    epsilon: float
    trial: str
    images: np.ndarray


@dataclass(frozen=True)
class SampleSheet:
    """Blocks of rows by series. indices: positions of the columns in samples/<trial>.npz. labels: their classes.

    seed: the replicate shown; None when the rows have no seed in common.
    """

    blocks: dict[str, list[Row]]
    indices: list[int]
    labels: list[int]
    seed: int | None
    provenance: dict[str, Any]


def samples_data(study: Study, stage: Stage = "images", columns: int = COLUMNS) -> SampleSheet:
    """Collect the final images of every series; with stage="coarse" the coarse images behind them, each set once.

    Raises UserError when no finished trial has stored samples.
    """
    stored = {trial.trial: path for trial in study.done if (path := _path(study, trial)).is_file()}
    rows = [(p.series, p.epsilon, [t for t in p.trials if t.trial in stored]) for p in points(study)]
    rows = [row for row in rows if row[2]]
    if not rows:
        raise UserError(
            f"{study.folder / 'samples'} holds no .npz of a finished trial: run the study with samples kept."
        )
    shared = set.intersection(*({trial.seed for trial in trials} for _, _, trials in rows))
    seed = min(shared) if shared else None
    chosen = [
        (series, epsilon, min(trials, key=lambda t: (t.seed != seed, t.seed))) for series, epsilon, trials in rows
    ]
    arrays = {trial.trial: dict(np.load(stored[trial.trial])) for _, _, trial in chosen}
    available = min(len(stored_arrays["images"]) for stored_arrays in arrays.values())
    indices = [int(i) for i in np.unique(np.linspace(0, available - 1, min(columns, available)).round())]
    blocks: dict[str, list[Row]] = {}
    sources: dict[str, tuple[str, ...]] = {}  # keys of the coarse images behind each series
    for series, epsilon, trial in chosen:
        blocks.setdefault(series, []).append(Row(epsilon, trial.trial, arrays[trial.trial][stage][indices]))
        sources[series] = (*sources.get(series, ()), trial.keys.get("coarse_samples", trial.trial))
    labels = arrays[chosen[0][2].trial]["labels"][indices].tolist()
    if stage == "coarse":
        blocks = _merge(blocks, sources)
    return SampleSheet(blocks, indices, labels, seed, study.provenance())


def _merge(blocks: dict[str, list[Row]], sources: dict[str, tuple[str, ...]]) -> dict[str, list[Row]]:
    """Make one block of all series with the same coarse images, named after their size and those series."""
    shared: dict[tuple[str, ...], list[str]] = {}
    for series, keys in sources.items():
        shared.setdefault(keys, []).append(series)
    merged = {}
    for names in shared.values():
        rows = blocks[names[0]]
        height, width = rows[0].images.shape[-2:]
        merged[f"coarse {height}×{width}, before: {'; '.join(names)}"] = rows
    return merged


def samples_picture(sheet: SampleSheet) -> Image.Image:
    """Draw the sheet in RGB: a heading for each block, ε to the left of each row."""
    return picture_of(
        {
            series: [(f"ε = {epsilon_text(row.epsilon)}", row.images) for row in rows]
            for series, rows in sheet.blocks.items()
        }
    )


def picture_of(
    blocks: Mapping[str, Sequence[tuple[str, np.ndarray]]], columns: Sequence[str] = (), notes: Sequence[str] = ()
) -> Image.Image:
    """Draw rows of images uint8 [n C H W] in RGB, enlarged without smoothing, each row with its text to the left.

    blocks: the rows under each heading. columns: texts above the columns. notes: lines at the bottom.
    """
    font, has_greek = _font()

    def plain(text: str) -> str:
        return text if has_greek else text.replace("ε", "eps").replace("∞", "inf").replace("ᾱ", "alpha-bar")

    cells = {heading: [(plain(text), _enlarge(images)) for text, images in rows] for heading, rows in blocks.items()}
    rows = [row for block in cells.values() for row in block]
    gutter = 2 * MARGIN + math.ceil(max(font.getlength(text) for text, _ in rows))
    cell, count = max(images.shape[1] for _, images in rows), max(len(images) for _, images in rows)
    heading_height = FONT_SIZE + 2 * MARGIN
    lines = [*map(plain, cells), *map(plain, notes)]
    width = max([gutter + count * (cell + GAP) - GAP] + [MARGIN + math.ceil(font.getlength(line)) for line in lines])
    top = heading_height if columns else 0
    below = MARGIN + (MARGIN + len(notes) * (FONT_SIZE + GAP) if notes else 0)
    height = top + len(cells) * heading_height + len(rows) * (cell + GAP) + below
    picture = Image.new("RGB", (width + MARGIN, height), "white")
    draw = ImageDraw.Draw(picture)
    for column, text in enumerate(columns):
        middle = gutter + column * (cell + GAP) + cell / 2
        draw.text((middle, heading_height / 2), plain(text), fill="black", font=font, anchor="mm")
    for heading, block in cells.items():
        draw.text((MARGIN, top + heading_height / 2), plain(heading), fill="black", font=font, anchor="lm")
        top += heading_height
        for text, images in block:
            draw.text((MARGIN, top + cell / 2), text, fill="black", font=font, anchor="lm")
            for column, image in enumerate(images):
                picture.paste(Image.fromarray(image), (gutter + column * (cell + GAP), top))
            top += cell + GAP
    for note in notes:
        draw.text((MARGIN, top + MARGIN), plain(note), fill="black", font=font, anchor="lt")
        top += FONT_SIZE + GAP
    return picture


def write_samples(study: Study, figures: Path) -> list[Path]:
    """Write samples.png, samples_coarse.png and the sidecar samples.json to `figures`."""
    sheets: dict[str, SampleSheet] = {"samples": samples_data(study), "samples_coarse": samples_data(study, "coarse")}
    for name, sheet in sheets.items():
        samples_picture(sheet).save(figures / f"{name}.png", optimize=True)
    sheet = sheets["samples"]
    sidecar = {
        "indices": sheet.indices,
        "labels": sheet.labels,
        "seed": sheet.seed,
        "trials": {
            f"{name}.png": {series: [row.trial for row in rows] for series, rows in one.blocks.items()}
            for name, one in sheets.items()
        },
        "provenance": sheet.provenance,
    }
    path = figures / "samples.json"
    path.write_text(json.dumps(sidecar, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return [figures / f"{name}.png" for name in sheets] + [path]


def _path(study: Study, trial: Trial) -> Path:
    return study.folder / "samples" / f"{trial.trial}.npz"


def _enlarge(images: np.ndarray) -> np.ndarray:
    """Convert uint8 [n C H W] to RGB [n H' W' 3], H' = k H, W' = k W for the smallest integer k with W' >= CELL."""
    factor = max(1, math.ceil(CELL / images.shape[-1]))
    images = np.moveaxis(images.repeat(factor, axis=2).repeat(factor, axis=3), 1, -1)  # n H' W' C
    return np.broadcast_to(images, (*images.shape[:3], 3)).copy() if images.shape[-1] == 1 else images


def _font() -> tuple[Any, bool]:
    """Return a font and whether it has ε and ∞: DejaVu if installed, otherwise Pillow's own (Latin only)."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", FONT_SIZE), True
    except OSError:
        return ImageFont.load_default(FONT_SIZE), False

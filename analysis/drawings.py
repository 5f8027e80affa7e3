"""The figures of a paper by name: what each reads, and how it is drawn from the folders that hold it.

overlay      quality against ε, at the ε of one trial and at the ledger's, of one or several studies
heatmap      wavelet level × ε
schedules    blur schedules (a folder of python -m wavedp.reports.forward)
upscalers    upscalers on the same coarse images
spectra      power spectra of samples and data (spectra.jsonl of a study)
price        ε of all releases together against the number of trials
hypervolume  hypervolume against the number of trials, one study against another
ablation     everything at one ε, best first
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go

from analysis.chosen import read
from analysis.load import Study
from analysis.paper_page import Columns
from wavedp.errors import UserError

RECORDS = ("study.yaml", "trials.jsonl", "ledger.jsonl")

Drawn = tuple[go.Figure, list[str]]
"""A figure, and a sentence on whatever of its studies is not on it."""


@dataclass(frozen=True)
class Drawing:
    """files: what it reads of each folder."""

    files: tuple[str, ...]
    draw: Callable[[Sequence[Path], str | None, Columns], Drawn]


def _overlay(folders: Sequence[Path], metric: str | None, columns: Columns) -> Drawn:
    from analysis.overlay import overlay_data
    from analysis.overlay_figure import overlay_figure

    studies, said = read(folders)
    data = overlay_data(studies, metric)
    return overlay_figure(data, columns), [*said, *data.said]


def _heatmap(folders: Sequence[Path], metric: str | None, columns: Columns) -> Drawn:
    from analysis.heatmap import heatmap_data
    from analysis.heatmap_figure import heatmap_figure

    studies, said = read(folders)
    data = heatmap_data(studies, metric)
    return heatmap_figure(data, columns), [*said, *data.said]


def _schedules(folders: Sequence[Path], metric: str | None, columns: Columns) -> Drawn:
    from analysis.schedules import schedules_data
    from analysis.schedules_figure import schedules_figure

    return schedules_figure(schedules_data(folders[0]), columns), _rest(folders)


def _upscalers(folders: Sequence[Path], metric: str | None, columns: Columns) -> Drawn:
    from analysis.upscalers import upscalers_data
    from analysis.upscalers_figure import upscalers_figure

    studies, said = read(folders)
    data = upscalers_data(studies, metric)
    return upscalers_figure(data, columns), [*said, *data.said]


def _spectra(folders: Sequence[Path], metric: str | None, columns: Columns) -> Drawn:
    from analysis.spectra_page import spectra_page
    from analysis.spectrum_figure import spectra_data

    path = folders[0] / "spectra.jsonl"
    if not path.is_file():
        raise UserError(f"{folders[0]} has no spectra.jsonl: run python -m wavedp.reports.spectrum {folders[0]}.")
    return spectra_page(spectra_data(path), columns), _rest(folders)


def _price(folders: Sequence[Path], metric: str | None, columns: Columns) -> Drawn:
    from analysis.composition import composition_data
    from analysis.composition_figure import composition_figure

    study, said = _one(folders)
    return composition_figure(composition_data(study), columns), said


def _hypervolume(folders: Sequence[Path], metric: str | None, columns: Columns) -> Drawn:
    from analysis.hypervolume import hypervolume_data
    from analysis.hypervolume_figure import hypervolume_figure

    studies, said = read(folders)
    data = hypervolume_data(studies, metric)
    return hypervolume_figure(data, columns), [*said, *data.said]


def _ablation(folders: Sequence[Path], metric: str | None, columns: Columns) -> Drawn:
    from analysis.ablation_page import ablation_page
    from analysis.pareto import pareto_data

    study, said = _one(folders)
    return ablation_page(pareto_data(study, metric), columns), said


def _one(folders: Sequence[Path]) -> tuple[Study, list[str]]:
    studies, said = read(folders[:1])
    return studies[0], [*said, *_rest(folders)]


def _rest(folders: Sequence[Path]) -> list[str]:
    return [f"{folder} is left out: this figure is of one folder." for folder in folders[1:]]


DRAWINGS = {
    "overlay": Drawing(RECORDS, _overlay),
    "heatmap": Drawing(RECORDS, _heatmap),
    "schedules": Drawing(("curves.jsonl", "strips.npz"), _schedules),
    "upscalers": Drawing(RECORDS, _upscalers),
    "spectra": Drawing(("study.yaml", "spectra.jsonl"), _spectra),
    "price": Drawing(RECORDS, _price),
    "hypervolume": Drawing(RECORDS, _hypervolume),
    "ablation": Drawing(RECORDS, _ablation),
}

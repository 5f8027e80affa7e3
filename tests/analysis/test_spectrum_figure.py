"""The figure `spectra`: what is drawn of spectra.jsonl, in which colour, and what the caption owns up to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.blur_figures import render
from analysis.pareto_figure import INK
from analysis.spectrum_figure import spectra_data, spectra_figure
from wavedp.errors import UserError
from wavedp.store import write_jsonl

POWER = [9.0, 1.0, 0.1, 0.01]


def spectrum(factor: float, n_images: int, **more: Any) -> dict[str, Any]:
    """A line whose powers are `factor` times the data's above the mean, with a standard error of 5%."""
    power = [POWER[0], *(factor * value for value in POWER[1:])]
    return more | {
        "n_images": n_images,
        "frequencies": [0.0, 0.1, 0.2, 0.3],
        "modes": [1, 3, 8, 4],
        "power": power,
        "standard_error": [0.05 * value for value in power],
    }


def trial(epsilon: float | str, seed: int, factor: float, upscaler: str = "bicubic") -> dict[str, Any]:
    return spectrum(
        factor,
        100,
        trial=f"{epsilon}-{seed}-{upscaler}",
        status="done",
        seed=seed,
        epsilon=epsilon,
        epsilon_spent=epsilon,
        delta=1.5e-6,
        axes={"epsilon": epsilon, "upscaler": upscaler, "seed": seed},
        log_spectral_distance=abs(10 * float(np.log10(factor))),
    )


ABOUT = {"study": "s", "dataset": "fashion_mnist", "split": "test", "size": [1, 28, 28]}
DATA = spectrum(1, 2000, trial=None, **ABOUT, floor=1e-6, accountant="pld")


def written(folder: Path, *trials: dict[str, Any]) -> Path:
    write_jsonl(folder / "spectra.jsonl", [DATA, *trials])
    return folder / "spectra.jsonl"


def test_seeds_are_one_line_and_epsilon_ascends_to_infinity(tmp_path: Path) -> None:
    path = written(tmp_path, trial("inf", 0, 1), trial(3, 0, 2), trial(3, 1, 4), trial(1, 0, 10))
    spectra = spectra_data(path)
    assert [line.epsilon for line in spectra.lines] == [1, 3, float("inf")]
    np.testing.assert_allclose(spectra.lines[1].power, [3, 0.3, 0.03])
    np.testing.assert_allclose(spectra.lines[1].standard_error, 0.05 * np.hypot(2, 4) / 2 * np.array(POWER[1:]))
    assert spectra.lines[1].distance == pytest.approx(5 * np.log10(8))
    np.testing.assert_allclose(spectra.frequencies, [0.1, 0.2, 0.3])  # without the mean
    figure = spectra_figure(spectra)
    assert [trace.name for trace in figure.data if trace.showlegend is not False] == [
        "data", "ε = 1: 10.00 dB", "ε = 3: 4.52 dB", "ε = ∞: 0.00 dB",
    ]  # fmt: skip


def test_the_data_is_ink_and_the_right_panel_their_ratio_in_decibels(tmp_path: Path) -> None:
    figure = spectra_figure(spectra_data(written(tmp_path, trial(1, 0, 10), trial(3, 0, 0.1))))
    left, right = ([trace for trace in figure.data if trace.xaxis == axis] for axis in ("x", "x2"))
    assert left[0].line.color == right[0].line.color == INK
    assert len({trace.line.color for trace in left}) == 3
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.yaxis2.type != "log"
    for trace, decibels in zip(right, (0, 10, -10), strict=True):
        np.testing.assert_allclose(trace.y, [decibels] * 3, atol=1e-12)
        np.testing.assert_allclose(trace.error_y.array, [0.05 * 10 / np.log(10)] * 3)


def test_colours_are_of_epsilon_and_dashes_of_series(tmp_path: Path) -> None:
    rows = [trial(epsilon, 0, 2, upscaler) for upscaler in ("bicubic", "realesrgan") for epsilon in (1, 3)]
    figure = spectra_figure(spectra_data(written(tmp_path, *rows)))
    lines = {trace.name.split(":")[0]: trace.line for trace in figure.data[2::2]}
    assert list(lines) == ["ε = 1, bicubic", "ε = 3, bicubic", "ε = 1, realesrgan", "ε = 3, realesrgan"]
    assert lines["ε = 1, bicubic"].color == lines["ε = 1, realesrgan"].color != lines["ε = 3, bicubic"].color
    assert lines["ε = 1, bicubic"].dash == lines["ε = 3, bicubic"].dash != lines["ε = 1, realesrgan"].dash


def test_series_of_one_epsilon_have_colours_of_their_own(tmp_path: Path) -> None:
    rows = [trial(1, 0, 2, f"upscaler{i}") for i in range(8)]
    figure = spectra_figure(spectra_data(written(tmp_path, *rows)))
    looks = {(trace.line.color, trace.line.dash) for trace in figure.data[2::2]}
    assert len(looks) == 8


def test_series_beyond_the_dashes_are_grey_and_the_legend_holds_the_rest(tmp_path: Path) -> None:
    rows = [trial(epsilon, 0, 2 + i, f"upscaler{6 - i}") for i in range(7) for epsilon in (1, 3, 10)]
    figure = spectra_figure(spectra_data(written(tmp_path, *rows)))
    entries = [trace for trace in figure.data if trace.showlegend is not False]
    assert {trace.name.split(", ")[1].split(":")[0] for trace in entries[1:]} == {f"upscaler{i}" for i in (3, 4, 5, 6)}
    assert len({(trace.line.color, trace.line.dash) for trace in entries}) == len(entries) == 13
    assert "Grey lines: 3 further series" in figure.layout.annotations[-1].text.replace("<br>", " ")
    assert len(figure.data) == 2 * 22  # all are drawn


def test_a_long_legend_has_room(tmp_path: Path) -> None:
    def plot_height(count: int) -> float:
        layout = spectra_figure(
            spectra_data(written(tmp_path, *[trial(1, 0, 2, f"u{i}") for i in range(count)]))
        ).layout
        return layout.height - layout.margin.t - layout.margin.b

    assert plot_height(24) >= 26 * 19 > plot_height(2)  # plotly's lines of 12 px text are 19 px high


def test_the_caption_says_counts_split_study_and_the_look(tmp_path: Path) -> None:
    figure = spectra_figure(spectra_data(written(tmp_path, trial(1, 0, 2), trial(1, 1, 2))))
    text = figure.layout.annotations[-1].text.replace("<br>", " ")
    for said in (
        "Study s: 100 images of each trial against 2000 test images of fashion_mnist, 1×28×28",
        "means over up to 2 seeds",
        "at δ = 1.5e-6 (pld accountant)",
        "a look without noise, which no ε here covers (spectra_ledger.jsonl)",
    ):
        assert said in text
    assert len(figure.layout.meta["spectra_sha256"]) == 64


def test_bands_without_power_are_drawn_at_the_floor(tmp_path: Path) -> None:
    figure = spectra_figure(spectra_data(written(tmp_path, trial(1, 0, 1e-30))))
    np.testing.assert_allclose(figure.data[3].y, [-60, -50, -40])


def test_a_study_folder_is_drawn_from_that_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/chromium")
    written(tmp_path, trial(1, 0, 2))
    assert [path.name for path in render(tmp_path)] == ["spectra.html", "spectra.json"]
    assert json.loads((tmp_path / "figures/spectra.json").read_text())["layout"]["meta"]["study"] == "s"


def test_a_file_without_data_or_trials_is_refused(tmp_path: Path) -> None:
    for rows in ([DATA], [trial(1, 0, 2), trial(3, 0, 2)]):
        write_jsonl(tmp_path / "spectra.jsonl", rows)
        with pytest.raises(UserError, match=r"lacks the data's line or any trial's: run python -m wavedp.reports.spec"):
            spectra_data(tmp_path / "spectra.jsonl")

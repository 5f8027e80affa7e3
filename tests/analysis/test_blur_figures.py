"""Curves and strips: drawn from their two files alone, whole, and without overlapping scales."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis import blur_figures
from analysis.blur_figures import LEAST_BLUR, curves_data, curves_figure, main, render, reverse_data, strips_data
from analysis.samples import CELL, picture_of
from wavedp.diffusion.blur import BlurSchedule
from wavedp.reports import forward
from wavedp.store import write_jsonl

SCHEDULES = (("none", 0.0), ("quartic", 0.140625), ("log", 0.140625), ("log", 0.600625), ("heat", 0.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results") / "blur_forward"
    rows = [forward.curves(BlurSchedule(blur_schedule=name, blur_f_max=f_max), 8) for name, f_max in SCHEDULES]
    write_jsonl(results / "curves.jsonl", rows)
    forward.write_strips(results / "strips.npz", forward.public_images(8, "nowhere"))
    return results


@pytest.fixture(autouse=True)
def no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/chromium")


def test_every_schedule_has_a_line_in_each_panel_and_one_entry_in_the_legend(folder: Path) -> None:
    figure = curves_figure(curves_data(folder / "curves.jsonl"))
    labels = ["none", "quartic (0.141)", "log (0.141)", "log (0.601)", "heat"]
    left, right = ([trace for trace in figure.data if trace.xaxis == axis] for axis in ("x", "x2"))
    assert [trace.name for trace in left] == [trace.name for trace in right] == labels
    assert [trace.showlegend for trace in figure.data] == [None, False] * 5
    looks = [(trace.line.color, trace.line.dash) for trace in left]
    assert looks == [(trace.line.color, trace.line.dash) for trace in right]
    assert len(set(looks)) == 5
    rows = [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]
    assert list(left[1].x) == rows[1]["times"]
    assert list(left[1].y) == rows[1]["f"]
    assert list(right[3].y)[1:] == rows[3]["blur_pixels"][1:]
    assert all(math.isnan(value) for value in left[4].y)  # heat has no f
    assert all(math.isnan(value) for value in right[0].y)  # none has no width


def test_the_axis_of_widths_holds_all_from_its_beginning(folder: Path) -> None:
    data = curves_data(folder / "curves.jsonl")
    axis = curves_figure(data).layout.yaxis2
    assert axis.range[0] == pytest.approx(math.log10(LEAST_BLUR))
    assert 10 ** axis.range[1] > max(width for curve in data.curves for width in curve.blur_pixels)
    assert list(axis.tickvals) == [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20]


def test_the_caption_says_kernel_steps_and_size(folder: Path) -> None:
    figure = curves_figure(curves_data(folder / "curves.jsonl"))
    text = figure.layout.annotations[-1].text.replace("<br>", " ")
    assert "T = 1000 steps" in text
    assert "linear noise; base kernel: a sampled Gaussian of 0.4 px, dct basis, computed at 8×8 px" in text
    assert "heat has no f(i): its width rises to 20 px" in text
    assert len(figure.layout.meta["curves_sha256"]) == 64


def test_strips_hold_the_states_and_undo_only_the_noise_schedule(folder: Path) -> None:
    strips = strips_data(folder / "strips.npz")
    assert list(strips.blocks) == [
        "none",
        "quartic (0.141), coarse to fine",
        "quartic (0.141), fine to coarse",
        "log (0.601), coarse to fine",
        "heat, coarse to fine",
    ]
    assert strips.columns[:9] == ["t=0", "t=143", "t=285", "t=428", "t=571", "t=714", "t=856", "t=999", ""]
    arrays = np.load(folder / "strips.npz")
    (_, noisy), (_, signal) = strips.blocks["quartic (0.141), fine to coarse"]
    assert noisy.shape == signal.shape == (3 * 8 + 2, 1, 8, 8)
    assert (noisy[8] == 255).all()  # between images
    seen = np.clip((arrays["noisy"][2, 1].astype(float) + 1) * 127.5, 0, 255).round()
    np.testing.assert_array_equal(noisy[9:17], seen)
    (_, unblurred) = strips.blocks["none"][1]
    np.testing.assert_allclose(unblurred[7].astype(int), unblurred[0], atol=1)
    assert abs(signal[7].astype(int) - signal[0]).max() > 50
    assert any("Records 0, 1, 2 of procedural (test, public), 8 px" in note for note in strips.notes)


def test_the_way_back_has_a_block_for_each_schedule(tmp_path: Path) -> None:
    states = np.random.default_rng(0).uniform(-1, 1, (2, 2, 3, 1, 8, 8)).astype(np.float16)  # P n K C H W
    schedule = {"blur_f_max": 0.14, "num_train_timesteps": 1000, "beta_schedule": "cosine", "blur_basis": "dct"}
    about = {
        "schedules": [
            {**schedule, "blur_schedule": "none", "blur_order": "coarse_to_fine"},
            {**schedule, "blur_schedule": "quartic", "blur_order": "fine_to_coarse"},
        ],
        "train_steps": 7,
        "steps": 9,
        "seed": 0,
    }
    times = np.array([999, 400, 0])
    about_text = np.array(json.dumps(about))
    np.savez(tmp_path / "reverse.npz", noisy=states, predicted=-states, times=times, about=about_text)
    strips = reverse_data(tmp_path / "reverse.npz")
    assert list(strips.blocks) == ["none", "quartic (0.14), fine to coarse"]
    assert strips.columns == ["t=999", "t=400", "t=0", "", "t=999", "t=400", "t=0"]
    (_, state), (_, predicted) = strips.blocks["quartic (0.14), fine to coarse"]
    assert (np.abs(state[4:].astype(int) + predicted[4:] - 255) <= 1).all()
    np.testing.assert_array_equal(state[4], np.clip((states[1, 1, 0].astype(float) + 1) * 127.5, 0, 255).round())
    assert "each of 7 training steps; 9 steps of sampling" in " ".join(strips.notes)
    assert "reverse.png" in [path.name for path in render(tmp_path)]


def test_heads_stand_above_and_notes_below_the_cells() -> None:
    black = np.zeros((2, 1, CELL, CELL), np.uint8)
    bare = np.asarray(picture_of({"block": [("row", black)]}))
    full = np.asarray(picture_of({"block": [("row", black)]}, ["first", ""], ["a note", "another note"]))
    assert full.shape[0] > bare.shape[0] + 2 * 15

    def dark(picture: np.ndarray) -> np.ndarray:
        return (picture.min(2) < 128).sum(1) >= 2 * CELL  # rows of pixels that cross both cells

    top, bottom = np.flatnonzero(dark(full))[[0, -1]]
    assert bottom - top + 1 == CELL
    heads, notes = full[: top - np.flatnonzero(dark(bare))[0]], full[bottom + 1 :]
    columns = np.flatnonzero(heads.min((0, 2)) < 128)
    assert columns.size
    cells = np.flatnonzero(full[top:bottom].max((0, 2)) < 128)
    assert columns.max() < cells[CELL]  # over the first cell, not over the second
    assert (notes.min((1, 2)) < 128).any()
    assert (notes[[0, -1]] == 255).all()  # touching neither the cells nor the edge


def test_a_folder_gets_the_figures_it_has_files_for(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(folder)]) == 0
    printed = capsys.readouterr().out.split()
    assert [Path(path).name for path in printed] == ["curves.html", "curves.json", "strips.png"]
    with Image.open(folder / "figures/strips.png") as picture:
        assert picture.width > 26 * CELL
    small = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in small) < 1e6


def test_a_folder_with_nothing_to_draw_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"Error: {tmp_path} has none of curves.jsonl, strips.npz, reverse.npz and ")
    assert not (tmp_path / "figures").exists()


def test_drawing_reads_no_image_and_no_schedule(folder: Path) -> None:
    # The law of figures: what is drawn follows the files. A file that says otherwise is drawn otherwise.
    data = curves_data(folder / "curves.jsonl")
    moved = dataclasses.replace(data, curves=[dataclasses.replace(data.curves[1], f=[5.0] * 100)])
    assert set(curves_figure(moved).data[0].y) == {5.0}
    assert not {"forward", "BlurSchedule", "load"} & set(vars(blur_figures))

"""Figure F4: f(i) and blur against the share of steps, and spectra of what the blur leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.schedules import Schedules, schedules_data
from analysis.schedules_figure import schedules_figure
from wavedp.diffusion.blur import BlurSchedule
from wavedp.errors import UserError
from wavedp.reports import forward
from wavedp.store import write_jsonl


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results") / "blur_forward"
    schedules = (("none", 0.0), ("quartic", 0.140625), ("log", 0.140625), ("log", 0.600625), ("heat", 0.0))
    rows = [forward.curves(BlurSchedule(blur_schedule=name, blur_f_max=f_max), 8) for name, f_max in schedules]
    write_jsonl(results / "curves.jsonl", rows)
    forward.write_strips(results / "strips.npz", forward.public_images(8, "nowhere"))
    return results


@pytest.fixture(scope="module")
def data(folder: Path) -> Schedules:
    return schedules_data(folder)


def test_golden(data: Schedules) -> None:
    assert (data.steps, data.base) == (1000, 0.4)
    assert [curve.label for curve in data.curves] == ["none", "quartic (0.141)", "log (0.141)", "log (0.601)", "heat"]
    quartic = data.curves[1]
    assert quartic.f[-1] == pytest.approx(0.140625)
    assert [passage.label for passage in data.passages][:3] == ["none", "quartic (0.141)", "quartic (0.141), reversed"]
    assert (data.shares[0], data.shares[-1]) == (0.001, 1.0)
    assert all(passage.power.shape == (len(data.shares), len(data.frequencies)) for passage in data.passages)


def test_without_blur_the_spectrum_stays_and_blur_takes_its_fine_end(data: Schedules) -> None:
    none, quartic, back = data.passages[:3]
    assert none.power[-1] == pytest.approx(none.power[0], rel=0.01)
    ratio = quartic.power[-1] / none.power[-1]
    assert np.all(np.diff(ratio) < 0.02)
    assert ratio[-1] < ratio[0] < 1
    reverse = back.power[-1] / none.power[-1]
    assert reverse[-1] > reverse[0]


@pytest.mark.parametrize(("columns", "panels"), [(1, 7), (2, 7)])
def test_every_panel_is_drawn_with_its_units(data: Schedules, columns: int, panels: int) -> None:
    figure = schedules_figure(data, columns)
    axes = [name for name in figure.layout.to_plotly_json() if name.startswith("xaxis")]
    assert len(axes) == panels
    assert figure.layout.yaxis.title.text == "f(i), v₀"
    assert figure.layout.yaxis2.title.text == "width, px"
    assert figure.layout.xaxis.title.text == "step i / T"
    curve = next(trace for trace in figure.data if trace.name == "quartic (0.141)")
    assert (curve.x[0], curve.x[-1]) == (0.001, 1.0)


def test_without_strips_the_curves_are_drawn(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "curves.jsonl").write_bytes((folder / "curves.jsonl").read_bytes())
    data = schedules_data(tmp_path)
    assert data.passages == []
    assert "there is no strips.npz" in data.caption
    assert len(schedules_figure(data).data) == 10


def test_a_line_that_was_cut_off_is_left_out(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "curves.jsonl").write_bytes((folder / "curves.jsonl").read_bytes()[:-40])
    with pytest.warns(UserWarning, match="cut off"):
        assert [curve.name for curve in schedules_data(tmp_path).curves] == ["none", "quartic", "log", "log"]


def test_a_folder_without_curves_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no curves.jsonl: run python -m wavedp.reports.forward"):
        schedules_data(tmp_path)
    (tmp_path / "curves.jsonl").write_text("")
    with pytest.raises(UserError, match="holds no schedule"):
        schedules_data(tmp_path)

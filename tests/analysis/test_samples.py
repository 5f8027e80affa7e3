"""Sample sheets: which images they show, and that the picture shows them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from study_folder import build

from analysis.load import Study, load
from analysis.samples import CELL, GAP, samples_data, samples_picture, write_samples
from wavedp.errors import UserError


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return load(build(tmp_path_factory.mktemp("results") / "eps_grid"))


def stored(study: Study, trial: str, name: str) -> np.ndarray:
    return np.load(study.folder / "samples" / f"{trial}.npz")[name]


def test_rows_ascend_in_epsilon_and_share_one_seed(study: Study) -> None:
    sheet = samples_data(study)
    assert list(sheet.blocks) == ["bicubic", "realesrgan_x4plus"]
    for series, rows in sheet.blocks.items():
        assert [row.epsilon for row in rows] == [1, 3, 10, math.inf]
        assert [row.trial for row in rows] == [f"eps{e}-{series}-s0" for e in ("1", "3", "10", "inf")]
    assert sheet.seed == 0


def test_columns_are_the_same_places_in_every_row(study: Study) -> None:
    sheet = samples_data(study, columns=7)
    assert len(sheet.indices) == 7
    assert (sheet.indices[0], sheet.indices[-1]) == (0, 19)
    for row in sheet.blocks["bicubic"]:
        np.testing.assert_array_equal(row.images, stored(study, row.trial, "images")[sheet.indices])
    assert sheet.labels == stored(study, "eps1-bicubic-s0", "labels")[sheet.indices].tolist()


def test_a_seed_that_one_row_lacks_is_not_chosen(tmp_path: Path) -> None:
    folder = build(tmp_path / "s", seeds=2)
    (folder / "samples" / "eps3-bicubic-s0.npz").unlink()
    sheet = samples_data(load(folder))
    assert sheet.seed == 1
    assert {row.trial[-2:] for rows in sheet.blocks.values() for row in rows} == {"s1"}


def test_rows_without_a_common_seed_are_said_to_have_none(tmp_path: Path) -> None:
    folder = build(tmp_path / "s", seeds=2, upscalers=("bicubic",))
    for name in ("eps3-bicubic-s0", "eps1-bicubic-s1"):
        (folder / "samples" / f"{name}.npz").unlink()
    sheet = samples_data(load(folder))
    assert sheet.seed is None
    (rows,) = sheet.blocks.values()
    assert [row.trial for row in rows][:2] == ["eps1-bicubic-s0", "eps3-bicubic-s1"]


def test_coarse_images_that_series_share_are_shown_once(study: Study) -> None:
    sheet = samples_data(study, "coarse")
    assert list(sheet.blocks) == ["coarse 14×14, before: bicubic; realesrgan_x4plus"]
    (rows,) = sheet.blocks.values()
    np.testing.assert_array_equal(rows[0].images, stored(study, "eps1-bicubic-s0", "coarse")[sheet.indices])


def test_picture_holds_the_pixels_enlarged_by_whole_factors(study: Study) -> None:
    sheet = samples_data(study)
    picture = np.asarray(samples_picture(sheet))
    cell = sheet.blocks["realesrgan_x4plus"][-1].images[-1, 0].repeat(2, 0).repeat(2, 1)
    assert cell.shape == (CELL, CELL)
    # The last cell ends one margin before the lower right corner (12 px) and one gap above it.
    bottom, right = picture.shape[0] - 12 - GAP, picture.shape[1] - 12
    shown = picture[bottom - CELL : bottom, right - CELL : right]
    for channel in range(3):
        np.testing.assert_array_equal(shown[..., channel], cell)


def test_colour_and_large_images_are_left_as_they_are(tmp_path: Path) -> None:
    folder = build(tmp_path / "s", epsilons=(1.0,), seeds=1, upscalers=("bicubic",))
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 64, 64), dtype=np.uint8)
    np.savez(folder / "samples" / "eps1-bicubic-s0.npz", images=images, coarse=images, labels=np.arange(12))
    picture = np.asarray(samples_picture(samples_data(load(folder))))
    right = picture.shape[1] - 12
    top = picture.shape[0] - 12 - GAP - 64
    np.testing.assert_array_equal(picture[top : top + 64, right - 64 : right], images[11].transpose(1, 2, 0))


def test_files_and_sidecar(study: Study, tmp_path: Path) -> None:
    written = write_samples(study, tmp_path)
    assert [path.name for path in written] == ["samples.png", "samples_coarse.png", "samples.json"]
    sidecar = json.loads(written[2].read_text())
    assert sidecar["trials"]["samples.png"]["bicubic"][0] == "eps1-bicubic-s0"
    assert sidecar["indices"] == samples_data(study).indices
    assert sidecar["provenance"] == study.provenance()
    with Image.open(written[0]) as picture:
        assert picture.size == samples_picture(samples_data(study)).size


def test_a_study_without_samples_is_refused(tmp_path: Path) -> None:
    folder = build(tmp_path / "s", epsilons=(1.0,), seeds=1)
    for path in (folder / "samples").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"holds no \.npz of a finished trial"):
        samples_data(load(folder))

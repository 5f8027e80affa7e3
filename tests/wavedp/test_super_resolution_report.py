"""The super-resolution report in miniature, on procedural images."""

import io
import json
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from wavedp.fields import result
from wavedp.reports import super_resolution as report
from wavedp.upscalers import UpscalerMethod


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[list[dict], bytes]:
    folder = tmp_path_factory.mktemp("report")
    arguments = ["--data", "procedural", "--size", "32", "--level", "1", "--images", "6", "--train-steps", "2"]
    arguments += ["--upscalers", "nearest", "bicubic", "animevideov3_x2", "wavelet_detail"]
    assert report.main([*arguments, "--store", str(folder / "store"), "--results", str(folder)]) == 0
    rows = [json.loads(line) for line in (folder / "super_resolution.jsonl").read_text().splitlines()]
    return rows, (folder / "super_resolution.png").read_bytes()


def test_every_upscaler_has_a_row_with_and_without_the_low_pass_kept(made):
    rows, _ = made
    assert [(row["upscaler"], row["low_pass_consistency"]) for row in rows] == [
        ("nearest", False), ("nearest", True), ("bicubic", False), ("bicubic", True),
        ("animevideov3_x2", False), ("animevideov3_x2", True), ("wavelet_detail", True),
    ]  # fmt: skip
    for row in rows:
        assert (row["block_mean_error"] < 1e-5) == (row["low_pass_consistency"] or row["upscaler"] == "nearest")
        assert (row["key"] is None) == (row["upscaler"] != "wavelet_detail")
        assert row["seconds"] > 0


def test_better_images_score_better(made):
    by_name = {(row["upscaler"], row["low_pass_consistency"]): row for row in made[0]}
    nearest, bicubic = by_name["nearest", False], by_name["bicubic", False]
    assert bicubic["psnr"] > nearest["psnr"] + 0.5
    assert bicubic["perceptual"] < nearest["perceptual"]
    assert by_name["bicubic", True]["psnr"] > bicubic["psnr"]  # the block means are the truth's


def test_the_picture_has_a_column_each(made):
    picture = Image.open(io.BytesIO(made[1]))
    assert picture.size == (6 * 36, 3 * 36 + 14)  # original, coarse and four upscalers


def test_a_handful_of_photographs_is_enough(tmp_path, capsys):
    """No private fit stands behind the report, so no batch of one has to be drawn from them."""
    (tmp_path / "photographs").mkdir()
    for name in ("Dune", "Aqua"):
        pixels = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photographs" / f"{name}.jpg")
    arguments = ["--home", str(tmp_path), "--size", "32", "--level", "1", "--upscalers", "nearest"]
    assert report.main([*arguments, "--results", str(tmp_path / "results")]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (first["data"], first["images"]) == ("photographs", 2)


def test_errors_are_a_sentence(tmp_path, capsys):
    assert report.main(["--home", str(tmp_path), "--results", str(tmp_path)]) == 2
    assert "photographs is not in" in capsys.readouterr().err
    assert report.main(["--data", "procedural", "--size", "30", "--level", "2", "--results", str(tmp_path)]) == 2
    assert "level=2 needs images divisible by 4" in capsys.readouterr().err


def test_nothing_is_measured_before_every_upscaler_is_known(tmp_path, capsys):
    arguments = ["--data", "procedural", "--size", "32", "--level", "1", "--results", str(tmp_path)]
    for wrong, message in (("bicubik", "'bicubik' is not known"), ("spectral", "use generator=spectral_ar")):
        assert report.main([*arguments, "--upscalers", "bicubic", wrong]) == 2
        printed = capsys.readouterr()
        assert message in printed.err
        assert printed.out == ""


@dataclass(frozen=True)
class MineConfig:
    name: str = result("mine")


class Mine(UpscalerMethod):
    """Moves block means, and has no option to keep them."""

    name, Config = "mine", MineConfig

    def load(self, config, device):
        return Dark()


class Dark:
    name = "mine"

    def upscale(self, images, factor):
        return 0.5 * images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)

    def bridge(self, factor):
        return None


def test_an_upscaler_of_ones_own_has_a_row(tmp_path):
    arguments = ["--data", "procedural", "--size", "32", "--level", "1", "--images", "3", "--results", str(tmp_path)]
    assert report.main([*arguments, "--upscalers", f"{__name__}:Mine"]) == 0
    (row,) = [json.loads(line) for line in (tmp_path / "super_resolution.jsonl").read_text().splitlines()]
    assert row["low_pass_consistency"] is False
    assert row["block_mean_error"] > 0.01

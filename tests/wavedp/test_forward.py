"""wavedp.reports.forward: curves and strips against the scheduler and the formulas they are drawn from."""

import json
import math

import numpy as np
import pytest
import torch

from wavedp.diffusion.blur import BlurSchedule, blur_coefficients, effective_blur
from wavedp.diffusion.scheduler import BlurDiffusionScheduler
from wavedp.reports import forward
from wavedp.reports import samplers as report


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    results = tmp_path_factory.mktemp("results") / "blur_forward"
    arguments = ["--size", "8", "--home", str(results / "nothing"), "--results", str(results)]
    assert forward.main(arguments) == 0
    return results


def test_there_is_a_curve_for_each_schedule_over_the_whole_run(folder):
    rows = [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]
    assert [(row["blur_schedule"], row["blur_f_max"]) for row in rows] == list(report.SCHEDULES)
    for row in rows:
        assert (row["times"][0], row["times"][-1], len(row["times"])) == (0, 999, 100)
        assert {row["beta_schedule"], row["blur_order"], row["size"]} == {"linear", "coarse_to_fine", 8}
        assert all(len(row[name]) == 100 for name in ("blur_pixels", "snr_low", "snr_high"))


def test_the_numbers_of_a_curve_are_those_of_its_time():
    row = forward.curves(BlurSchedule(blur_schedule="linear"), 8)
    at = 33
    t = row["times"][at]
    assert row["f"][at] == pytest.approx(0.140625 * t / 999, rel=1e-5)  # f(i) at i = t + 1
    assert row["blur_pixels"][at] == pytest.approx(
        float(effective_blur(BlurSchedule(blur_schedule="linear"))[t]), rel=1e-5
    )
    a, s = (x[0] for x in blur_coefficients(BlurSchedule(blur_schedule="linear"), 8, 8, t))
    snr = (a / s).square()
    assert row["snr_low"][at] == pytest.approx(float(snr[:2, :2].mean()), rel=1e-5)
    assert row["snr_high"][at] == pytest.approx(float((snr.sum() - snr[:2, :2].sum()) / 60), rel=1e-5)


def test_the_control_takes_the_coarse_modes_and_heat_has_no_f():
    assert forward.curves(BlurSchedule(blur_schedule="heat"), 8)["f"] is None
    coarse, fine = (forward.curves(BlurSchedule(blur_order=order), 8) for order in ("coarse_to_fine", "fine_to_coarse"))
    assert coarse["snr_low"][60] > coarse["snr_high"][60]
    assert fine["snr_low"][60] < fine["snr_high"][60]


def test_strips_are_the_schedulers_states(folder):
    arrays = np.load(folder / "strips.npz")
    about = json.loads(arrays["about"].item())
    schedules, images = len(forward.STRIPS), forward.IMAGES
    assert arrays["noisy"].shape == arrays["signal"].shape == (schedules, images, 8, 1, 8, 8)
    assert about["schedules"][2]["blur_order"] == "fine_to_coarse"
    white = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(about["noise_seed"]), dtype=torch.float64)
    shown = forward.public_images(8, "nowhere").images
    data = torch.from_numpy(shown).double() / 127.5 - 1
    for p, fields in enumerate(about["schedules"]):
        scheduler = BlurDiffusionScheduler(**fields)
        for k, t in enumerate(arrays["times"].tolist()):
            for name, noise in (("noisy", white), ("signal", torch.zeros_like(white))):
                expected = scheduler.add_noise(data, noise.expand_as(data), torch.tensor([t]))
                np.testing.assert_allclose(arrays[name][p, :, k], expected, atol=2e-3)


def test_blur_alone_is_what_is_left_without_the_noise_schedule(folder):
    arrays = np.load(folder / "strips.npz")
    alone = arrays["signal"] / np.sqrt(arrays["alpha_bar"])[:, None, None, None]
    np.testing.assert_allclose(alone[0, :, -1], alone[0, :, 0], atol=5e-3)  # none blurs nothing
    assert arrays["alpha_bar"][-1] == pytest.approx(math.exp(-10.05), rel=0.1)
    change = np.abs(alone[:, :, -1] - alone[:, :, 0]).max((1, 2, 3, 4))
    assert (change[1:] > 0.3).all()


def test_without_drawings_procedural_images_are_shown_and_named(folder, capsys):
    assert forward.public_images(8, "nowhere").name == "procedural"
    assert "Procedural images are shown: openclipart is not in nowhere" in capsys.readouterr().err
    about = json.loads(np.load(folder / "strips.npz")["about"].item())
    assert about["images"] == {"name": "procedural", "split": "test", "records": [0, 1, 2]}


def test_what_is_written_is_small_and_a_wrong_size_is_refused(folder, tmp_path, capsys):
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1e6
    assert forward.main(["--size", "2", "--results", str(tmp_path / "none")]) == 2
    assert "Error: data.size=2 is not offered" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()

"""wavedp.metrics.power_spectrum: analytic spectra, and the command on a study in miniature."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import torch
import yaml

from wavedp import data
from wavedp.config import DataConfig, TrialConfig, to_dict
from wavedp.errors import UserError
from wavedp.metrics.power_spectrum import ROUNDING, bands, log_spectral_distance, spectrum
from wavedp.metrics.views import draw
from wavedp.privacy import ledger
from wavedp.reports.spectrum import main, measure

SIZES = [(28, 28), (9, 20), (20, 9), (1, 8)]


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
def test_white_noise_is_flat(size):
    found = spectrum(0.5 * noise(3000, 1, *size))
    assert ((found.power - 0.25).abs() < 4.5 * found.standard_error).all()
    # Each mode's square is 0.25 χ²(1), of variance 2 · 0.25²; a band averages over its modes and the images.
    expected = 0.25 * (2 / (3000 * found.modes.double())).sqrt()
    torch.testing.assert_close(found.standard_error, expected, rtol=0.15, atol=0)


@pytest.mark.parametrize("size", SIZES)
def test_powers_and_modes_add_up_to_the_pixels_squares(size):
    images = noise(5, 3, *size) + 0.7
    found = spectrum(images)
    assert float(found.power @ found.modes.double()) == pytest.approx(
        float(images.square().mean((0, 1)).sum()), rel=1e-12
    )
    assert int(found.modes.sum()) == size[0] * size[1]
    assert found.power.dtype == torch.float64


@pytest.mark.parametrize(("height", "width"), SIZES[:3])
@pytest.mark.parametrize("cycles", [1, 2, 4])
def test_a_cosine_has_its_power_in_its_own_band(height, width, cycles):
    # Mirrored at its ends, as the transform sees it: `cycles` whole periods along one axis, so cycles/side per pixel.
    for side, axis in ((height, 0), (width, 1)):
        wave = torch.cos(2 * math.pi * cycles * (torch.arange(side, dtype=torch.float64) + 0.5) / side)
        image = wave[:, None].expand(height, width) if axis == 0 else wave.expand(height, width)
        found = spectrum(image.expand(2, 1, height, width))
        (band,) = (found.power > 1e-20).nonzero().flatten().tolist()
        upper = cycles / side
        assert upper - 1 / max(height, width) - 1e-12 < found.frequencies[band] <= upper + 1 / max(height, width)
        assert band == math.ceil(cycles * max(height, width) / side - 1e-9)


def test_the_mean_is_alone_in_band_zero():
    found = spectrum(torch.full((2, 3, 8, 6), 0.5))
    assert found.power[0] == pytest.approx(48 * 0.25)
    assert found.power[1:].abs().max() < 1e-25
    assert (found.frequencies[0], found.modes[0]) == (0, 1)


def test_bands_hold_the_modes_up_to_their_multiple_of_one_cycle():
    band, frequencies, modes = bands(8, 8)
    # (0, 1) and (0, 2) have 1/16 and 2/16 cycles per pixel; (1, 1), √2/16; (2, 1), √5/16 > 1/8.
    assert [int(band[k]) for k in ((0, 0), (0, 1), (1, 1), (0, 2), (2, 1), (4, 0), (7, 7))] == [0, 1, 1, 1, 2, 2, 5]
    assert modes[1] == 5
    assert float(frequencies[1]) == pytest.approx((2 / 16 + 2 * 2 / 16 + math.sqrt(2) / 16) / 5)
    assert (frequencies.diff() > 0).all()


def test_it_is_scipys_transform_of_pixels_between_0_and_1():
    images = torch.randint(0, 256, (300, 2, 6, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    power = scipy.fft.dctn(images.numpy() / 255, axes=(2, 3), norm="ortho") ** 2
    band, _, _ = bands(6, 9)
    each = np.stack([power[:, :, band == j].mean((1, 2)) for j in range(int(band.max()) + 1)], 1)  # more than a chunk
    found = spectrum(images)
    np.testing.assert_allclose(found.power, each.mean(0), rtol=1e-10)
    np.testing.assert_allclose(found.standard_error, each.std(0, ddof=1) / math.sqrt(300), rtol=1e-10)
    with pytest.raises(UserError, match="needs two images, got 1: give more"):
        spectrum(images[:1])


def test_the_distance_is_in_decibels_and_blind_to_brightness_and_rounding():
    reference = torch.tensor([50.0, 1.0, 0.1, 0.01], dtype=torch.float64)
    assert log_spectral_distance(reference, reference) == 0
    assert log_spectral_distance(10 * reference, reference) == pytest.approx(10)
    assert log_spectral_distance(reference * torch.tensor([9, 1, 1, 10]), reference) == pytest.approx(10 / math.sqrt(3))
    dark = torch.tensor([1.0, 0, ROUNDING / 5])
    assert log_spectral_distance(dark, torch.tensor([1.0, ROUNDING, 0])) == 0


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two finished trials, of real images and of noise, one failed, on procedural data; 40 reference images of 51."""
    config = to_dict(TrialConfig(data=DataConfig(name="procedural", n_records=512)))
    config["metrics"] |= {"reference_samples": 40, "reference_split": "test"}
    images = data.load(DataConfig(name="procedural", n_records=512), "test").images
    white = np.random.default_rng(0).integers(0, 256, (30, 1, 28, 28), dtype=np.uint8)
    folder = tmp_path / "s"
    (folder / "samples").mkdir(parents=True)
    (folder / "study.yaml").write_text(yaml.safe_dump({"study": "s", "config": config}))
    for name, kept in (("real", images[:30]), ("noise", white), ("failed", white)):
        np.savez(folder / "samples" / f"{name}.npz", images=kept, labels=np.zeros(30))
    rows = [row("real"), row("noise"), row("failed") | {"status": "failed"}, row("no-samples")]
    (folder / "trials.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return folder


def row(name: str) -> dict:
    common = {"trial": name, "status": "done", "seed": 0, "epsilon": "inf", "metrics": {"fid": 1.0}}
    return common | {"axes": {"epsilon": "inf"}, "keys": {"reference": "ref"}}


def test_a_study_has_a_line_for_its_data_and_each_finished_trial(study, capsys):
    assert main([str(study)]) == 0
    real, first, second = (json.loads(line) for line in (study / "spectra.jsonl").read_text().splitlines())
    assert (real["trial"], real["study"], real["split"], real["n_images"]) == (None, "s", "test", 40)
    assert [(each["trial"], each["n_images"]) for each in (first, second)] == [("real", 30), ("noise", 30)]
    assert first["axes"] == {"epsilon": "inf"}
    assert "metrics" not in first
    assert first["log_spectral_distance"] < 3 < second["log_spectral_distance"]
    images = torch.tensor(data.load(DataConfig(name="procedural", n_records=512), "test").images)
    expected = spectrum(draw(images, 40))  # those that FID is measured against
    np.testing.assert_allclose(real["power"], expected.power, rtol=1e-5)
    np.testing.assert_allclose(real["standard_error"], expected.standard_error, rtol=1e-5)
    assert "look without noise, which no epsilon covers" in capsys.readouterr().out


def test_the_look_is_a_ledger_line_of_its_own_file_and_the_same_look_is_one_line(study):
    for _ in range(2):
        assert main([str(study)]) == 0
    (line,) = ledger.read(study / "spectra_ledger.jsonl")
    assert (line["kind"], line["purpose"], line["epsilon"]) == ("nonprivate", "power spectrum of 40 test images", "inf")
    assert (line["stage_key"], line["trials"]) == ("ref", ["real", "noise"])
    config = DataConfig(name="procedural", n_records=512)
    assert (line["dataset"], line["n_records"]) == (data.fingerprint(config, "test"), data.n_records(config, "test"))
    assert not (study / "ledger.jsonl").exists()


def test_the_home_of_the_data_can_be_given(study):
    path = study / "study.yaml"
    meta = yaml.safe_load(path.read_text())
    meta["config"]["data"] |= {"name": "fashion_mnist", "home": "/nowhere"}
    path.write_text(yaml.safe_dump(meta))
    for home, said in ((None, "/nowhere"), ("/elsewhere", "/elsewhere")):
        with pytest.raises(UserError, match=said):
            measure(study, home)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda folder: (folder / "study.yaml").unlink(), "is not a study, for it lacks study.yaml: give"),
        (lambda folder: [path.unlink() for path in (folder / "samples").iterdir()], "no .npz of a finished trial"),
        (lambda folder: (folder / "samples/real.npz").write_bytes(b"torn"), "cannot be read .*: restore or remove it"),
        (
            lambda folder: np.savez(folder / "samples/real.npz", images=np.zeros((3, 1, 14, 14), np.uint8)),
            r"holds images \(1, 14, 14\) \(C, H, W\) and the data are \(1, 28, 28\): remove it",
        ),
        (
            lambda folder: (folder / "trials.jsonl").write_text(json.dumps(row("real") | {"axes": {"data.size": 8}})),
            "vary data.size, so they have no data in common: split the study",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_one_sentence_and_leaves_nothing(study, break_it, words, capsys):
    break_it(study)
    with pytest.raises(UserError, match=words):
        measure(study)
    assert main([str(study)]) == 2
    assert capsys.readouterr().err.startswith("Error: ")
    assert not list(study.glob("spectra*"))

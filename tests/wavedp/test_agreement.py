"""Our metrics against clean-fid, torch-fidelity and prdc, each with its own way from files to features."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from wavedp import data
from wavedp.config import DataConfig
from wavedp.data import export
from wavedp.errors import UserError
from wavedp.metrics.features import clean_resize, pytorch_resize, tensorflow_resize
from wavedp.reports import agreement as agreement_module
from wavedp.reports import oracles
from wavedp.reports.agreement import Row, agreement, main

REAL, GENERATED = 32, 28  # images


def images(count, channels, side, seed, level=0.0):
    """Smooth noisy pictures, uint8 B C H W."""
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.nn.functional.interpolate(torch.rand(count, channels, 4, 4, generator=generator), side)
    noisy = smooth + level * torch.rand(count, channels, side, side, generator=generator)
    return (noisy.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def save(folder, pictures, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(pictures, first):
        Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(folder / f"{number:03}.png")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Grey and colour, two sizes: real, and generated of which half are noisy."""
    root = tmp_path_factory.mktemp("sets")
    save(root / "real", images(REAL - 4, 1, 28, 0))
    save(root / "real", images(4, 3, 40, 1), REAL - 4)
    save(root / "made", images(GENERATED // 2, 1, 28, 2))
    save(root / "made", images(GENERATED // 2, 1, 28, 3, level=0.3), GENERATED // 2)
    return root


@pytest.fixture(scope="module")
def rows(folders):
    """What the command writes."""
    assert main(arguments(folders)) == 0
    return {row.metric: row for row in written(folders)}


def arguments(folders):
    places = ["--work", str(folders / "work"), "--out", str(folders / "out")]
    return [str(folders / "real"), str(folders / "made"), *places]


def written(folders):
    return [Row(**json.loads(line)) for line in (folders / "out" / "agreement.jsonl").read_text().splitlines()]


def test_every_metric_agrees(rows):
    assert set(rows) == {
        *("features_clean", "fid_clean", "kid_clean", "precision_clean", "recall_clean", "density_clean"),
        *("coverage_clean", "features_tensorflow", "fid_tensorflow", "kid_tensorflow", "precision_k3_tensorflow"),
        "recall_k3_tensorflow",
    }
    for row in rows.values():
        assert (row.n_generated, row.n_real) == (GENERATED, REAL)
    for mode in ("clean", "tensorflow"):
        fid, kid, features = (rows[f"{name}_{mode}"] for name in ("fid", "kid", "features"))
        assert fid.ours > 20
        assert abs(fid.difference) < 0.02
        assert fid.difference == fid.ours - fid.theirs
        assert kid.ours == pytest.approx(kid.theirs, rel=1e-3)
        assert features.difference < 1e-3 * features.ours
    for row in rows.values():
        if row.metric.startswith(("precision", "recall", "density", "coverage")):
            assert row.ours == pytest.approx(row.theirs, abs=0.04), row.metric  # one image more or less
            assert row.ours > 0, row.metric
    assert rows["fid_clean"].implementation == oracles.version("clean-fid")
    assert rows["density_clean"].implementation.startswith("prdc 0")


def test_the_two_modes_are_not_one(rows):
    """Or the agreement in either would say nothing about the resize."""
    assert abs(rows["fid_clean"].ours - rows["fid_tensorflow"].ours) > 0.5


def test_a_second_run_takes_no_features(folders, rows, monkeypatch, capsys):
    """Metrics are stubbed: theirs take matrix roots of 2048 x 2048, and only features are kept."""

    def taken(*_):
        raise AssertionError("features were taken again")

    for oracle in (oracles.CleanFid, oracles.TorchFidelity):
        monkeypatch.setattr(oracle, "features", taken)
        monkeypatch.setattr(oracle, "metrics", lambda *_: {})
    monkeypatch.setattr(oracles, "prdc", lambda *_, **__: {})
    monkeypatch.setattr(agreement_module, "_metrics", lambda *_: {})
    monkeypatch.setattr("wavedp.metrics.features.load_network", taken)
    assert main(arguments(folders)) == 0
    assert f"GENERATED: {GENERATED} of {GENERATED} images, about 0 s left" in capsys.readouterr().err
    assert written(folders) == [rows["features_clean"], rows["features_tensorflow"]]


def test_a_missing_oracle_and_too_few_images_are_one_sentence(folders, tmp_path, monkeypatch, capsys):
    assert main([str(folders / "real"), str(tmp_path), "--work", str(tmp_path)]) == 2
    assert "holds 0 images, and 6 are wanted" in capsys.readouterr().err
    with pytest.raises(UserError, match="holds 28 images, and 30 are wanted"):
        agreement(folders / "real", folders / "made", 30, tmp_path)
    monkeypatch.setitem(sys.modules, "prdc", None)
    assert main([str(folders / "real"), str(folders / "made"), "--work", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "needs the package prdc" in error
    assert "pip install 'wavedp[metrics]'" in error


@pytest.mark.parametrize("size", [(28, 28), (299, 299), (41, 350)])
def test_tensorflow_mode_resizes_as_torch_fidelity(size):
    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, *size), dtype=np.uint8))
    theirs = interpolate_bilinear_2d_like_tensorflow1x(pictures.float(), (299, 299), align_corners=False)
    torch.testing.assert_close(tensorflow_resize(pictures), theirs, atol=1e-3, rtol=0)
    if size == (28, 28):  # neither of the other modes is this one
        for other in (clean_resize, pytorch_resize):
            assert (other(pictures) - theirs).abs().max() > 50


# Datasets as folders


def test_export_writes_what_load_reads(tmp_path, capsys):
    config = DataConfig("procedural", n_records=30, size=16, channels=3, home=str(tmp_path))
    dataset = data.load(config, "train")
    assert export.export(dataset, tmp_path / "set", skip=5, count=10) == 10
    written = sorted((tmp_path / "set").rglob("*.png"), key=lambda path: path.name)
    assert [path.name for path in written] == [f"{number:05}.png" for number in range(5, 15)]
    for path, image, label in zip(written, dataset.images[5:], dataset.labels[5:], strict=False):
        assert np.array_equal(np.asarray(Image.open(path)).transpose(2, 0, 1), image)
        assert path.parent.name == dataset.classes[label]
    with pytest.raises(UserError, match="is not empty"):
        export.export(dataset, tmp_path / "set")
    with pytest.raises(UserError, match="records 25 to 35 are not among the 30"):
        export.export(dataset, tmp_path / "more", skip=25, count=10)
    arguments = ["procedural", "train", str(tmp_path / "grey"), "--count", "3", "--home", str(tmp_path)]
    assert export.main(arguments) == 0
    assert "3 images are now in" in capsys.readouterr().out
    assert export.main(arguments) == 2
    assert "is not empty" in capsys.readouterr().err

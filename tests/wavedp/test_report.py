"""The reconstruction report in miniature: a row for every tokenizer and level, and no sensitive image on disk."""

import dataclasses
import json

import torch

from wavedp.config import DataConfig, MetricsConfig, TrialConfig
from wavedp.reports import reconstruction as report
from wavedp.store import Store

TINY = TrialConfig(
    data=DataConfig(name="procedural", n_records=64),
    public=DataConfig(name="procedural", split="public", n_records=64),
    metrics=MetricsConfig(precision="bfloat16"),
)
SMALL = {"width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1, "train_steps": 2, "train_batch": 4}


def test_every_tokenizer_and_level_has_a_row(tmp_path, monkeypatch):
    # Stands in for the FID network, a minute's work here: what is measured is tested with the metrics.
    monkeypatch.setattr(report, "extract", lambda images, config, device: images.float().flatten(1)[:, :40])
    rows = list(report.measure(TINY, 24, Store(str(tmp_path)), "cpu", report.variants(**SMALL)))
    found = [(row["tokenizer"], row["scale_causal"], row["level"], row["tokens"]) for row, _ in rows]
    assert found == [
        ("scalar", None, 0, 294), ("scalar", None, 1, 98), ("scalar", None, 2, 49),
        ("raster", None, 0, 49), ("raster", None, 1, 49), ("raster", None, 2, 49),
        ("spectral", "both", 0, 147), ("spectral", "both", 1, 98), ("spectral", "both", 2, 49),
        ("spectral", "decoder", 0, 147), ("spectral", "decoder", 1, 98), ("spectral", "decoder", 2, 49),
        ("spectral", "encoder", 0, 147), ("spectral", "none", 0, 147),
    ]  # fmt: skip
    scalar = rows[2][0]
    assert scalar["psnr"] > 30  # 32 levels on [0, 1]: an error of at most 1/62 a pixel, so 36 dB or so
    assert "rfid_clean-bf16_24_test" in scalar
    assert scalar["bits"] == 49 * 5
    assert all(image.shape == (10, 1, 28 >> row["level"], 28 >> row["level"]) for row, image in rows)


def test_the_picture_is_of_public_images(tmp_path, monkeypatch, capsys):
    trial = dataclasses.replace(TINY, public=DataConfig(name="procedural", split="public", n_records=64))
    monkeypatch.setattr(report, "TrialConfig", lambda metrics: trial)
    rows = [({"key": "k", "tokenizer": "t", "training": {}}, torch.zeros(10, 1, 14, 14, dtype=torch.uint8))]
    monkeypatch.setattr(report, "measure", lambda *arguments: iter(rows))
    assert report.main(["--results", str(tmp_path), "--images", "16"]) == 0
    assert json.loads((tmp_path / "reconstruction.jsonl").read_text())["tokenizer"] == "t"
    (line,) = (json.loads(row) for row in (tmp_path / "ledger.jsonl").read_text().splitlines())
    assert line["kind"] == "nonprivate"
    assert (tmp_path / "reconstruction.png").stat().st_size > 100

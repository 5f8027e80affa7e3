"""check.py in small on the CPU: it needs neither ray nor hydra, says what it did, and finds what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import check
import correctness
import pack
import pytest
import setting
import speed
import torch

from wavedp.generators.spectral_ar.transformer import SpectralTransformer
from wavedp.metrics import features
from wavedp.privacy.clipping import RecordGradients
from wavedp.privacy.microbatches import Microbatches
from wavedp.upscalers.wavelet_detail import network

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--small", "--device", "cpu"]
BLOCKED = "import sys, runpy; sys.modules['ray'] = sys.modules['hydra'] = None; sys.argv = sys.argv[1:]; "


def run(tmp_path, *arguments):
    """Its exit status and JSON, in this process."""
    status = check.main([*SMALL, "--out", str(tmp_path / "check.json"), *arguments])
    return status, json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))


def test_everything_is_checked_without_ray_and_hydra(tmp_path):
    script = f"{BLOCKED}runpy.run_path({str(ROOT / 'tests' / 'gpu' / 'check.py')!r}, run_name='__main__')"
    command = [
        sys.executable,
        "-c",
        script,
        "check.py",
        *SMALL,
        "--out",
        str(tmp_path / "check.json"),
        "--minutes",
        "20",
    ]
    here = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=here, cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
    assert [part["name"] for part in found["sections"]] == [section.name for section in check.sections()]
    assert {part["status"] for part in found["sections"]} <= {"passed", "measured", "skipped"}
    for part in found["sections"]:
        assert part["rows"] or part["status"] == "skipped"
        assert part["reason"] or part["status"] != "skipped"
    for part in found["sections"]:
        if part["kind"] == "table":
            assert all(row["value"] > 0 for row in part["rows"]), part
    assert found["schema"] == 1
    assert found["failed"] == 0
    assert found["device"]["kind"] == "cpu"
    assert [goal["reached"] for goal in found["goals"]] == [None] * len(check.GOALS)
    for words in ("clipped_sums_of_layers", "no CUDA", "nothing wrong"):
        assert words in done.stdout


def longer(monkeypatch):
    """A clipped sum that is 1 % too long."""
    original = RecordGradients.clipped_sum
    monkeypatch.setattr(RecordGradients, "clipped_sum", lambda *given: [1.01 * part for part in original(*given)])


def once_a_microbatch(monkeypatch):
    """Something that is added for each microbatch, where it should be for each step."""
    original = RecordGradients.clipped_sum
    monkeypatch.setattr(RecordGradients, "clipped_sum", lambda *given: [part + 0.01 for part in original(*given)])


def forgetful(monkeypatch):
    """A sampler whose cache makes other codes."""
    original = SpectralTransformer.sample

    def sample(self, conditions, uniforms, *rest, cached=True, **options):
        codes = original(self, conditions, uniforms, *rest, cached=cached, **options)
        return codes if cached else codes.roll(1, 0)

    monkeypatch.setattr(SpectralTransformer, "sample", sample)


def mixing(monkeypatch):
    """A network that lets the images of a batch see each other."""
    original = network.complete

    def complete(*given):
        images = original(*given)
        return images + 0.05 * images.mean(0)

    monkeypatch.setattr(network, "complete", complete)


def batched(monkeypatch):
    """Features that depend on the batch."""
    original = features._forward
    monkeypatch.setattr(features, "_forward", lambda *given: original(*given) * (1 + 0.001 * len(given[1])))


def losing(monkeypatch):
    """Microbatches that did not fit count as done."""
    original = Microbatches._sum_or_none

    def sum_or_nothing(self, batch, seed):
        found = original(self, batch, seed)
        return [torch.zeros_like(parameter) for parameter in self.parameters] if found is None else found

    monkeypatch.setattr(Microbatches, "_sum_or_none", sum_or_nothing)


@pytest.mark.parametrize(
    ("section", "sabotage"),
    [
        ("clipped_sums_of_layers", longer),
        ("clipped_sums_of_models", longer),
        ("private_fits", once_a_microbatch),
        ("samplers", forgetful),
        ("upscalers", mixing),
        ("fid_features", batched),
        ("out_of_memory", losing),
    ],
)
def test_what_is_wrong_is_found(section, sabotage, monkeypatch, tmp_path, capsys):
    sabotage(monkeypatch)
    status, found = run(tmp_path, "--only", section)
    (part,) = found["sections"]
    assert (status, part["status"]) == (1, "failed")
    assert found["failed"] > 0
    assert "FAILED" in capsys.readouterr().out


def test_an_exception_is_wrong_and_the_rest_goes_on(monkeypatch, tmp_path):
    def broken(*given):
        raise RuntimeError("no kernel for this card")

    monkeypatch.setattr(RecordGradients, "clipped_sum", broken)
    status, found = run(tmp_path, "--only", "clipped_sums_of_layers,wavelets_and_tokens")
    assert status == 1
    assert [part["status"] for part in found["sections"]] == ["error", "passed"]
    assert "no kernel" in found["sections"][0]["reason"]


def test_what_is_done_is_kept_when_it_is_stopped(monkeypatch, tmp_path):
    def stopped(*given, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(SpectralTransformer, "sample", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "--only", "wavelets_and_tokens,samplers")
    found = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
    assert [part["name"] for part in found["sections"]] == ["wavelets_and_tokens"]
    assert len(found["goals"]) == len(check.GOALS)


def test_a_missing_package_or_file_is_said(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.partition(".")[0] == "opacus"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "wavedp.privacy.opacus_layers", raising=False)
    monkeypatch.setitem(sys.modules, "opacus", None)
    names = "clipped_sums_of_layers,upscalers,fid_features"
    nowhere = str(tmp_path / "nowhere")
    status, found = run(tmp_path, "--only", names, "--inception", nowhere, "--weights", nowhere)
    layers, upscalers, fid = found["sections"]
    assert status == 0
    by_mode = {
        mode: [row for row in layers["rows"] if f", {mode} " in row["name"]] for mode in ("bookkeeping", "hooks")
    }
    assert {row["status"] for row in by_mode["bookkeeping"]} == {"passed"}
    assert {(row["status"], row["reason"][:18]) for row in by_mode["hooks"]} == {("skipped", "the package opacus")}
    assert "nowhere" in next(row["reason"] for row in upscalers["rows"] if row["status"] == "skipped")
    assert fid["status"] == "skipped"
    assert "nowhere" in fid["reason"]


def test_it_stops_in_time(monkeypatch, tmp_path):
    status, found = run(tmp_path, "--minutes", "0")
    assert status == 0
    assert {part["status"] for part in found["sections"]} == {"not run"}
    ticks = iter(range(10**6))
    monkeypatch.setattr("time.monotonic", lambda: float(next(ticks)))
    _, found = run(tmp_path, "--only", "wavelets_and_tokens,samplers", "--minutes", "0.1")
    assert [part["status"] for part in found["sections"]] == ["cut short", "not run"]
    assert 0 < len(found["sections"][0]["rows"]) < 14


@pytest.mark.parametrize(("step", "expected", "projected"), [(0.1, 0.1, False), (0.5, 8.0, True)])
def test_a_step_that_would_take_too_long_is_projected(step, expected, projected, monkeypatch):
    """The U-Net's large step is tried with a sixteenth of its batch first."""
    asked = []

    def timed(setting, about, problem, mode, precision, batch, rows, steps=8):
        asked.append(batch)
        return {"name": about, "value": step, "unit": "s", "peak_gib": 1.0}

    monkeypatch.setattr(speed, "_step", timed)
    monkeypatch.setattr(speed, "unet", lambda setting, records, **sizes: correctness.unet(setting, records))
    ticks = iter(range(100))
    monkeypatch.setattr(speed, "_now", lambda setting: 0.01 * next(ticks))
    _, plain, *rest = speed.unet_large_step(setting.Setting("cpu", small=False))
    assert (plain["value"], plain["projected"]) == (expected, projected)
    assert asked[:2] == ([256, 256] if projected else [256, 4096])
    assert {row["name"] for row in rest} == {"bookkeeping bfloat16", "bookkeeping float32"}


def test_a_row_without_memory_says_so(monkeypatch, tmp_path):
    def full(*given, **named):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("wavedp.privacy.training.fit_private", full)
    status, found = run(tmp_path, "--only", "transformer_step")
    assert status == 0
    assert {row["value"] for row in found["sections"][0]["rows"]} == {None}
    assert "out of memory with" in found["sections"][0]["rows"][0]["reason"]


def test_goals_are_judged_on_cuda_alone():
    rows = [{"name": "plain bfloat16", "value": 0.06, "peak_gib": 9.0},
            {"name": "bookkeeping bfloat16", "value": 0.09, "peak_gib": 12.0}]  # fmt: skip
    done = [{"name": "transformer_step", "rows": rows}]
    ratio, seconds, absent, *_ = (check.judged(goal, done, "cuda") for goal in check.GOALS)
    assert (ratio["found"], ratio["reached"]) == (pytest.approx(1.5), False)
    assert (seconds["found"], seconds["reached"]) == (0.09, False)
    assert (absent["found"], absent["reached"]) == (None, None)
    assert check.judged(check.GOALS[1], done, "cpu")["reached"] is None
    rows[1]["value"] = 0.08
    assert check.judged(check.GOALS[0], done, "cuda")["reached"] is True


def test_what_cannot_be_asked_for(capsys):
    assert check.main([*SMALL, "--only", "everything"]) == 2
    assert "everything is not a section" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert check.main(["--device", "cuda"]) == 2


@pytest.mark.parametrize("length", [0, 3, 4, 4099])
def test_a_file_comes_back_as_it_was(length, tmp_path):
    content = bytes((7 * place + place // 5) % 256 for place in range(length))
    (tmp_path / "inception.packed").write_bytes(pack.together(content))
    assert pack.restore(tmp_path, tmp_path / "network.pt").read_bytes() == content


def test_pieces_join_to_the_archive(tmp_path):
    archive = bytes(range(256)) * 10
    found = pack.pieces(archive, tmp_path / "gpu", 1000)
    assert [piece.relative_to(tmp_path / "gpu").as_posix() for piece in found] == [
        "1/piece.01", "2/piece.02", "3/piece.03"]  # fmt: skip
    assert b"".join(piece.read_bytes() for piece in sorted(found, key=lambda piece: piece.name)) == archive
    assert max(len(piece.read_bytes()) for piece in found) == 1000

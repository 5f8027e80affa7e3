"""The paper's figures by command: what is written, and what broken records do to it."""

from __future__ import annotations

import json
import math
import re
import shutil
import zlib
from pathlib import Path

import pytest
from study_folder import build

from analysis.drawings import DRAWINGS
from analysis.figures import FIGURES, draw, main

OF_ONE_STUDY = ("overlay", "heatmap", "upscalers", "price", "hypervolume")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("made") / "eps_grid", epsilons=(1.0, 3.0, math.inf), seeds=3)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "results" / "eps_grid"))


@pytest.fixture
def no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/chromium")


def change(folder: Path, **fields) -> None:
    """Set fields of every trial."""
    rows = [json.loads(line) | fields for line in (folder / "trials.jsonl").read_text("utf-8").splitlines()]
    (folder / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.usefixtures("no_browser")
def test_the_command_draws_what_is_named(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(folder), "heatmap", "price"]) == 0
    names = [Path(line).name for line in capsys.readouterr().out.split()]
    assert names == ["heatmap.html", "heatmap.json", "price.html", "price.json"]
    page = (folder / "figures" / "heatmap.html").read_text("utf-8")
    assert "../../plotly.min.js" in page
    assert "http" not in page
    figure = json.loads((folder / "figures" / "heatmap.json").read_text("utf-8"))
    assert set(figure["layout"]["meta"]["provenance"]["studies"][0]) >= {"trials_sha256", "ledger_sha256", "commit"}
    assert not (folder / "figures" / "pareto.html").exists()


@pytest.mark.usefixtures("no_browser")
def test_widths_are_those_of_columns(folder: Path) -> None:
    for columns, width in ((1, 324), (2, 680)):
        main([str(folder), "hypervolume", "--columns", str(columns)])
        figure = json.loads((folder / "figures" / "hypervolume.json").read_text("utf-8"))
        assert figure["layout"]["width"] == width


@pytest.mark.usefixtures("no_browser")
def test_several_studies_are_drawn_into_the_first_ones_folder(folder: Path) -> None:
    other = folder.parent / "other"
    shutil.copytree(folder, other)
    (other / "study.yaml").write_text((other / "study.yaml").read_text("utf-8").replace("study: eps_grid", "study: b"))
    assert main([str(folder), str(other), "overlay"]) == 0
    text = (folder / "figures" / "overlay.json").read_text("utf-8")
    assert "b: bicubic" in text
    assert not (other / "figures").exists()


@pytest.mark.usefixtures("no_browser")
@pytest.mark.parametrize("name", OF_ONE_STUDY)
def test_a_line_that_was_cut_off_is_left_out_with_a_sentence(
    folder: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    path = folder / "trials.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert len(draw([folder], [name])) == 2
    (notice,) = (line for line in capsys.readouterr().err.splitlines() if "cut off" in line)
    assert "line 20" in notice


@pytest.mark.usefixtures("no_browser")
@pytest.mark.parametrize("name", OF_ONE_STUDY)
@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"metrics": {}}, "cannot|none of its 20 trials has finished|metric|nothing can be compared"),
        ({"status": "failed", "metrics": {}}, "none of its 20 trials has finished"),
    ],
)
def test_without_a_metric_or_a_finished_trial_there_is_one_sentence(
    folder: Path, name: str, fields: dict, sentence: str, capsys: pytest.CaptureFixture
) -> None:
    """The price alone needs neither: what was released was released."""
    change(folder, **fields)
    written = draw([folder], [name])
    said = [line for line in capsys.readouterr().err.splitlines() if "no PNG or PDF" not in line]
    if name == "price":
        assert (len(written), said) == (2, [])
        return
    assert written == []
    (line,) = said
    assert re.search(sentence, line)


@pytest.mark.usefixtures("no_browser")
@pytest.mark.parametrize("name", ["overlay", "heatmap", "hypervolume"])
def test_a_study_that_may_not_be_compared_does_not_stop_the_others(
    folder: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    other = folder.parent / "other"
    shutil.copytree(folder, other)
    meta = (other / "study.yaml").read_text("utf-8").replace("study: eps_grid", "study: other").replace("28", "32")
    (other / "study.yaml").write_text(meta, encoding="utf-8")
    assert len(draw([folder, other, folder.parent / "nowhere"], [name])) == 2
    said = capsys.readouterr().err
    assert "other and eps_grid may not share an axis: resolution 32×32 against 28×28" in said
    assert "nowhere is left out: there is no folder" in said


@pytest.mark.usefixtures("no_browser")
def test_what_a_folder_lacks_is_a_sentence_for_each_figure(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert draw([folder], ["schedules", "spectra", "ablation"]) == []
    said = capsys.readouterr().err.splitlines()
    assert "schedules not drawn" in said[0]
    assert "no curves.jsonl" in said[0]
    assert "run python -m wavedp.reports.spectrum" in said[1]
    assert "an ablation has one ε" in said[2]


def test_a_word_that_is_neither_a_folder_nor_a_figure(capsys: pytest.CaptureFixture) -> None:
    assert main(["heatmapp"]) == 2
    assert "did you mean heatmap?" in capsys.readouterr().err
    assert main(["nothing"]) == 2
    assert f"use one of {', '.join(sorted((*FIGURES, *DRAWINGS)))}." in capsys.readouterr().err
    assert main(["heatmap"]) == 2
    assert "say of which study to draw heatmap" in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("chromium"), reason="draws with Chromium, which is not installed")
def test_a_pdf_is_vectors_with_embedded_fonts_and_no_caption(folder: Path) -> None:
    written = {path.suffix: path for path in draw([folder], ["heatmap"])}
    pdf = written[".pdf"].read_bytes()
    streams = b"".join(_inflated(pdf))
    assert b"/FontFile2" in pdf
    assert not re.search(rb"/Subtype\s*/Image", pdf + streams)
    width, height = map(float, re.search(rb"/MediaBox\s*\[0 0 ([\d.]+) ([\d.]+)\]", pdf).groups())
    layout = json.loads(written[".json"].read_text("utf-8"))["layout"]
    assert width == pytest.approx(layout["width"] * 0.75, abs=1)
    assert height < layout["height"] * 0.75 - 20  # the caption is below the picture, not in the PDF
    assert written[".png"].stat().st_size < 100_000


def _inflated(pdf: bytes) -> list[bytes]:
    found = []
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        try:
            found.append(zlib.decompress(stream))
        except zlib.error:
            continue
    return found

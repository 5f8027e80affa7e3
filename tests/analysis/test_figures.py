"""The command: what it writes, that nothing comes from the network, and that a missing browser stops nothing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs
from study_folder import build

from analysis.figures import main, render
from analysis.load import load
from wavedp.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build(tmp_path / "eps_grid", epsilons=(1.0, 3.0), seeds=2)


@pytest.fixture
def no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/chromium")


@pytest.mark.usefixtures("no_browser")
def test_everything_is_written_without_a_browser(folder: Path, capsys: pytest.CaptureFixture) -> None:
    written = [path.relative_to(folder).as_posix() for path in render(folder)]
    assert written == [
        "figures/pareto.html",
        "figures/pareto.json",
        "figures/samples.png",
        "figures/samples_coarse.png",
        "figures/samples.json",
        "results.md",
        "report.html",
    ]
    assert all((folder / name).stat().st_size for name in written)
    notices = capsys.readouterr().err.splitlines()
    assert len(notices) == 1
    assert "no PNG or PDF" in notices[0]
    assert "/nonexistent/chromium" in notices[0]


@pytest.mark.usefixtures("no_browser")
def test_pages_load_plotly_from_the_folder_of_the_studies_only(folder: Path) -> None:
    render(folder, ["pareto"])
    page = (folder / "figures" / "pareto.html").read_text()
    (source,) = re.findall(r"<script[^>]*src=\"([^\"]*)\"", page)
    assert "http" not in page
    assert (folder / "figures" / source).resolve() == folder.parent / "plotly.min.js"
    assert (folder.parent / "plotly.min.js").read_text() == get_plotlyjs()


@pytest.mark.usefixtures("no_browser")
def test_a_page_drawn_again_is_the_same(folder: Path) -> None:
    first, again = ([path.read_bytes() for path in render(folder, ["pareto"])] for _ in range(2))
    assert first == again


@pytest.mark.usefixtures("no_browser")
def test_another_version_of_plotly_is_replaced(folder: Path) -> None:
    (folder.parent / "plotly.min.js").write_text("of last year")
    render(folder, ["pareto"])
    assert (folder.parent / "plotly.min.js").read_text() == get_plotlyjs()


@pytest.mark.usefixtures("no_browser")
def test_a_folder_that_takes_no_plotly_is_a_notice(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder.parent / "plotly.min.js").mkdir()
    assert [path.suffix for path in render(folder, ["pareto"])] == [".html", ".json"]
    assert f"{folder.parent / 'plotly.min.js'} can't be written (Is a directory)" in capsys.readouterr().err


@pytest.mark.usefixtures("no_browser")
def test_a_published_folder_is_small(folder: Path) -> None:
    render(folder, published=True)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1e6


@pytest.mark.usefixtures("no_browser")
def test_figures_carry_the_hashes_of_their_records(folder: Path) -> None:
    render(folder, ["pareto"])
    figure = json.loads((folder / "figures" / "pareto.json").read_text())
    assert figure["layout"]["meta"] == load(folder).provenance()


@pytest.mark.usefixtures("no_browser")
def test_other_metrics_and_published_numbers_have_files_of_their_own(folder: Path) -> None:
    names = {path.name for path in render(folder, ["pareto"], metric="kid_clean_1k_test2k")}
    assert names == {"pareto_kid_clean_1k_test2k.html", "pareto_kid_clean_1k_test2k.json"}
    assert {path.stem for path in render(folder, ["pareto"], published=True)} == {"pareto_published"}


@pytest.mark.usefixtures("no_browser")
def test_published_numbers_that_do_not_exist_are_a_notice(folder: Path, capsys: pytest.CaptureFixture) -> None:
    paths = render(folder, ["pareto"], metric="kid_clean_1k_test2k", published=True)
    assert "published" not in paths[0].name
    assert "no published numbers" in capsys.readouterr().err


@pytest.mark.usefixtures("no_browser")
def test_what_cannot_be_drawn_does_not_stop_the_rest(folder: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.rmtree(folder / "samples")
    names = {path.name for path in render(folder)}
    assert names == {"pareto.html", "pareto.json", "results.md", "report.html"}
    assert "samples not drawn" in capsys.readouterr().err


def test_a_browser_that_dies_is_a_notice(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/bin/false")
    assert {path.suffix for path in render(folder, ["pareto"])} == {".html", ".json"}
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.skipif(not shutil.which("chromium"), reason="draws with Chromium, which is not installed")
def test_pictures_are_drawn_with_a_browser(folder: Path) -> None:
    written = {path.name: path for path in render(folder, ["pareto"])}
    assert written["pareto.png"].read_bytes().startswith(b"\x89PNG")
    assert written["pareto.pdf"].read_bytes().startswith(b"%PDF")


@pytest.mark.usefixtures("no_browser")
def test_command(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(folder), "table"]) == 0
    assert capsys.readouterr().out.split() == [str(folder / "results.md")]
    assert main([str(folder), "heatmapp"]) == 2
    assert "heatmapp is neither a study's folder nor a figure: did you mean heatmap?" in capsys.readouterr().err
    assert main([str(folder), "pareto", "--metric", "psnr"]) == 2
    assert "metric 'psnr'" in capsys.readouterr().err
    assert main([str(folder / "nowhere")]) == 2


def test_unknown_figure_is_refused_before_anything_is_written(folder: Path) -> None:
    with pytest.raises(UserError, match="heatmap"):
        render(folder, ["table", "heatmap"])
    assert not (folder / "results.md").exists()

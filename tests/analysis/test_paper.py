"""The paper from the committed studies: FIGURES.md tells of which records each figure is, and is of today's."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from study_folder import build

from analysis import paper
from analysis.drawings import DRAWINGS
from analysis.paper import ITEMS, STRIPS, Item, index_rows, main, make, record_files, records_hash
from analysis.tables import markdown_table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
INDEX = RESULTS / "FIGURES.md"
MOST_BYTES = 100_000


@pytest.fixture
def no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/chromium")


def test_the_index_names_the_records_as_they_are_committed() -> None:
    """Whoever changes a record runs python -m analysis.paper again."""
    header = ["figure", "from", "command", "sha256 of the records", "their commit"]
    assert markdown_table(header, index_rows(RESULTS)) in INDEX.read_text("utf-8")


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name)
def test_each_item_has_its_records_and_its_pictures(item: Item) -> None:
    found = record_files(item, RESULTS)
    assert {path.relative_to(RESULTS).parts[0] for path in found} == set(item.folders)
    stem = RESULTS / "paper" / "figures" / item.name
    kinds = ("md", "tex", "csv") if item.kind == "table" else ("png",)
    for kind in kinds:
        path = stem.with_name(f"{stem.name}.{kind}")
        assert 0 < path.stat().st_size <= MOST_BYTES
        assert path.relative_to(RESULTS).as_posix() in INDEX.read_text("utf-8")


def test_git_keeps_pictures_and_tables_alone() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "results/paper"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert {Path(name).suffix for name in listed} == {".png", ".md", ".tex", ".csv"}


def test_every_kind_of_drawing_is_in_the_paper() -> None:
    assert {item.kind for item in ITEMS} == {*DRAWINGS, *STRIPS, "samples", "table"}
    assert len({item.name for item in ITEMS}) == len(ITEMS)


def test_the_hash_changes_with_any_record(tmp_path: Path) -> None:
    item = Item("f2", "samples", "samples", ("eps_grid",))
    folder = build(tmp_path / "eps_grid", epsilons=(1.0,), seeds=1)
    hashes = {records_hash(item, tmp_path)}
    for name in ("trials.jsonl", "ledger.jsonl", "study.yaml", "samples/eps1-bicubic-s0.npz"):
        (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
        hashes.add(records_hash(item, tmp_path))
    shutil.move(folder / "samples" / "eps1-bicubic-s0.npz", folder / "samples" / "renamed.npz")
    hashes.add(records_hash(item, tmp_path))
    assert len(hashes) == 6
    (folder / "results.md").write_text("not a record", encoding="utf-8")
    assert records_hash(item, tmp_path) in hashes


@pytest.mark.usefixtures("no_browser")
def test_the_command_draws_what_it_can_and_says_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    build(tmp_path / "results" / "eps_grid", epsilons=(1.0, 3.0), seeds=3)
    items = (
        Item("f1", "F1: quality", "overlay", ("eps_grid", "nowhere")),
        Item("f2", "F2: samples", "samples", ("eps_grid",)),
        Item("f4", "F4: noise", "strips", ("eps_grid",)),
        Item("f6", "F6: spectra", "spectra", ("eps_grid",)),
        Item("t1", "T1: methods", "table", ("eps_grid",)),
    )
    monkeypatch.setattr(paper, "ITEMS", items)
    output = tmp_path / "out"
    assert main(["--results", str(tmp_path / "results"), "-o", str(output)]) == 0
    written = {path.name for path in (output / "paper" / "figures").iterdir()}
    assert written == {"f1.html", "f1.json", "f2.png", "t1.md", "t1.tex", "t1.csv"}
    said = capsys.readouterr().err
    assert "f1: " in said
    assert "nowhere is left out" in said
    assert "f4: " in said
    page = (output / "FIGURES.md").read_text("utf-8")
    assert "![f2](paper/figures/f2.png)" in page
    assert "Not drawn: " in page.split("## F4: noise")[1]
    assert "python -m wavedp.reports.spectrum" in page.split("## F6: spectra")[1]
    assert "[t1.tex](paper/figures/t1.tex)" in page
    assert (output / "plotly.min.js").is_file()


@pytest.mark.usefixtures("no_browser")
def test_one_figure_alone_leaves_the_index(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--results", str(RESULTS), "-o", str(tmp_path), "f9_ablation", "--columns", "1"]) == 0
    assert not (tmp_path / "FIGURES.md").exists()
    assert (tmp_path / "paper" / "figures" / "f9_ablation.html").is_file()
    assert main(["f9_ablatoin"]) == 2
    assert re.search("no figure 'f9_ablatoin'.*f9_ablation", capsys.readouterr().err)


@pytest.mark.usefixtures("no_browser")
@pytest.mark.parametrize("name", ["f2_samples", "f4_strips", "f4_reverse", "t1_methods", "f3_levels_blur"])
def test_captions_and_tables_are_those_of_the_committed_records(name: str, tmp_path: Path) -> None:
    item = next(item for item in ITEMS if item.name == name)
    made = make(item, RESULTS, tmp_path)
    assert made.caption.strip() in INDEX.read_text("utf-8")
    for path in made.files:
        if path.suffix in (".md", ".tex", ".csv"):
            assert path.read_bytes() == (RESULTS / "paper" / "figures" / path.name).read_bytes()

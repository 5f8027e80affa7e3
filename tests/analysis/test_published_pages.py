"""The pages in results/, as a reader of a fresh clone opens them: from file://, with the network off."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

ROOT = Path(__file__).parents[2]
LINKED = re.compile(r"""<[^>]*\b(?:src|href)\s*=\s*["']([^"']*)["']""")


def in_git(pattern: str) -> list[str]:
    listed = subprocess.run(["git", "ls-files", "--", pattern], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


PAGES = in_git("results/**/*.html")


def test_there_are_pages():
    assert "results/eps_grid/figures/pareto.html" in PAGES


@pytest.mark.parametrize("page", PAGES)
def test_all_that_a_page_loads_is_in_git(page):
    committed = {(ROOT / name).resolve() for name in in_git("results")}
    text = (ROOT / page).read_text(encoding="utf-8")
    linked = [link for link in LINKED.findall(text) if not link.startswith(("data:", "#"))]
    assert linked, "a page without a script draws nothing"
    for link in linked:
        assert ((ROOT / page).parent / link).resolve() in committed, link


def test_the_library_is_the_one_that_is_installed():
    """So that drawing a published figure again leaves it as it is."""
    assert (ROOT / "results" / "plotly.min.js").read_text(encoding="utf-8") == get_plotlyjs()


def test_a_published_folder_stays_under_ten_megabytes():
    sizes: dict[str, int] = {}
    for name in in_git("results"):
        path = Path(name)
        if len(path.parts) > 2:
            sizes[path.parts[1]] = sizes.get(path.parts[1], 0) + (ROOT / name).stat().st_size
    assert {study: size for study, size in sizes.items() if size >= 10e6} == {}

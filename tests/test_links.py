"""Every link of every README leads somewhere, and the front page is short enough to be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("[!.]*/**/*.md")]
MOST_WORDS = 900


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_every_anchor_to_a_heading(page: Path):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        there = page.parent / target if target else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"(?m)^#+ (.*)", there.read_text(encoding="utf-8"))
            assert anchor in [re.sub(r"[^\w -]", "", name).lower().replace(" ", "-") for name in headings], anchor


def test_the_front_page_is_read_in_a_minute_or_four():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= MOST_WORDS

"""One self-contained page about one or several studies:  python -m analysis.report runs/<study> [more studies]

It works from file:// with the network off: style, script, numbers and pictures are inside. What it shows is said in
analysis.page_data; `page_parts/` holds its frame, style and script.

A library of charts would be most of the page's size (plotly's script alone is 4.8 MB, the whole page may be 5 MB for
180 trials), so the one chart is drawn by a hundred lines of JavaScript.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from analysis.load import Study
from analysis.page_data import page_data
from analysis.report import PAGE
from wavedp.files import write_atomically

PARTS = Path(__file__).parent / "page_parts"


def page(studies: Sequence[Study]) -> str:
    """The page as HTML."""
    return page_of(page_data(studies))


def page_of(data: dict[str, Any]) -> str:
    """The page that shows these data (analysis.page_data)."""
    # "</script>" within a string would end the data, and "<!--" would hide what follows.
    values = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"STYLE": _part("page.css"), "SCRIPT": _part("page.js"), "TITLE": escape(data["title"]), "DATA": values}
    before, *rest = _part("page.html").split("{{")
    return before + "".join(parts[name] + text for name, text in (each.split("}}", 1) for each in rest))


def write_page(studies: Sequence[Study], path: Path | None = None) -> Path:
    """Write it, report.html in the first study's folder unless a path is given; returns the path."""
    path = path or studies[0].folder / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page(studies).encode())
    return path


def _part(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")

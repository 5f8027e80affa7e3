"""What tests ask of the studies in results/, by what they are and not by a name that the next publication changes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from wavedp.config import DataConfig
from wavedp.jsonl import read_jsonl

ROOT = Path(__file__).parents[1]
EPS_GRID = ROOT / "results" / "eps_grid"
KNOWN = ROOT / "tests" / "assets" / "published_keys.json"
"""Fingerprints of published datasets, and the keys of published trials (tests/sweeps/test_published_keys.py)."""


def row(study: Path, **settings: Any) -> dict[str, Any]:
    """The first row with these columns, such as epsilon=10."""
    return next(row for row in read_jsonl(study / "trials.jsonl") if settings.items() <= row.items())


def what(config: DataConfig, split: str) -> str:
    """A split of a dataset as KNOWN names it: all that decides its images, and no folder of a machine."""
    said = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    for name in ("home", "cache", "path", "duplicates"):
        del said[name]
    default = dataclasses.asdict(DataConfig())
    return f"{split} of {json.dumps({name: value for name, value in said.items() if value != default[name]})}"


def fingerprint(config: DataConfig, split: str) -> str:
    """In place of wavedp.data.fingerprint, which needs the images."""
    known: dict[str, str] = json.loads(KNOWN.read_text(encoding="utf-8"))["fingerprints"]
    return known[what(config, split)]

"""Odd inputs that users really give. Each ends in success with the right value, or in one sentence that names the
offending value: never in a traceback, never in a wrong number. One file here for each kind; tests/test_odd_inputs.py
runs them all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Odd:
    """One odd input.

    name: what is odd, in a few words. act: does it in an empty folder, and asserts the right value where it works.
    says: parts of the one sentence that refuses it, among them the offending value; empty: it must work.
    """

    name: str
    act: Callable[[Path], object]
    says: tuple[str, ...] = ()


class Refused(Exception):
    """A command printed one sentence of refusal."""


def command(module: str, *args: str, environment: dict[str, str] | None = None, folder: Path | None = None) -> str:
    """What `python -m module args` prints. Raises Refused with its last line when it exits with status 2, and
    AssertionError for a traceback or any other status. folder: where it runs (default: the checkout)."""
    done = subprocess.run(
        [sys.executable, "-m", module, *args],
        cwd=folder or ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(environment or {})},
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=300,
    )
    assert "Traceback" not in done.stderr, done.stderr
    if done.returncode == 2:
        raise Refused(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout

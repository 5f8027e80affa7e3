"""Commands of `sweeps.run` in processes of their own, as a user types them, and the rows that they leave."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def command(folder: Path, *overrides: str) -> list[str]:
    return [
        sys.executable, "-m", "sweeps.run", *overrides, f"results={folder / 'results'}", f"store={folder / 'store'}"
    ]  # fmt: skip


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "BROWSER_PATH": "/nonexistent"}


def run(folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        command(folder, *overrides), cwd=folder, env=environment(), capture_output=True, text=True, timeout=900
    )


def rows(folder: Path, study="smoke", name="trials.jsonl"):
    return [json.loads(line) for line in (folder / "results" / study / name).read_text().splitlines()]

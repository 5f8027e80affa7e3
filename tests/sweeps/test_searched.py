"""Searches by Optuna, run and run again."""

import subprocess
import sys

import pytest
from typed import environment, rows, run

TELLERS = """
class Notes:
    def row(self, row):
        with open("told.txt", "a") as notes:
            print(row["trial"], row["status"], file=notes)

class Fails:
    def begin(self, study, folder):
        raise OSError("no such server")
    row = print
"""


@pytest.mark.slow
def test_the_search_runs_resumes_and_stays_on_the_same_records(tmp_path):
    overrides = [
        "+sweep=pareto_search", "preset=tiny", "sweep.search.trials=2", "sweep.search.space.upscaler=[bicubic,nearest]",
        "sweep.search.space.level=[1]", "metrics.fid_samples=16", "metrics.reference_samples=16",
        "metrics.downstream_steps=0", "watch=[tellers:Fails,tellers:Notes,csv]",
    ]  # fmt: skip
    (tmp_path / "tellers.py").write_text(TELLERS)
    first = run(tmp_path, *overrides)
    assert first.returncode == 0, first.stdout + first.stderr
    found = rows(tmp_path, "pareto_search")
    assert [row["status"] for row in found] == ["done", "done"]
    assert all(0.5 <= row["epsilon"] <= 20 for row in found)
    told = (tmp_path / "told.txt").read_text().splitlines()
    assert sorted(told) == sorted(f"{row['trial']} done" for row in found)
    assert first.stderr.count("watch=tellers:Fails failed in begin() (OSError: no such server)") == 1
    again = run(tmp_path, *overrides)
    assert again.returncode == 0, again.stdout + again.stderr
    assert rows(tmp_path, "pareto_search") == found
    assert len(rows(tmp_path, "pareto_search", "ledger.jsonl")) == 3  # the reference and one release a trial
    more = run(tmp_path, *overrides, "sweep.search.trials=3")
    assert more.returncode == 0, more.stdout + more.stderr
    assert rows(tmp_path, "pareto_search")[:2] == found
    assert len(rows(tmp_path, "pareto_search")) == 3
    assert len((tmp_path / "told.txt").read_text().splitlines()) == 3
    assert len((tmp_path / "results/pareto_search/trials.csv").read_text().splitlines()) == 4


@pytest.mark.slow
def test_equal_suggestions_are_one_trial_and_a_search_that_ended(tmp_path):
    overrides = [
        "+sweep=pareto_search", "preset=tiny", "sweep.search.trials=2", "upscaler=bicubic", "level=1", "epsilon=2",
        "metrics.fid_samples=16", "metrics.reference_samples=16", "metrics.downstream_steps=0",
    ]  # fmt: skip
    folder = tmp_path / "study"
    folder.mkdir()
    at = ["results=results", f"store=file://{folder / 'store'}"]
    done = subprocess.run(
        [sys.executable, "-m", "sweeps.run", *overrides, *at],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["epsilon"] for row in rows(folder, "pareto_search")] == [2]
    assert sorted(path.name for path in folder.iterdir()) == [".wavedp", "results", "store"]

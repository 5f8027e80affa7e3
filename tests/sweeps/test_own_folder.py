"""Sweeps of a folder of the user's own: conf/README.md's example, as it stands there."""

import json
import re
import shlex
import subprocess
import sys

import pytest
from typed import ROOT, environment

PAGE = (ROOT / "conf" / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def call(tmp_path):
    """Run a command where `my_conf/sweep/mine.yaml` is; its output."""
    (tmp_path / "my_conf" / "sweep").mkdir(parents=True)
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "my_conf" / "sweep" / "mine.yaml").write_text(example, encoding="utf-8")

    def run(*typed):
        command = [sys.executable, "-m", "sweeps.run", *typed]
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_its_question_is_told(call):
    (command,) = re.findall(r"python -m sweeps\.run (--config-dir .*)", PAGE)
    told = call(*shlex.split(command))
    assert told.startswith("Question\n  Do two upscalers rank alike at two budgets?\n")
    assert "12 trials" in told
    assert call("+sweep=smoke", "explain=true").startswith("Question\n  Does everything run?\n")


def test_the_recorded_command_names_the_folder(call, tmp_path):
    call("--config-dir=my_conf", "+sweep=mine", "preset=tiny", "plan=plan.json")
    command = json.loads((tmp_path / "plan.json").read_text())["about"]["command"]
    assert command == "python -m sweeps.run --config-dir my_conf +sweep=mine preset=tiny"
    assert "12 trials" in call(*shlex.split(command)[3:], "dry_run=true")

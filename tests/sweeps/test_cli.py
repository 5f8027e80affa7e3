"""The command `wavedp`: every short name is a command of the house."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import wavedp
from sweeps.cli import COMMANDS, listed, main

ROOT = Path(__file__).parents[2]


def test_every_command_is_listed_with_what_it_does():
    lines = listed().splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    for line in lines:
        assert len(line.split()) >= 4, line
        assert "python -m" not in line
    for module in COMMANDS.values():
        assert importlib.util.find_spec(module) is not None


def test_the_installed_command_is_this_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"wavedp": "sweeps.cli:main"}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == project["version"]
    assert f"## {project['version']} " in (ROOT / "CHANGELOG.md").read_text()
    assert citation["license"] == project["license"]
    assert wavedp.__doc__


def test_an_unknown_command_gets_the_nearest(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["wavedp", "swep"])
    assert main() == 2
    assert capsys.readouterr().err == "Error: wavedp swep is not a command: did you mean sweep?\n"
    monkeypatch.setattr(sys, "argv", ["wavedp"])
    assert main() == 0
    assert capsys.readouterr().out == listed() + "\n"


@pytest.mark.parametrize(
    ("words", "printed", "status"),
    [
        (["sweep", "+sweep=smoke", "dry_run=true"], "4 trials", 0),
        (["zoo", "list"], "ar_14_grey", 0),
        (["ledger", "nowhere"], "nowhere", 2),
    ],
    ids=lambda each: each[0] if isinstance(each, list) else "",
)
def test_it_runs_what_python_m_would(words, printed, status, tmp_path):
    """Also its errors, in the same sentence and with the same status."""
    short, long = (
        subprocess.run(
            [sys.executable, "-m", *module, *rest], cwd=tmp_path, capture_output=True, text=True, timeout=200
        )
        for module, rest in ((["sweeps.cli"], words), ([COMMANDS[words[0]]], words[1:]))
    )
    assert (short.returncode, short.stdout) == (long.returncode, long.stdout) == (status, short.stdout)
    assert printed in short.stdout + short.stderr
    assert short.stderr == long.stderr

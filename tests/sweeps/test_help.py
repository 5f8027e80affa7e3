"""--help is made of the files themselves: nothing is left out, and nothing is told twice."""

from __future__ import annotations

import sys
from dataclasses import fields

import pytest

from sweeps import help
from sweeps.help import CONF, text
from sweeps.run import main
from sweeps.settings import SHARED
from wavedp.errors import UserError
from wavedp.generators.dp_mepf import DPMEPFConfig

FILES = sorted(path.relative_to(CONF) for path in CONF.glob("*/*.yaml"))


def test_every_sweep_and_option_is_listed_with_a_word_on_it():
    overview = text()
    for path in FILES:
        assert path.stem in overview
    for path in (CONF / "sweep").glob("*.yaml"):
        assert len(help.question(path).split()) >= 3, path  # a sentence, not a fragment


@pytest.mark.parametrize("section", SHARED)
def test_every_field_of_a_section_is_told_with_its_range(section):
    told = text(section)
    for item in fields(SHARED[section]):
        assert f"{section}.{item.name}=" in told
    if section == "privacy":
        line = next(line for line in told.splitlines() if "privacy.delta=" in line)
        assert "null" in line
        assert "privacy; (0, 1); None: 1 / (N ln N)" in line
        assert "adam | sgd | adam_bc" in told


def test_an_options_fields_have_the_values_of_its_file():
    told = text("dp_mepf_cpu")
    assert told.startswith("generator=dp_mepf_cpu: DP-MEPF for one CPU core.")
    for item in fields(DPMEPFConfig):
        assert f"generator.{item.name}=" in told
    assert "generator.train_steps=20000" in text("dp_mepf")
    assert "generator.train_steps=20000" not in told
    assert "# Does everything run?" in text("smoke")


@pytest.mark.parametrize("path", FILES, ids=str)
def test_there_is_help_on_every_option(path):
    assert path.stem in text(path.stem)


def test_an_unknown_topic_gets_the_nearest(monkeypatch, capsys):
    with pytest.raises(UserError, match="did you mean dp_mepf"):
        text("dp_mepq")
    monkeypatch.setattr(sys, "argv", ["run", "--help", "privacyy"])
    assert main() == 2
    assert "did you mean privacy?" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["run", "--help"])
    assert main() == 0
    assert "eps_grid          How does quality depend on ε?" in capsys.readouterr().out


@pytest.mark.parametrize("spelled", [["--config-dir", "{}"], ["--config-dir={}"], ["-cd", "{}"]])
def test_files_of_ones_own_are_listed_and_their_question_is_told(tmp_path, spelled):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.yaml").write_text("# @package _global_\n# Do two rank alike? Perhaps.\nsweep: {}\n")
    words = [word.format(tmp_path) for word in spelled]
    assert "Do two rank alike?" in help.asked([*words, "--help"])
    assert help.asked([*words, "--help", "mine"]).startswith("sweep=mine: Do two rank alike?\n")
    assert help.asked([*words, "+sweep=mine"]) is None
    assert help.question_of("mine", help.places(help.own_folders(["+sweep=mine", *words]))) == "Do two rank alike?"
    assert help.question_of("mine", help.places([])) == "mine"

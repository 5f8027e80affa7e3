"""What the first commands that a user types leave behind in a fresh clone: nothing that git sees."""

import re
import shlex
import subprocess
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from sweeps.overrides import normalised, refuse_unknown, refuse_unread
from sweeps.plan import plan
from sweeps.run import KEYS, _option_loader, run
from wavedp.config import TrialConfig, sections
from wavedp.errors import UserError
from wavedp.reports import forward, samplers

ROOT = Path(__file__).parents[2]


def composed(*overrides):
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides))


def ignored(path):
    return subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0


def test_studies_go_where_git_does_not_look():
    assert composed().results == "runs"
    assert ignored("runs/eps_grid/trials.jsonl")


def test_what_is_published_needs_no_list():
    assert not ignored("results/a_study_of_tomorrow/trials.jsonl")
    assert not ignored("results/plotly.min.js")


@pytest.mark.parametrize(
    ("command", "arguments"),
    [(samplers, ["--size", "4", "--steps", "2"]), (forward, ["--size", "8", "--home", "nowhere"])],
)
def test_reports_write_there_too(command, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def claimed(folder, monkeypatch, *overrides):
    """Everything that `sweeps.run` does before Ray starts, on data that need no file."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sweeps.run._execute", lambda *arguments: 0)
    here = [*overrides, "data=procedural", "data@public=procedural_public", "data.home=here", "public.home=here"]
    return run(composed(*here), here)


def test_the_first_override_works_as_typed_and_the_next_is_told_its_name(tmp_path, monkeypatch):
    lines = (ROOT / "conf" / "config.yaml").read_text().splitlines()
    typed = shlex.split(next(line for line in lines if "python -m sweeps.run" in line))[4:]
    assert typed == ["+sweep=eps_grid", "privacy.steps=120", "upscaler=bicubic"]
    assert claimed(tmp_path, monkeypatch, *typed) == 0
    assert (tmp_path / "runs" / "eps_grid" / "study.yaml").is_file()
    other = ["+sweep=eps_grid", "privacy.steps=60", "upscaler=bicubic"]
    with pytest.raises(UserError, match=r"runs/eps_grid was made .*\(privacy\.steps differs\): .* study=NAME"):
        claimed(tmp_path, monkeypatch, *other)
    assert claimed(tmp_path, monkeypatch, *other, "study=short") == 0


def documented():
    """The arguments of every `python -m sweeps.run …` in README, and in the headers of conf/."""
    found = {}
    for path in [ROOT / "README.md", *sorted(ROOT.glob("conf/**/*.yaml"))]:
        text, end = path.read_text(encoding="utf-8"), "`" if path.suffix == ".md" else "`\n"
        text = re.sub(r"\\\n#\s*", " ", text)  # a command on two lines of a header
        for typed in re.findall(rf"python -m sweeps\.run ([^{end}]*)", text):
            arguments = [word for word in shlex.split(typed) if word != "…"]
            if "--config-dir" not in arguments:  # whose files are the reader's own
                found[shlex.join(arguments)] = arguments
    return found


DOCUMENTED = documented()


def test_commands_are_found():
    assert {"+sweep=eps_grid", "+sweep=eps_grid plan=plan.json", "+sweep=full_grid dry_run=true"} <= set(DOCUMENTED)


@pytest.mark.parametrize("typed", DOCUMENTED)
def test_every_documented_command_plans_trials(typed, tmp_path):
    small = ["data=procedural", "data@public=procedural_public", f"data.home={tmp_path}", f"public.home={tmp_path}"]
    (tmp_path / "mine.safetensors").write_bytes(b"weights")  # a plan reads their hash alone
    arguments = [word.replace("/models", str(tmp_path)) for word in DOCUMENTED[typed]]
    overrides = normalised([*arguments, *small])
    values = OmegaConf.to_container(composed(*overrides), resolve=True)
    refuse_unknown(values, KEYS)
    base = {name: values[name] for name in sections(TrialConfig)}
    axes = {} if values["sweep"].get("search") else values["sweep"]
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        trials = plan(base, axes, _option_loader(overrides, base))
    refuse_unread(overrides, [trial.config for trial in trials])
    assert trials

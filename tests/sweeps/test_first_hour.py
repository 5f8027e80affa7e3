"""What the first commands that a user types leave behind in a fresh clone: nothing that git sees."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import hydra
import pytest

from sweeps.overrides import normalised
from sweeps.run import run
from wavedp.errors import UserError
from wavedp.reports import forward, samplers

ROOT = Path(__file__).parents[2]
# Data that need no file.
SMALL = ["data=procedural", "data@public=procedural", "public.split=public", "data.home=here", "public.home=here"]


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


def test_a_plan_that_nobody_reads_to_the_end_is_no_error(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    asked = [sys.executable, "-m", "sweeps.run", "+sweep=smoke", "dry_run=true", f"store={tmp_path}"]
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(asked, stdout=writer, stderr=subprocess.PIPE, cwd=tmp_path, env=here)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")  # `| head`


def test_a_study_of_published_models_is_planned_and_checked_without_torch(tmp_path):
    """It takes a second to import and 700 MB; each of the conductors of a cluster's trials would hold it."""
    grid = "sweep.grid.upscaler=[bicubic,identity,realsr_df2k_x4]"
    asked = ["sweeps.run", "+sweep=smoke", grid, "sweep.grid.level=[0]", "dry_run=true", f"store={tmp_path}"]
    code = (
        f"import runpy, sys\nsys.argv = {asked!r}\ntry:\n    runpy.run_module('sweeps.run', run_name='__main__')\n"
        "except SystemExit as end:\n    sys.exit(end.code or ('torch' in sys.modules and 'torch was imported'))"
    )
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=here)
    assert (done.returncode, done.stderr) == (0, "")
    assert "private releases: 1" in done.stdout


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


@pytest.mark.parametrize("place", ["data", "public"])
@pytest.mark.parametrize("path", sorted(ROOT.glob("conf/data/*.yaml")), ids=lambda path: path.stem)
def test_a_value_that_a_file_leaves_open_is_asked_for(path, place):
    if "???" not in path.read_text():
        pytest.skip("it leaves nothing open")
    chosen = f"data={path.stem}" if place == "data" else f"data@public={path.stem}"
    here = ["+sweep=smoke", chosen]
    with pytest.raises(UserError, match=rf"^{place}\.path is not set, and {place}={path.stem} needs it: add {place}"):
        run(composed(*here), here)


@pytest.mark.parametrize("setting", ["results=runs", "store=.wavedp/store"])
def test_records_of_a_submitted_job_lie_where_they_stay(setting, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    others = [word for word in ("results=/shared/runs", "store=/shared/store") if word[:5] != setting[:5]]
    with pytest.raises(UserError, match=rf"^{setting} would lie in the folder of this Ray job, .* give {setting[:5]}"):
        run(composed("+sweep=smoke", setting, *others), [])


def documented():
    """The arguments of every `python -m sweeps.run …` in a README, and in the headers of conf/."""
    found = {}
    told = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("[!.]*/**/README.md"))]
    for path in [*told, *sorted(ROOT.glob("conf/**/*.yaml"))]:
        text, end = path.read_text(encoding="utf-8"), "`" if path.suffix == ".md" else "`\n"
        text = re.sub(r"\\\n#\s*", " ", text)  # a command on two lines of a header
        if path.suffix == ".md":
            text = re.sub(r"(?m)^    (python .*)$", r"`\1`", text)  # a command on an indented line of its own
        for typed in re.findall(rf"python -m sweeps\.run ([^{end}]*)", text):
            arguments = [word for word in shlex.split(typed) if word != "…"]
            if "--config-dir" not in arguments:  # whose files are the reader's own
                found[shlex.join(arguments)] = arguments
    return found


DOCUMENTED = documented()


def test_commands_are_found():
    assert {"+sweep=eps_grid", "+sweep=eps_grid plan=plan.json", "+sweep=full_grid dry_run=true"} <= set(DOCUMENTED)


# Bare sweeps, and the one whose cases name their datasets, are planned in test_end_to_end.
@pytest.mark.parametrize("typed", [typed for typed in DOCUMENTED if " " in typed and "+sweep=public_data" not in typed])
def test_every_documented_command_plans_a_study(typed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [word.replace("A_NUMBER_THAT_YOU_KEEP_TO_YOURSELF", "5") for word in DOCUMENTED[typed]]
    arguments = [word for word in arguments if not word.startswith("data=")]  # SMALL chooses images of no file
    overrides = normalised([*arguments, *SMALL, "data.n_records=4096", "data.split=official", "dry_run=true"])
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = hydra.compose("config", overrides=overrides)
        if "/models/mine.safetensors" in typed:  # the reader's own
            with pytest.raises(UserError, match=r"/models/mine\.safetensors is not a file"):
                run(config, overrides)
        else:
            assert run(config, overrides) == 0
            assert re.search(r"\d+ trials", capsys.readouterr().out)

"""From runs/ to results/: what of a study's folder is published, and what is refused."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from published import EPS_GRID, ROOT, row

from sweeps import publish
from sweeps.records import read_jsonl
from wavedp.errors import UserError
from wavedp.store import write_jsonl

HEAD = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
ELSEWHERE = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A finished study of this commit: a published one, as if it had just been run."""
    monkeypatch.setattr(publish, "commit", lambda: HEAD)  # whatever this checkout has not committed yet
    folder = tmp_path / "runs" / "eps_grid"
    shutil.copytree(EPS_GRID, folder, ignore=shutil.ignore_patterns("README.md"))
    of_commits(folder, HEAD)
    return folder


def of_commits(folder, meta, *others):
    """Let study.yaml and the rows name these commits."""
    made = yaml.safe_load((folder / "study.yaml").read_text())
    (folder / "study.yaml").write_text(yaml.safe_dump({**made, "commit": meta}))
    rows = read_jsonl(folder / "trials.jsonl")
    commits = [*others, *[meta] * len(rows)]
    write_jsonl(folder / "trials.jsonl", [{**row, "commit": name} for row, name in zip(rows, commits, strict=False)])


def target_of(folder):
    return folder.parents[1] / "results" / folder.name


def test_records_figures_and_samples_are_copied(study, capsys):
    (study / ".lock").touch()
    assert publish.main([str(study), "--to", str(target_of(study))]) == 0
    copied = {path.relative_to(target_of(study)) for path in target_of(study).rglob("*") if path.is_file()}
    assert copied == {path.relative_to(study) for path in study.rglob("*") if path.is_file()} - {Path(".lock")}
    assert (target_of(study) / "trials.jsonl").read_bytes() == (study / "trials.jsonl").read_bytes()
    page = target_of(study) / "figures" / "pareto.html"
    assert (page.parent / "../../plotly.min.js").resolve().is_file()
    assert f"git add {target_of(study)} {target_of(study).parent / 'plotly.min.js'}" in capsys.readouterr().out


def test_published_again_it_holds_what_the_study_holds(study):
    publish.publish(study, target_of(study))
    (study / "figures" / "pareto.pdf").unlink()
    (target_of(study) / "README.md").write_text("ε = 1 is enough.")
    publish.publish(study, target_of(study))
    assert not (target_of(study) / "figures" / "pareto.pdf").exists()
    assert (target_of(study) / "README.md").read_text() == "ε = 1 is enough."


def lacks_a_trial(folder):
    write_jsonl(folder / "trials.jsonl", read_jsonl(folder / "trials.jsonl")[:-1])


def has_a_failed_trial(folder):
    failed = {**row(folder, epsilon=10), "status": "failed", "metrics": {}}
    kept = [known for known in read_jsonl(folder / "trials.jsonl") if known["trial"] != failed["trial"]]
    write_jsonl(folder / "trials.jsonl", [failed, *kept])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lacks_a_trial, "3 of 4 planned trials have ended"),
        (has_a_failed_trial, f"the trial {row(EPS_GRID, epsilon=10)['trial']} failed"),
        (lambda folder: of_commits(folder, HEAD, ELSEWHERE), f"several commits, .*{ELSEWHERE[:12]}"),
        (lambda folder: of_commits(folder, f"{HEAD}+"), rf"in no commit \({HEAD[:12]}\+\)"),
        (lambda folder: of_commits(folder, ELSEWHERE), f"made by commit {ELSEWHERE[:12]}"),
    ],
)
def test_unfinished_and_foreign_studies_need_a_word(change, sentence, study):
    change(study)
    with pytest.raises(UserError, match=sentence):
        publish.publish(study, target_of(study))
    assert not target_of(study).exists()
    assert publish.publish(study, target_of(study), anyway=True)


def test_a_tree_with_uncommitted_code_needs_a_word(study, monkeypatch):
    monkeypatch.setattr(publish, "commit", lambda: f"{HEAD}+")
    with pytest.raises(UserError, match=r"wavedp, sweeps, conf differ from commit"):
        publish.publish(study, target_of(study))


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "samples/model.pt", "work/samples/a.npz", "figures/plotly.min.js"]
)
def test_what_is_no_record_is_never_published(name, study):
    (study / name).parent.mkdir(parents=True, exist_ok=True)
    (study / name).write_bytes(b"weights")
    with pytest.raises(UserError, match=f"{name} is no record, figure or sample"):
        publish.publish(study, target_of(study), anyway=True)


@pytest.mark.parametrize(
    "name", ["report.html", "stages.json", "status.json", "README.md", "trials.csv", "tensorboard/run/events"]
)
def test_what_a_run_or_a_writer_leaves_beside_the_records_stays_there(name, study):
    (study / name).parent.mkdir(parents=True, exist_ok=True)
    (study / name).write_text("here")
    assert target_of(study) / name not in publish.publish(study, target_of(study), anyway=True)
    assert not (target_of(study) / name).exists()


def test_a_link_is_never_published(study, tmp_path):
    (study / "samples" / "a.png").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"samples/a\.png is no record"):
        publish.publish(study, target_of(study), anyway=True)


def test_ten_megabytes_are_refused(study):
    (study / "figures" / "large.png").write_bytes(bytes(10_000_000))
    with pytest.raises(UserError, match=r"holds 10\.\d MB.*figures/large\.png"):
        publish.publish(study, target_of(study), anyway=True)


def test_a_release_never_leaves_a_published_ledger(study):
    publish.publish(study, target_of(study))
    lost = row(study, epsilon=3)["keys"]["private_fit"]
    kept = [line for line in read_jsonl(study / "ledger.jsonl") if line["stage_key"] != lost]
    write_jsonl(study / "ledger.jsonl", kept)
    with pytest.raises(UserError, match=rf"has 1 of 5 lines .* lacks \(private_fit {lost[:12]}\).*_2"):
        publish.publish(study, target_of(study), anyway=True)
    assert len(read_jsonl(target_of(study) / "ledger.jsonl")) == 5


def test_command_refuses_what_is_no_study(tmp_path, capsys):
    assert publish.main([str(tmp_path)]) == 2
    assert "has no study.yaml" in capsys.readouterr().err
    assert publish.main([str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err

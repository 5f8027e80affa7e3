"""Who is told what while a study runs: each row once, and whatever a watcher does, the study goes on."""

import csv
import importlib.machinery
import io
import json
import struct
import threading
import time
from pathlib import Path

import hydra
import pytest

from sweeps import execute, watchers
from sweeps.clocks import Clocks
from sweeps.overrides import normalised
from sweeps.plan import PlannedTrial
from sweeps.progress import Progress
from sweeps.run import ROOT, run
from sweeps.study import typed
from sweeps.watchers import NEEDS, READY, Spent, Watching, found
from wavedp.chain import chain_of
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.jsonl import write_jsonl

RECORDS = ROOT / "results" / "tricks" / "trials.jsonl"
ROWS = [json.loads(line) for line in RECORDS.read_text().splitlines()[:3]]
LOST = {**ROWS[2], "status": "failed", "reason": "it is lost", "metrics": {}, "epsilon_spent": None, "seconds": {}}
STUDY = {"study": "tricks"}


class Listener:
    """What it was told, in order."""

    def __init__(self):
        self.told = []

    def begin(self, study, folder):
        self.told.append(("begin", study["study"]))

    def row(self, row):
        self.told.append(("row", row["trial"], row["status"]))

    def spent(self, spent):
        self.told.append(("spent", spent))

    def end(self):
        self.told.append(("end",))


class Failing(Listener):
    """One that raises at its first row."""

    def row(self, row):
        super().row(row)
        raise ConnectionError("no such\nserver")


class Brief:
    """One with no more than is needed."""

    def __init__(self):
        self.told = []

    def row(self, row):
        self.told.append(("row", row["trial"], row["status"]))
        row["metrics"].clear()


def told_of(rows):
    return [("row", row["trial"], row["status"]) for row in rows]


def test_a_watcher_is_told_of_begin_rows_and_end_and_may_leave_out_all_but_rows(tmp_path, capsys):
    all_of_it, brief = Listener(), Brief()
    with Watching({"brief": brief, "all": all_of_it}, STUDY, tmp_path) as watching:
        watching.rows(ROWS)
        watching.spent(Spent(3, 1.5, 0.2))
    assert all_of_it.told == [("begin", "tricks"), *told_of(ROWS), ("spent", Spent(3, 1.5, 0.2)), ("end",)]
    assert brief.told == told_of(ROWS)
    assert all(row["metrics"] for row in ROWS), "what a watcher changes is its own"
    assert capsys.readouterr().err == ""


def test_a_row_is_told_once_and_again_only_if_it_changed(tmp_path):
    listener = Listener()
    with Watching({"mine": listener}, STUDY, tmp_path) as watching:
        watching.rows(ROWS[:2])
        watching.rows(json.loads(json.dumps([*ROWS[:2], LOST])))
        watching.rows([ROWS[2]])
    assert listener.told[1:-1] == told_of([*ROWS[:2], LOST, ROWS[2]])


@pytest.mark.parametrize("error", [ConnectionError("no such\nserver"), SystemExit("no such server")])
def test_one_that_raises_is_left_out_after_one_sentence(tmp_path, capsys, error):
    failing, other = Failing(), Listener()
    failing.row = lambda row: (failing.told.append("row"), (_ for _ in ()).throw(error))
    with Watching({"lab:Mine": failing, "other": other}, STUDY, tmp_path) as watching:
        watching.rows(ROWS)
    assert failing.told == [("begin", "tricks"), "row"]
    assert len(other.told) == 5
    assert capsys.readouterr().err == (
        f"Warning: watch=lab:Mine failed in row() ({type(error).__name__}: no such server): the study goes on without "
        "it.\n"
    )


def test_one_that_hangs_holds_nothing_up(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(watchers, "PATIENCE", 0.2)
    hanging, other, free = Brief(), Listener(), threading.Event()
    hanging.row = lambda row: free.wait(60)
    began = time.monotonic()
    with Watching({"lab:Mine": hanging, "other": other}, STUDY, tmp_path) as watching:
        watching.rows(ROWS)
    free.set()
    assert time.monotonic() - began < 5
    assert len(other.told) == 5
    assert capsys.readouterr().err.startswith("Warning: watch=lab:Mine took longer than 0.2 s after the last trial")


class Fake:
    """A coordinator without Ray: trials end at once, `finish` and `conduct` as the real one's."""

    def __init__(self, before=()):
        self.rows_of, self.ended = {row["trial"]: row for row in before}, {}
        for name in ("conduct", "finish", "status", "rows", "close"):
            setattr(self, name, type("Method", (), {"remote": staticmethod(getattr(self, f"_{name}"))}))

    def _conduct(self, trial):
        return self._finish(
            {"trial": trial.id, "status": "done", "reason": None, "epsilon_spent": 1.0, "metrics": {}}, {}
        )

    def _finish(self, row, files):
        self.rows_of[row["trial"]] = self.ended[row["trial"]] = row
        return Task(row)

    def _status(self):
        told = {"now": {}, "rows": dict(self.ended), "clocks": Clocks(), "makers": {}, "stages": {}, "ledger": []}
        return told | {"gpu_seconds": 0.0}

    def _rows(self):
        return list(self.rows_of.values())

    def _close(self):
        return [], None


class Task(dict):
    __hash__ = object.__hash__
    __eq__ = object.__eq__


KEYS = {stage.name: f"key of {stage.name}" for stage in chain_of(TrialConfig())}
TRIALS = [PlannedTrial(name, {}, TrialConfig(), KEYS) for name in ("one", "two", "three", "four")]


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """Run a grid on a fake coordinator; its rows."""
    monkeypatch.setattr(execute.ray, "get", lambda value, timeout=None: value)
    monkeypatch.setattr(execute.ray, "wait", lambda tasks, num_returns: (tasks[:1], tasks[1:]))
    monkeypatch.setattr(execute.ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(execute, "Gauges", lambda study: None)
    settings = {"store": str(tmp_path / "store"), "zoo": None, "commit": "c", "max_concurrent": 2, "stages": {}}

    def run_it(coordinator, watching, infeasible):
        monkeypatch.setattr(execute, "_coordinator", lambda *_: coordinator)
        monkeypatch.setattr(execute, "_artifacts", lambda _: None)
        monkeypatch.setattr(execute, "_found", lambda *_: set())
        return execute.run_grid(TRIALS, tmp_path, settings | {"budget": {}}, watching, infeasible)

    return run_it


@pytest.mark.parametrize("blind", [False, True])
def test_a_study_runs_to_its_end_whatever_its_watchers_do(grid, tmp_path, monkeypatch, blind):
    """blind: every look of the display fails, as while the coordinator restarts."""
    failing, listener = Failing(), Listener()
    elsewhere = {"trial": "of an earlier run", "status": "done"}
    if blind:
        monkeypatch.setattr(Progress, "_show", lambda self: None)
    with Watching({"failing": failing, "listener": listener}, STUDY, tmp_path) as watching:
        rows = grid(Fake([elsewhere]), watching, {"two": "too much noise"})
    assert {row["trial"]: row["status"] for row in rows} == {
        "of an earlier run": "done", "one": "done", "two": "infeasible", "three": "done", "four": "done",
    }  # fmt: skip
    heard = [each for each in listener.told if each[0] == "row"]
    assert sorted(heard) == sorted(told_of(rows[1:])), "each trial of this run once"
    assert (listener.told[0], listener.told[-1]) == (("begin", "tricks"), ("end",))
    assert len(failing.told) == 2
    if not blind:
        assert [each[1].trials for each in listener.told if each[0] == "spent"][-1] == 4


def test_what_the_display_sees_is_told_with_what_was_spent(tmp_path):
    status = Fake()._status() | {"all": {}, "asked": {}, "gpu_seconds": 1800.0}
    listener = Listener()
    with Watching({"mine": listener}, STUDY, tmp_path) as watching:
        progress = Progress(lambda: status, TRIALS, set(), 4, io.StringIO(), watching=watching)
        progress._show()
        status["rows"] = {"one": {**LOST, "trial": "one"}}
        progress._show()
        progress._show()
    assert listener.told[1:-1] == [("row", "one", "failed"), ("spent", Spent(1, 0.0, 0.5))]


def test_the_users_own_is_found_by_module_and_object(tmp_path, monkeypatch):
    (tmp_path / "lab_watch.py").write_text(
        "class Mine:\n    def row(self, row): pass\nmine = Mine()\nclass Deaf: pass\n"
        "class Wants:\n    def __init__(self, server): pass\n    row = None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    chosen = found(["lab_watch:Mine", "lab_watch:mine", "csv", "csv"])
    assert [type(each).__name__ for each in chosen.values()] == ["Mine", "Mine", "CSV"]
    assert found("lab_watch:Mine").keys() == {"lab_watch:Mine"}
    for name, words in {
        "lab_watch:Theirs": r"watch=lab_watch:Theirs cannot be imported from lab_watch:Theirs \(.*\): check the name",
        "no_such_module:Mine": r"watch=no_such_module:Mine cannot be imported",
        "lab_watch:Deaf": r"watch=lab_watch:Deaf has no method row\(row\)",
        "lab_watch:Wants": r"watch=lab_watch:Wants can't be made \(TypeError: .*server.*\): make it without arguments",
    }.items():
        with pytest.raises(UserError, match=words):
            found([name])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["csb"], "watch=csb is not known: did you mean csv?"),
        (["x"], "watch=x is not known: use one of csv, mlflow, tensorboard, wandb, or package.module:Object."),
        ({"csv": 1}, "watch={'csv': 1} is not a list of watchers: write watch=[csv], with any of csv, tensorboard"),
        ([1], "watch=[1] is not a list of watchers"),
        (True, "watch=True is not a list of watchers"),
    ],
)
def test_what_is_no_watcher_is_refused_in_a_sentence(names, words):
    with pytest.raises(UserError) as refusal:
        found(names)
    assert words in str(refusal.value)


def test_several_are_a_list():
    with pytest.raises(UserError, match=r"watch=csv,wandb names several: write watch=\[csv,wandb\]"):
        normalised(["watch=csv,wandb"])


def test_nobody_watches_unless_asked():
    assert found([]) == found(None) == {}
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert hydra.compose("config", overrides=["+sweep=smoke"]).watch == []


def test_an_unknown_one_is_refused_before_anything_is_planned():
    with (
        hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"),
        pytest.raises(UserError, match="watch=nobody is not known"),
    ):
        run(hydra.compose("config", overrides=["+sweep=smoke", "watch=[nobody]", "dry_run=true"]), [])


@pytest.mark.parametrize("name", NEEDS)
def test_a_missing_package_is_a_sentence_with_its_remedy(name, monkeypatch):
    """A folder of its name, such as wandb leaves where it ran, is none."""
    for spec in (None, importlib.machinery.ModuleSpec(name, None)):
        monkeypatch.setattr(watchers.importlib.util, "find_spec", lambda _, spec=spec: spec)
        with pytest.raises(UserError, match=f"watch={name} needs a package that is not installed: pip install '{name}"):
            found([name])


def test_watching_is_in_no_record_of_a_study():
    assert typed(["+sweep=smoke", "++watch=[csv]", "++watch=[lab:Mine]"]) == "python -m sweeps.run +sweep=smoke"


def told(watcher, folder, rows=(*ROWS[:2], LOST)):
    with Watching({"it": watcher}, STUDY, folder) as watching:
        watching.rows(rows)
        watching.spent(Spent(3, 1.5, 0.25))


def test_csv_is_the_records_flat(tmp_path, capsys):
    write_jsonl(tmp_path / "trials.jsonl", [{**LOST, "trial": ROWS[1]["trial"]}, {**LOST, "trial": "before"}])
    told(READY["csv"](), tmp_path)
    with (tmp_path / "trials.csv").open(encoding="utf-8", newline="") as file:
        lines = {line["trial"]: line for line in csv.DictReader(file)}
    assert list(lines) == [ROWS[1]["trial"], "before", ROWS[0]["trial"], LOST["trial"]]
    for row in ROWS[:2]:
        line = lines[row["trial"]]
        assert {name: float(line[name]) for name in row["metrics"]} == row["metrics"]
        assert (line["status"], line["case"], line["reason"]) == ("done", row["axes"]["case"], "")
        assert float(line["epsilon_spent"]) == row["epsilon_spent"]
    assert (lines[LOST["trial"]]["reason"], lines[LOST["trial"]]["epsilon_spent"]) == ("it is lost", "")
    assert capsys.readouterr().err == ""


def test_csv_writes_a_long_study_few_times(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(watchers, "write_atomically", lambda path, content: (time.sleep(0.02), written.append(content)))
    told(READY["csv"](), tmp_path, [{**LOST, "trial": str(number)} for number in range(500)])
    assert 1 < len(written) < 50
    assert written[-1].count(b"\n") == 501


def events(folder: Path):
    """(run, tag, value) of all scalars below a folder, read as TensorBoard's files are defined: length, checksum,
    event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.rglob("events.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack("<Q", content[at : at + 8])
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                yield path.parent.name, value.tag, value.simple_value


def test_tensorboard_has_a_run_for_each_trial_and_what_was_spent(tmp_path, capsys):
    pytest.importorskip("tensorboardX")
    told(READY["tensorboard"](), tmp_path)
    seen = {(run, tag): value for run, tag, value in events(tmp_path / "tensorboard")}
    for row in ROWS[:2]:
        for name, value in row["metrics"].items():
            assert seen[row["trial"], name] == pytest.approx(value, rel=1e-6)
    assert {tag for run, tag in seen if run == LOST["trial"] and not tag.startswith("_")} == {"seconds"}
    assert (seen["tensorboard", "spent/epsilon"], seen["tensorboard", "spent/gpu_hours"]) == (1.5, 0.25)
    assert capsys.readouterr().err == ""


def test_mlflow_has_a_run_for_each_trial(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    told(READY["mlflow"](), tmp_path)
    runs = {
        run.info.run_name: run.data for run in mlflow.search_runs(experiment_names=["tricks"], output_format="list")
    }
    assert runs.keys() == {row["trial"] for row in ROWS}
    assert runs[ROWS[0]["trial"]].metrics.items() >= ROWS[0]["metrics"].items()
    assert runs[LOST["trial"]].tags["reason"] == "it is lost"


def test_wandb_has_a_run_for_each_trial(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb.sdk")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    told(READY["wandb"](), tmp_path)
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 3
    assert "failed in" not in capsys.readouterr().err

"""What is seen while a study runs, on terminals of all shapes and in a log."""

import io
import json
import os
import re
from pathlib import Path

import pyte
import pytest
from rich.console import Console

from analysis.price import composed
from sweeps.clocks import Clocks
from sweeps.plan import PlannedTrial
from sweeps.progress import Log, Progress, Row, Terminal, View, _display, block, lacking
from wavedp.chain import chain_of
from wavedp.config import TrialConfig
from wavedp.privacy.budget import Budget

LEDGER = Path(__file__).parents[2] / "results" / "eps_grid" / "ledger.jsonl"
NAMES = [f"epsilon={number}-upscaler=animevideov3_x2-seed=0-d7db843{number}" for number in range(4)]
METRICS = {"acc_cnn20_100_test": 0.05469, "fid_clean_64_test64": 421.7, "kid_clean_64_test64": 0.4285}


class Window(io.StringIO):
    """A terminal that keeps what it shows (pyte emulates it)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, columns: int, lines: int = 40) -> None:
        super().__init__()
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("COLUMNS", raising=False)
        monkeypatch.delenv("LINES", raising=False)
        monkeypatch.setattr(
            "os.get_terminal_size", lambda _: os.terminal_size((self.screen.columns, self.screen.lines))
        )
        self.screen = pyte.HistoryScreen(columns, lines, history=1000)
        self.screen.set_mode(pyte.modes.LNM)
        self.reader = pyte.Stream(self.screen)

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.reader.feed(text)
        return len(text)

    def resize(self, columns: int, lines: int) -> None:
        """As terminals do that wrap again what they show."""
        rows = [row.rstrip() for row in self.screen.display[: self.screen.cursor.y + 1]]
        self.screen.resize(lines, columns)
        self.reader.feed("\x1b[2J\x1b[H" + "\n".join(rows))

    def shown(self) -> list[str]:
        past = ["".join(line[place].data for place in sorted(line)).rstrip() for line in self.screen.history.top]
        return [line for line in [*past, *(row.rstrip() for row in self.screen.display)] if line]


def run(window: Window, names: list[str], at_tick=lambda tick: None) -> list[str]:
    """Show a study whose trials run all at once and end one after another; what is on the screen in the end."""
    display = Terminal(window)
    for tick in range(len(names) + 1):
        at_tick(tick)
        ended = [f"{names[tick - 1]}  done  {METRICS}"] if tick else []
        running = [Row(name, "private_fit", 0.42, 80.0, 110.0) for name in names[tick:]]
        display.show(View("0:10", running, ended, f"{tick} of {len(names)} trials ended"))
    display.close()
    return window.shown()


def assert_clean(shown: list[str], names: list[str]) -> None:
    text = "".join(shown)
    assert "private_fit" not in text, shown
    assert re.findall(r"\d of \d trials ended", text) == [f"{len(names)} of {len(names)} trials ended"], shown
    assert text.count("done") == len(names)


@pytest.mark.parametrize("columns", [20, 80, 120, 200])
def test_no_stale_line_at_any_width(monkeypatch, columns):
    assert_clean(run(Window(monkeypatch, columns), NAMES), NAMES)


def test_wide_characters_are_counted_as_the_terminal_does(monkeypatch):
    names = [f"猫の写真-ε={number}-{'猫' * 30}" for number in range(4)]
    assert_clean(run(Window(monkeypatch, 80), names), names)


def test_a_window_shorter_than_the_block(monkeypatch):
    window = Window(monkeypatch, 80, 4)
    shown = run(window, NAMES, lambda tick: tick and assert_study_is_seen(window, tick - 1))
    assert_clean(shown, NAMES)


def assert_study_is_seen(window: Window, ended: int) -> None:
    assert f"{ended} of 4 trials ended" in window.screen.display[window.screen.cursor.y]


@pytest.mark.parametrize("size", [(40, 40), (200, 40), (80, 6)])
def test_a_resized_window(monkeypatch, size):
    window = Window(monkeypatch, 120)
    run(window, NAMES, lambda tick: window.resize(*size) if tick == 2 else None)
    seen = "".join(window.screen.display)  # what a terminal has scrolled away while it was resized is out of reach
    assert "private_fit" not in seen
    assert re.findall(r"\d of 4 trials ended", seen) == ["4 of 4 trials ended"]


def test_what_else_is_printed_stands_above_the_block(monkeypatch, capsys):
    window = Window(monkeypatch, 80)
    shown = run(window, NAMES, lambda tick: print(f"a warning at {tick}"))
    assert_clean(shown, NAMES)
    assert [line for line in shown if "warning" in line] == [f"a warning at {tick}" for tick in range(5)]


def drawn(columns: int, height: int, running: list[Row], study: str = "0 of 5 trials ended") -> list[str]:
    stream = io.StringIO()
    console = Console(file=stream, width=columns, height=40)
    console.print(block(View("0:10", running, [], study), columns, height))
    return stream.getvalue().splitlines()


ROWS = [
    Row(NAMES[0], "private_fit", 0.42, 80.0, 110.0),
    Row(NAMES[1], "private_fit", waits="1 GPU (0 free)"),
    Row(NAMES[2], "tokenizer", waits=NAMES[0]),
    Row(NAMES[3], "evaluate", 0.0, 5.0),
]


def test_a_table_says_how_far_a_stage_is_and_what_it_waits_for():
    head, first, second, third, fourth, study = drawn(120, 20, ROWS)
    assert head.split() == ["trial", "stage", "done", "time"]
    assert re.search(r"^epsilon=0\S+ +private_fit +\S*━\S* +42% +1:20, 1:50 to go *$", first)
    assert "private_fit" in second
    assert second.rstrip().endswith("waits for 1 GPU (0 free)")
    assert "waits for epsilon=0" in third
    assert fourth.rstrip().endswith("0:05")
    assert study == "0 of 5 trials ended"


@pytest.mark.parametrize("columns", [1, 5, 20, 40, 79, 80, 120, 300])
@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 6, 20])
def test_the_block_fits(columns, height):
    lines = drawn(columns, height, ROWS)
    assert len(lines) <= height
    assert max(map(len, lines)) <= columns
    if columns >= 40:
        assert lines[-1] == "0 of 5 trials ended"
    if columns >= 40 and 3 <= height < 6:
        assert f"… {4 - (height - 3)} more" in lines[-2]


def test_a_stage_that_no_worker_took_up_waits_for_what_is_not_free():
    free = {"CPU": 1.0, "GPU": 0.0}
    assert lacking({"num_cpus": 1, "num_gpus": 1}, free) == "1 GPU (0 free)"
    assert lacking({"num_cpus": 2}, free) == "2 CPU (1 free)"
    assert lacking({"num_cpus": 1}, free) == "a worker"


KEYS = {stage.name: f"key of {stage.name}" for stage in chain_of(TrialConfig())}


CLUSTER = {"all": {"CPU": 2.0}, "asked": {}, "makers": {}, "stages": {}, "ledger": [], "gpu_seconds": 0.0}


def study(status, **options) -> tuple[Progress, io.StringIO]:
    stream, plan = io.StringIO(), [PlannedTrial("one", {}, TrialConfig(), KEYS)]
    return Progress(lambda: CLUSTER | status, plan, set(), 1, stream, **options), stream


def test_a_log_has_a_plain_line_an_event():
    status = {"now": {"one": ("tokenizer", KEYS["tokenizer"])}, "rows": {}, "clocks": Clocks()}
    progress, stream = study(status)
    progress._show()
    assert stream.getvalue() == "", "nothing has begun"
    status["clocks"].begin(KEYS["tokenizer"])
    progress._show()
    progress._show()
    assert stream.getvalue() == "0:00  one  tokenizer\n"
    status["now"] = {}
    status["rows"] = {
        "one": {"trial": "one", "status": "done", "reason": None, "epsilon_spent": 3.0, "metrics": {"fid": 34.51}}
    }
    progress._show()
    assert stream.getvalue().splitlines()[1:] == [
        "0:00  one  done  ε spent 3  fid 34.51",
        "0:00  1 of 1 trials ended, 0 running; 0:00 so far, to go 0:00; ε 0 spent",
    ]
    assert "\x1b" not in stream.getvalue()


def test_a_page_hears_of_what_runs_until_it_ends(tmp_path):
    status = {"now": {"one": ("tokenizer", KEYS["tokenizer"])}, "rows": {}, "clocks": Clocks()}
    progress = Progress(lambda: CLUSTER | status, [], set(), 1, io.StringIO(), tmp_path)
    progress._show()
    told = json.loads((tmp_path / "status.json").read_text())
    assert told["running"] == [["one", "tokenizer", 0.0, None, None, "a worker"]]  # waits for a worker
    status["clocks"].begin(KEYS["tokenizer"])
    status["clocks"].tell(KEYS["tokenizer"], 0.5)
    with progress:
        progress._show()
        told = json.loads((tmp_path / "status.json").read_text())
        assert told["study"].startswith("0 of 1 trials ended, 1 running")
        ((_, _, done, since, _, _),) = told["running"]
        assert done == 0.5
        assert 0 <= since < 60
    assert not (tmp_path / "status.json").exists()


def test_a_log_hears_of_the_study_once_a_minute(monkeypatch):
    progress, stream = study({"now": {}, "rows": {}, "clocks": Clocks()})
    progress._show()
    monkeypatch.setattr(progress.display, "told", progress.display.told - 61)
    progress._show()
    progress._show()
    assert stream.getvalue() == "0:00  0 of 1 trials ended, 0 running; 0:00 so far, to go ?; ε 0 spent\n"


def test_a_stage_that_another_trial_makes_is_waited_for():
    key = KEYS["tokenizer"]
    progress, _ = study({"makers": {key: "two"}, "now": {}, "rows": {}, "clocks": Clocks(begun={key: 1.0})})
    rows = [progress._row(trial, "tokenizer", key, progress.status(), 60.0, 21.0) for trial in ("one", "two")]
    assert rows == [Row("one", "tokenizer", waits="two"), Row("two", "tokenizer", 0.0, 20.0, 40.0)]


def test_earlier_studies_tell_how_long_it_takes_until_this_one_does():
    status = {"now": {}, "rows": {}, "clocks": Clocks()}
    progress, _ = study(status)
    kinds = dict.fromkeys(progress.kinds.values(), 10.0)
    progress, _ = study(status, before=kinds)
    assert line(progress).endswith(f"to go 1:{10 * len(KEYS) - 60}; ε 0 spent")
    status["clocks"].seconds[KEYS["tokenizer"]] = 30.0
    assert line(progress).endswith(f"to go 1:{10 * len(KEYS) - 40}; ε 0 spent")


def line(progress: Progress) -> str:
    status = progress.status()
    return progress._study_line(0, status, progress._spent(status), 0.0)


def test_the_line_of_the_study_says_what_was_spent_of_the_budget(monkeypatch):
    lines = [json.loads(line) for line in LEDGER.read_text().splitlines()]
    status = {"now": {}, "rows": {}, "clocks": Clocks(), "ledger": lines, "all": {"GPU": 4}}
    status |= {"stages": {"a": "fit", "b": "fit"}, "asked": {"fit": {"num_gpus": 1}}}
    status["clocks"].begin("a")  # the worker of b only starts
    progress, _ = study(status, budget=Budget(epsilon=20.0))
    spent = composed([line for line in lines if line["kind"] != "nonprivate"])
    assert line(progress).endswith(f"; ε {spent:.3g} of 20 spent; 1 of 4 GPUs in use")
    monkeypatch.setattr("sweeps.progress.composed", None)  # is not asked again for the same releases
    line(progress)
    status["gpu_seconds"] = 1800.0
    assert "; 0.5 GPU hours used; 1 of 4 GPUs" in line(progress)
    progress, _ = study(status | {"ledger": [], "gpu_seconds": 0.0}, budget=Budget(gpu_hours=2.5))
    assert line(progress).endswith("; ε 0 spent; 0 of 2.5 GPU hours used; 1 of 4 GPUs in use")


def test_a_terminal_that_cannot_move_its_cursor_is_a_log(monkeypatch):
    window = Window(monkeypatch, 80)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(_display(window), Log)

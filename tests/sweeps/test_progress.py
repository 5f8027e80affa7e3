"""What is seen while a study runs, on terminals of all shapes and in a log."""

import io
import json
import os
import re

import pyte
import pytest

from sweeps.clocks import Clocks
from sweeps.plan import PlannedTrial
from sweeps.progress import Log, Progress, Terminal, View, _display, shortened
from wavedp.chain import chain_of
from wavedp.config import TrialConfig

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
        running = [f"{name}  private_fit  42%  {'1:20' * 20}" for name in names[tick:]]
        display.show(View("0:10", {}, running, ended, f"{tick} of {len(names)} trials ended"))
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


def test_the_block_fits():
    assert shortened(["a", "b", "c", "all"], 4) == ["a", "b", "c", "all"]
    assert shortened(["a", "b", "c", "d", "all"], 4) == ["a", "b", "… 2 more", "all"]
    assert shortened(["a", "b", "c", "all"], 1) == ["all"]


KEYS = {stage.name: f"key of {stage.name}" for stage in chain_of(TrialConfig())}


def study(status) -> tuple[Progress, io.StringIO]:
    stream, plan = io.StringIO(), [PlannedTrial("one", {}, TrialConfig(), KEYS)]
    return Progress(lambda: status, plan, set(), 1, stream), stream


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
        "0:00  1 of 1 trials ended, 0 running; 0:00 so far, to go 0:00",
    ]
    assert "\x1b" not in stream.getvalue()


def test_a_page_hears_of_what_runs_until_it_ends(tmp_path):
    status = {"now": {"one": ("tokenizer", KEYS["tokenizer"])}, "rows": {}, "clocks": Clocks()}
    progress = Progress(lambda: status, [], set(), 1, io.StringIO(), tmp_path)
    progress._show()
    told = json.loads((tmp_path / "status.json").read_text())
    assert told["running"] == [["one", "tokenizer", 0.0, None]]  # waits for a worker
    status["clocks"].begin(KEYS["tokenizer"])
    status["clocks"].tell(KEYS["tokenizer"], 0.5)
    with progress:
        progress._show()
        told = json.loads((tmp_path / "status.json").read_text())
        assert told["study"].startswith("0 of 1 trials ended, 1 running")
        ((_, _, done, since),) = told["running"]
        assert done == 0.5
        assert 0 <= since < 60
    assert not (tmp_path / "status.json").exists()


def test_a_log_hears_of_the_study_once_a_minute(monkeypatch):
    progress, stream = study({"now": {}, "rows": {}, "clocks": Clocks()})
    progress._show()
    monkeypatch.setattr(progress.display, "told", progress.display.told - 61)
    progress._show()
    progress._show()
    assert stream.getvalue() == "0:00  0 of 1 trials ended, 0 running; 0:00 so far, to go ?\n"


def test_a_terminal_that_cannot_move_its_cursor_is_a_log(monkeypatch):
    window = Window(monkeypatch, 80)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(_display(window), Log)

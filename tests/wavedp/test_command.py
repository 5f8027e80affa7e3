"""Every command ends in a status and at most one sentence, and prints in any locale."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wavedp.command import command
from wavedp.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
LATIN = {"PYTHONIOENCODING": "latin-1"}
STARTED_AS_MODULES = sorted(
    path.relative_to(ROOT).as_posix()
    for room in ("wavedp", "sweeps", "analysis")
    for path in (ROOT / room).rglob("*.py")
    if 'if __name__ == "__main__":\n    sys.exit(main())' in path.read_text(encoding="utf-8")
)


def script(body: str, environment: dict[str, str] | None = None, stdout: int = subprocess.PIPE) -> subprocess.Popen:
    """Another process whose `main` is this body, and which Ctrl-C reaches: a shell's background jobs ignore it."""
    code = f"import sys\nfrom wavedp.command import command\n@command\ndef main():\n    {body}\nsys.exit(main())"
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=variables, stdout=stdout, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("locale", "printed"),
    [
        (ASCII, b"epsilon = 3, sigma >= 2, 4x4, caf\\udce9, \\u732b\n"),
        (LATIN, b"epsilon = 3, sigma >= 2, 4\xd74, caf\\udce9, \\u732b\n"),
        ({"PYTHONUTF8": "1"}, "ε = 3, σ ≥ 2, 4×4, caf\\udce9, 猫\n".encode()),
    ],
    ids=["C", "latin-1", "UTF-8"],
)
def test_any_text_can_be_printed_in_any_locale(locale, printed):
    asked = script(r"print('\u03b5 = 3, \u03c3 \u2265 2, 4\u00d74, caf\udce9, \u732b')", locale)
    assert asked.communicate(timeout=30) == (printed, b"")
    assert asked.returncode == 0


@pytest.mark.parametrize("path", STARTED_AS_MODULES)
def test_every_command_begins_and_ends_alike(path):
    functions = [item for item in ast.parse((ROOT / path).read_text(encoding="utf-8")).body if hasattr(item, "name")]
    (main,) = [item for item in functions if item.name == "main"]
    assert "command" in [getattr(decorator, "id", "") for decorator in main.decorator_list]


def test_the_commands_are_found():
    assert {"sweeps/run.py", "analysis/report.py", "wavedp/upscalers/__main__.py"} <= set(STARTED_AS_MODULES)


def test_a_problem_of_the_users_is_one_sentence(capsys):
    @command
    def main() -> int:
        raise UserError("level=9 is too high: use 2.")

    assert main() == 2
    assert capsys.readouterr().err == "Error: level=9 is too high: use 2.\n"


def test_a_status_is_kept():
    assert command(lambda: 1)() == 1
    assert command(lambda: None)() == 0


def test_ctrl_c_is_one_sentence():
    asked = script("print('ready', flush=True); import time; time.sleep(60)")
    assert asked.stdout.readline() == b"ready\n"
    asked.send_signal(signal.SIGINT)
    assert asked.communicate(timeout=30)[1] == b"Interrupted: start the same command again to go on.\n"
    assert asked.returncode == 130


def test_a_closed_pipe_ends_a_command_in_silence():
    reader, writer = os.pipe()
    os.close(reader)
    asked = script("print('text' * 10000)", stdout=writer)
    os.close(writer)
    assert asked.communicate(timeout=30)[1] == b""
    assert asked.returncode == 141

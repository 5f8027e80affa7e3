"""Text files and other programs' output have an encoding of their own: the locale never decides how they are read."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [path for room in ("wavedp", "sweeps", "analysis") for path in sorted((ROOT / room).rglob("*.py"))]
TEXT = {"read_text", "write_text"}
PROGRAMS = {"run", "Popen", "check_output"}


def without_encoding(source: str) -> list[int]:
    """Lines of the calls that read or write text in the locale's encoding."""
    return [
        call.lineno
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call) and not any(keyword.arg == "encoding" for keyword in call.keywords)
        if _reads_text(call)
    ]


def _reads_text(call: ast.Call) -> bool:
    name = getattr(call.func, "attr", None) or getattr(call.func, "id", None)
    if name in PROGRAMS:
        return any(keyword.arg in ("text", "universal_newlines") for keyword in call.keywords)
    if isinstance(call.func, ast.Name) and name == "open":
        return not any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in call.args[1:])
    return name in TEXT


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_every_text_file_is_opened_with_an_encoding(path):
    assert not without_encoding(path.read_text(encoding="utf-8"))


def test_what_is_found():
    assert without_encoding("open(p)\nopen(p, 'rb')\nopen(p, encoding='utf-8')\np.read_text()") == [1, 4]
    assert without_encoding("subprocess.run(c, text=True)\nsubprocess.run(c)\np.write_text(t)") == [1, 3]

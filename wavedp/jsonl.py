"""JSON lines, as every record of a study is kept: one object a line, a line ends at `\\n` and nowhere else.

How a file is read, where `complete` says that every line counts, as in a ledger:

    case                                        result
    a blank line, a byte order mark, CRLF       read as if it were not there
    U+2028, U+0085, \\x0b … inside a value       part of the value
    last line cut off (no `\\n`, no object)      left out with a warning; refused if `complete`
    any other line that is no JSON object       UserError that names file and line
    an object without a `needed` field          the same
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from wavedp.errors import UserError
from wavedp.files import write_atomically

Row = dict[str, Any]


def read_jsonl(path: Path, complete: bool = False, needed: Sequence[str] = ()) -> list[Row]:
    """The objects of the file; see the module. complete: no line may be missing, so a torn one is refused too. needed:
    fields that every object has."""
    rows, places = read_lines(path, complete)
    for row, place in zip(rows, places, strict=True):
        for name in needed:
            if name not in row:
                raise UserError(f"{place} has no {name!r}: remove or mend that line.")
    return rows


def read_lines(path: Path, complete: bool = False) -> tuple[list[Row], list[str]]:
    """The objects of the file and the place of each (`line 3 of …`), for error messages."""
    rows, places = [], []
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"line {number} of {path}"
        try:
            row = json.loads(line.decode())
            if not isinstance(row, dict):
                raise ValueError("not an object")
        except ValueError as error:
            if number < len(lines):
                raise UserError(f"{place} is broken, not a JSON object ({error}): remove or mend that line.") from None
            if complete:
                raise UserError(
                    f"{place} was cut off, so what it said is missing: restore the file, for a study's ledger with "
                    "`python -m sweeps.rebuild`."
                ) from None
            warnings.warn(f"{place} was cut off while it was written: left out.", stacklevel=3)
            break
        rows.append(row)
        places.append(place)
    return rows, places


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    """Replace the file with these rows in one step. A lone surrogate (of a file name that is no text) is escaped."""
    write_atomically(path, b"".join(map(encoded, rows)))


def encoded(row: Row) -> bytes:
    """A row's line in the file."""
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")

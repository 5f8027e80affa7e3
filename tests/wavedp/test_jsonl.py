"""JSON lines: what files go through (editors, crashes, copies) is read, or refused with file and line."""

import json

import pytest

from wavedp.errors import UserError
from wavedp.jsonl import read_jsonl, write_jsonl

ROWS = [{"trial": "a", "note": "one"}, {"trial": "b", "note": "two"}]
TEXT = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        TEXT.rstrip("\n"),
        "\n" + TEXT.replace("\n", "\n\n \t\n"),
        "\ufeff" + TEXT,
        TEXT.replace("\n", "\r\n"),
    ],
    ids=["plain", "no newline at the end", "blank lines", "byte order mark", "CRLF"],
)
def test_what_editors_do_is_read(content, tmp_path):
    path = tmp_path / "trials.jsonl"
    path.write_bytes(content.encode())
    assert read_jsonl(path) == read_jsonl(path, complete=True) == ROWS


def test_a_line_ends_at_a_newline_and_nowhere_else(tmp_path):
    rows = [{"axis": f"a{chr(code)}b"} for code in (0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x85, 0x2028, 0x2029, 0x0D, 0xFEFF)]
    write_jsonl(tmp_path / "trials.jsonl", rows)
    assert read_jsonl(tmp_path / "trials.jsonl") == rows


def test_a_file_name_that_is_no_text_can_be_written(tmp_path):
    row = {"axis": b"caf\xe9.png".decode(errors="surrogateescape")}
    write_jsonl(tmp_path / "trials.jsonl", [row])
    assert read_jsonl(tmp_path / "trials.jsonl") == [row]


@pytest.mark.parametrize("torn", [b'{"trial": "c', b'{"trial": "\xc3', b"\0\0\0", b"tru", b"17"])
def test_a_last_line_that_was_cut_off_is_said(torn, tmp_path):
    path = tmp_path / "trials.jsonl"
    path.write_bytes(TEXT.encode() + torn)
    with pytest.warns(UserWarning, match=rf"line 3 of {path} was cut off while it was written: left out"):
        assert read_jsonl(path) == ROWS
    with pytest.raises(UserError, match=rf"line 3 of {path} was cut off, so what it said is missing: restore"):
        read_jsonl(path, complete=True)


@pytest.mark.parametrize("broken", [b'{"trial": "c', b"[1]", b"17", b'{"trial": "\xc3"}', b"\0"])
def test_a_broken_line_is_refused_by_file_and_number(broken, tmp_path):
    path = tmp_path / "trials.jsonl"
    for content in (broken + b"\n" + TEXT.encode(), b"\n" + broken + b"\n"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"line [12] of {path} is broken, not a JSON object"):
            read_jsonl(path)

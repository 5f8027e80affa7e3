"""Records and the folders they are kept in, as editors, crashes, full disks and other commands leave them."""

from __future__ import annotations

import json
import os
import resource
import warnings
from collections.abc import Callable
from pathlib import Path

from analysis.load import load
from odd_inputs import Odd
from sweeps.lock import only_one
from sweeps.records import Records, claim_folder
from wavedp.files import require_writable
from wavedp.privacy import ledger
from wavedp.store import Store

ROW = {"trial": "a", "status": "done", "seed": 0, "epsilon": 1.0}
LINE = ledger.line_nonprivate("fid", dataset="d", n_records=9, stage_key="k", trials=["a"], time="2026-01-01T00:00:00")
TEXT = json.dumps(ROW) + "\n"


def study(folder: Path, trials: bytes = TEXT.encode(), lines: bytes = b"", meta: bytes = b"study: s\n") -> Path:
    for name, content in (("trials.jsonl", trials), ("ledger.jsonl", lines), ("study.yaml", meta)):
        (folder / name).write_bytes(content)
    return folder


def reads(trials: bytes, names: tuple[str, ...]) -> Callable[[Path], None]:
    """Both readers, of sweeps and of analysis, find these trials."""

    def act(folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert tuple(Records(study(folder, trials)).trials) == names
            assert tuple(trial.trial for trial in load(folder).trials) == names

    return act


def refuses(trials: bytes = TEXT.encode(), lines: bytes = b"", meta: bytes = b"study: s\n") -> Callable[[Path], object]:
    return lambda folder: load(study(folder, trials, lines, meta))


def separators(folder: Path) -> None:
    records, odd = Records(folder), {"trial": "a\u2028\x85\x0b\x1eb", "status": "done", "seed": 0, "epsilon": 1.0}
    records.put_trial(odd)
    records.put_trial({**ROW, "axes": {"data.path": b"caf\xe9".decode(errors="surrogateescape")}})
    assert list(Records(folder).trials.values()) == list(records.trials.values())


def a_file(folder: Path) -> Path:
    path = folder / "file"
    path.touch()
    return path


def full_disk(folder: Path) -> None:
    """A limit on the size of files stands for the disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        require_writable(folder / "results", "results")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def two_commands(folder: Path) -> None:
    with only_one(folder), only_one(folder):
        raise AssertionError("two commands hold one folder")


CASES = [
    Odd("a blank line in trials.jsonl", reads(b"\n" + TEXT.encode() + b" \r\n\n", ("a",))),
    Odd("a byte order mark and CRLF in trials.jsonl", reads(("\ufeff" + TEXT.replace("\n", "\r\n")).encode(), ("a",))),
    Odd("a last row that was cut off", reads(TEXT.encode() + b'{"trial": "b", "stat', ("a",))),
    Odd("line separators and a file name that is no text", separators),
    Odd("a broken row in the middle", refuses(b'{"trial": "b\n' + TEXT.encode()), ("line 1 of", "trials.jsonl")),
    Odd("a row that is no trial", lambda f: Records(study(f, b'{"a": 1}\n')), ("line 1 of", "has no 'trial'")),
    Odd("a ledger line that was cut off", refuses(lines=json.dumps(LINE)[:-9].encode()), ("line 1 of", "ledger.jsonl")),
    Odd(
        "a damaged study.yaml",
        lambda f: claim_folder(study(f, meta=b"study: [s\n"), {}, []),
        ("study.yaml is damaged",),
    ),
    Odd(
        "an empty gpu_seconds.json",
        lambda f: (a_file(f).rename(f / "gpu_seconds.json"), Records(f)),
        ("gpu_seconds.json",),
    ),
    Odd("results is a file", lambda f: require_writable(a_file(f) / "s", "results"), ("results=", "/file/s cannot be")),
    Odd("results on a full disk", full_disk, ("results=", "cannot be written (File too large)")),
    Odd("store is a file", lambda f: Store(str(a_file(f))).require_writable(), ("store=", "a file is in its place")),
    Odd("store where nobody may write", lambda f: Store("/proc/wavedp").require_writable(), ("store=/proc/wavedp",)),
    Odd("two commands on one study", two_commands, ("is in use by process", str(os.getpid()))),
]

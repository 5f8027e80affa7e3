"""Records and the folders they are kept in, as editors, crashes, full disks and other commands leave them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import warnings
from collections.abc import Callable
from pathlib import Path

from analysis.load import load
from odd_inputs import Odd, Refused
from sweeps.lock import only_one
from sweeps.rebuild import rebuild
from sweeps.records import Records, claim_folder
from wavedp.files import require_writable
from wavedp.finished import open_trial
from wavedp.privacy import ledger
from wavedp.reports.spectrum import measure
from wavedp.store import Store

ROW = {"trial": "a", "status": "done", "seed": 0, "epsilon": 1.0}
LINE = ledger.line_nonprivate("fid", dataset="d", n_records=9, stage_key="k", trials=["a"], time="2026-01-01T00:00:00")
TEXT = json.dumps(ROW) + "\n"
ROW_BEFORE_SETTINGS = (json.dumps({**ROW, "axes": {}, "keys": {}}) + "\n").encode()


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


KEPT = 'study: s\ncommand: "x"\naxes:\n  seeds: [0]\n'
DAMAGED = {  # of a study.yaml: its content, and what the sentence says of it
    "a bracket left open": (KEPT + "config: {a: [1\n", "line 6: "),
    "a tab": (KEPT + "\tconfig: 1\n", "line 5: "),
    "a control character": (KEPT + "config: \x07\n", "line 5: "),
    "Latin-1": ((KEPT + "config: café\n").encode("latin-1"), "line 5: no UTF-8"),
    "a day that is none": (KEPT + "created: 2026-13-45\n", "month must be in 1..12"),
    "no mapping": ("- study\n", "not a mapping"),
    "nothing": ("", "empty"),
    "axes that are a list": ("study: s\naxes: [1]\n", "axes is not a mapping"),
}
READERS: dict[str, Callable[[Path], object]] = {
    "wavedp.finished": lambda folder: open_trial(folder, "a"),
    "wavedp.reports.spectrum": measure,
    "wavedp.privacy.ledger": lambda folder: ledger.main([str(folder)]),
    "analysis.load": load,
    "sweeps.records": lambda folder: claim_folder(folder, {"identity": {}}, []),
    "sweeps.rebuild": lambda folder: rebuild(folder, Store("memory://nothing")),
}
LACKING = {  # what each needs, with a study.yaml that has its name only
    "wavedp.finished": "config",
    "wavedp.reports.spectrum": "config.data",
    "sweeps.rebuild": "identity",
}


def without_a_trial(reader: Callable[..., object]) -> Callable[[Path], object]:
    """A reader of finished trials, on a row that names none."""
    metrics = "{reference_split: a, reference_samples: 1}"
    meta = f"study: s\nconfig: {{data: {{}}, privacy: {{accountant: pld}}, metrics: {metrics}}}\n"
    given = ("a",) if reader is open_trial else ()
    return lambda folder: reader(study(folder, b'{"a": 1}\n', meta=meta.encode()), *given)


def opens(reader: str, meta: bytes | str) -> Callable[[Path], object]:
    """A reader of study.yaml, as its command prints what it raises."""

    def act(folder: Path) -> None:
        study(folder, ROW_BEFORE_SETTINGS, meta=meta.encode() if isinstance(meta, str) else meta)
        printed = io.StringIO()
        with contextlib.redirect_stderr(printed):
            status = READERS[reader](folder)
        if status == 2:
            raise Refused(printed.getvalue())

    return act


CASES = [
    *(
        Odd(
            f"a study.yaml with {name}, {reader}", opens(reader, meta), ("/study.yaml is damaged (", says, "restore it")
        )
        for reader in READERS
        for name, (meta, says) in DAMAGED.items()
    ),
    *(
        Odd(f"a study.yaml without {name}, {reader}", opens(reader, "study: s\n"), (f"/study.yaml has no {name}: ",))
        for reader, name in LACKING.items()
    ),
    Odd("a study.yaml with a byte order mark", lambda f: load(study(f, meta=b"\xef\xbb\xbf" + KEPT.encode()))),
    Odd("a blank line in trials.jsonl", reads(b"\n" + TEXT.encode() + b" \r\n\n", ("a",))),
    Odd("a byte order mark and CRLF in trials.jsonl", reads(("\ufeff" + TEXT.replace("\n", "\r\n")).encode(), ("a",))),
    Odd("a last row that was cut off", reads(TEXT.encode() + b'{"trial": "b", "stat', ("a",))),
    Odd("line separators and a file name that is no text", separators),
    Odd("a broken row in the middle", refuses(b'{"trial": "b\n' + TEXT.encode()), ("line 1 of", "trials.jsonl")),
    Odd("a row that is no trial", lambda f: Records(study(f, b'{"a": 1}\n')), ("line 1 of", "has no 'trial'")),
    *(
        Odd(f"a row that is no trial, {reader.__name__}", without_a_trial(reader), ("line 1 of", "has no 'trial'"))
        for reader in (open_trial, measure)
    ),
    Odd("a ledger line that was cut off", refuses(lines=json.dumps(LINE)[:-9].encode()), ("line 1 of", "ledger.jsonl")),
    *(
        Odd(f"an empty {name}", lambda f, name=name: (a_file(f).rename(f / name), Records(f)), (name,))
        for name in ("gpu_seconds.json", "stages.json")
    ),
    Odd("results is a file", lambda f: require_writable(a_file(f) / "s", "results"), ("results=", "/file/s cannot be")),
    Odd("results on a full disk", full_disk, ("results=", "cannot be written (File too large)")),
    Odd("store is a file", lambda f: Store(str(a_file(f))).require_writable(), ("store=", "a file is in its place")),
    Odd("store where nobody may write", lambda f: Store("/proc/wavedp").require_writable(), ("store=/proc/wavedp",)),
    Odd("two commands on one study", two_commands, ("is in use by process", str(os.getpid()))),
]

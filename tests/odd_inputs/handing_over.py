"""Studies and trials to hand over or to publish that are not there, not finished, or not what they seem."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from published import EPS_GRID as STUDY
from published import row

from odd_inputs import ROOT, Odd, Refused
from sweeps import export, publish
from wavedp import sample
from wavedp.data.image_files import ImageSet, write
from wavedp.finished import open_trial

ROW = row(STUDY, epsilon=10)
TRIAL, MADE = ROW["trial"], ROW["keys"]["upscale"][:12]


def refused(main: Callable[[list[str]], int], *typed: object) -> None:
    """Run a command in this process. Raises Refused with its sentence."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        status = main([str(word) for word in typed])
    assert status == 2
    raise Refused(said.getvalue().strip())


def exporting(*typed: object) -> Callable[[Path], None]:
    return lambda folder: refused(export.main, *typed, "--to", folder / "set", "--store", folder / "store")


def a_file_as_target(folder: Path) -> None:
    (folder / "set").touch()
    exporting(STUDY, "--trial", TRIAL)(folder)


def changed(folder: Path, change: Callable[[str], str]) -> Path:
    """A copy of a study with another trials.jsonl."""
    study = Path(shutil.copytree(STUDY, folder / "study"))
    rows = study / "trials.jsonl"
    rows.write_text(change(rows.read_text(encoding="utf-8")), encoding="utf-8")
    return study


def opens(change: Callable[[str], str]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        assert open_trial(changed(folder, change), TRIAL).config.privacy.epsilon == 10

    return act


def a_class_that_climbs(folder: Path) -> None:
    write(ImageSet(np.zeros((2, 1, 4, 4), np.uint8), np.arange(2), ("../../up", "b")), folder / "in" / "set", "png")
    assert sorted(path.name for path in folder.rglob("*.png")) == ["00000.png", "00001.png"]
    assert [path.name for path in folder.iterdir()] == ["in"]
    assert [path.name for path in (folder / "in").iterdir()] == ["set"]


def with_a_separator(text: str) -> str:
    """U+2028 in a value, which str.splitlines takes for the end of a line."""
    first, rest = text.split("\n", 1)
    return json.dumps({**json.loads(first), "host": "a\u2028b"}, ensure_ascii=False) + "\n" + rest


CASES = [
    Odd("export: a trial's name half typed", exporting(STUDY, "--trial", "epsilon=10"), ("'epsilon=10'", TRIAL)),
    Odd("export: a folder without a study", exporting(ROOT / "conf", "--trial", "a"), ("conf is not a study",)),
    Odd("export: a store without the trial", exporting(STUDY, "--trial", TRIAL), (f"has no upscale {MADE}",)),
    Odd("export: a file as the target", a_file_as_target, ("set is a file: name another folder",)),
    Odd(
        "sample: no image",
        lambda folder: refused(sample.main, STUDY, "--trial", TRIAL, "--n", 0, "--to", folder / "set"),
        ("--n 0 draws nothing",),
    ),
    Odd(
        "sample: a negative seed",
        lambda folder: refused(sample.main, STUDY, "--trial", TRIAL, "--n", 9, "--seed", -1, "--to", folder / "set"),
        ("--seed -1 is out of range",),
    ),
    Odd("records: a byte order mark", opens(lambda text: "\ufeff" + text)),
    Odd("records: a blank line", opens(lambda text: text.replace("\n", "\n\n", 1))),
    Odd("records: a torn last line", opens(lambda text: text + '{"trial": "epsil')),
    Odd("records: U+2028 in a value", opens(with_a_separator)),
    Odd(
        "records: a broken line before the last",
        lambda folder: open_trial(changed(folder, lambda text: "{\n" + text), TRIAL),
        ("line 1 of", "is broken"),
    ),
    Odd("export: a class called ../../up", a_class_that_climbs),
    Odd(
        "publish: a study onto itself",
        lambda folder: refused(publish.main, STUDY, "--to", STUDY),
        ("eps_grid is the study itself",),
    ),
    Odd(
        "publish: a folder that is no study",
        lambda folder: refused(publish.main, ROOT / "conf", "--to", folder / "set"),
        ("conf has no study.yaml",),
    ),
]

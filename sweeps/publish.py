"""Publish a finished study:  python -m sweeps.publish runs/<study> [--to results/<study>] [--anyway]

Copies its records, figures and samples, and says what to add to git. What it refuses, in a sentence:

    a trial that is planned and has no row, or failed      publish it --anyway, or run its command again
    rows of uncommitted code, of several commits, or of    publish them --anyway, or run the command again here: what is
    other code than is checked out                         finished is found in the store
    a file that is no record, figure or sample             artifacts and weights are never published: move it away
    10 MB or more in all                                   leave some figures or samples out
    a target with releases that this ledger lacks          what was released stays released: give another --to

A README.md in the target, which says in words what the study found, stays there.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from analysis.figures import PLOTLY, write_plotly
from analysis.load import Study, load
from sweeps import watchers
from sweeps.plan import points
from sweeps.study import CODE, ROOT, commit
from wavedp.command import command
from wavedp.errors import UserError
from wavedp.privacy import ledger

MOST_BYTES = 10_000_000
PUBLISHED = (
    "study.yaml", "trials.jsonl", "trials.superseded.jsonl", "ledger.jsonl", "results.md", "gpu_seconds.json",
    "spectra.jsonl", "spectra_ledger.jsonl", "membership.jsonl", "membership_ledger.jsonl",
    "samples/*.npz", "samples/*.png", "failures/*.txt",
    "figures/*.html", "figures/*.json", "figures/*.png", "figures/*.pdf", "figures/waterfall.md",
    "figures/waterfall.csv",
)  # fmt: skip
WORDS = "README.md"
LEFT = ("report.html", "stages.json", "status.json", WORDS, *watchers.PLACES)
"""Files and folders of a study that stay where they are: made again from the records, of use to a run only, or written
by hand."""


def publish(folder: Path, target: Path, anyway: bool = False) -> list[Path]:
    """Copy a study's folder to `target`, in the place of what was published there; returns the files copied.

    anyway: although trials are missing, or were made by other code than this commit. Raises UserError.
    """
    study = load(folder)
    files = _publishable(folder)
    if not anyway:
        _require_finished(study)
        _require_this_commit(study)
    _require_all_releases(folder, target)
    told = (target / WORDS).read_bytes() if (target / WORDS).is_file() else None
    if target.exists():
        shutil.rmtree(target)
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, target / name)
    if told is not None:
        (target / WORDS).write_bytes(told)
    write_plotly(target.absolute().parent)  # which the pages load
    return [target / name for name in files]


def _publishable(folder: Path) -> list[Path]:
    """The files of a study's folder, relative to it. Raises UserError for others and for too many bytes."""
    found = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if not path.is_dir() or path.is_symlink()]
    shown = [name for name in found if not any(part.startswith(".") for part in name.parts)]
    files = [name for name in shown if name.parts[0] not in LEFT or (folder / name).is_symlink()]
    for name in files:
        if (folder / name).is_symlink() or not any(fnmatch(name.as_posix(), pattern) for pattern in PUBLISHED):
            raise UserError(
                f"{folder / name} is no record, figure or sample of a study: move it out of {folder}, for artifacts, "
                "weights and links are not published."
            )
    size = sum((folder / name).stat().st_size for name in files)
    if size >= MOST_BYTES:
        largest = max(files, key=lambda name: (folder / name).stat().st_size)
        raise UserError(
            f"{folder} holds {size / 1e6:.1f} MB, and a published study stays under {MOST_BYTES / 1e6:g} MB: remove "
            f"figures or samples, the largest of which is {largest}."
        )
    return files


def _require_finished(study: Study) -> None:
    planned, there = _planned(study.meta.get("axes") or {}), len(study.trials)
    failed = [trial for trial in study.trials if trial.status == "failed"]
    if failed or there < planned:
        what = f"the trial {failed[0].trial} failed" if failed else f"{there} of {planned} planned trials have ended"
        raise UserError(
            f"{study.folder} is not finished, for {what}: type its command again ({study.meta.get('command')}), or "
            "add --anyway."
        )


def _planned(axes: dict[str, Any]) -> int:
    """How many trials a study's axes make."""
    if search := axes.get("search"):
        return int((search.get("random_k") or {}).get("drawn") or search.get("trials") or 0)
    return len({repr(point) for point in points(axes)})


def _require_this_commit(study: Study) -> None:
    made, here = sorted({str(study.meta.get("commit")), *(trial.commit for trial in study.trials)}), commit()
    remedy = f"type its command again ({study.meta.get('command')}), or add --anyway."
    if len(made) > 1:
        raise UserError(f"{study.folder} is of several commits, {_short(made)}: {remedy}")
    if made[0].endswith("+") or made[0] in ("unknown", "None"):
        raise UserError(
            f"{study.folder} was made by code that is in no commit ({_short(made)}): commit the code and {remedy}"
        )
    if here.endswith("+"):
        raise UserError(
            f"files of {', '.join(CODE)} differ from commit {_short([here])}: commit them, or add --anyway."
        )
    same = subprocess.run(["git", "diff", "--quiet", made[0], here, "--", *CODE], cwd=ROOT, capture_output=True)
    if same.returncode:
        raise UserError(
            f"{study.folder} was made by commit {_short(made)}, and the code of {_short([here])} differs: check that "
            f"commit out, or {remedy}"
        )


def _require_all_releases(folder: Path, target: Path) -> None:
    """Raises UserError where publishing would take releases out of a published ledger."""
    there = _releases(target)
    lost = there - _releases(folder)
    if lost:
        purpose, key, _ = min(lost, key=repr)
        raise UserError(
            f"the ledger of {target} has {len(lost)} of {len(there)} lines that {folder} lacks ({purpose} {key[:12]}), "
            f"and what was released stays released: give another place, such as --to {target}_2."
        )


def _releases(folder: Path) -> set[tuple[str, str, str | None]]:
    path = folder / "ledger.jsonl"
    return {ledger.identity(line) for line in ledger.read(path)} if path.is_file() else set()


def _short(commits: Iterable[str]) -> str:
    return ", ".join(name[:12] + ("+" if name.endswith("+") else "") for name in commits)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m sweeps.publish", description=(__doc__ or "").split(":")[0])
    parser.add_argument("folder", type=Path, help="runs/<study>")
    parser.add_argument("--to", type=Path, help="folder to write (results/<study>)")
    parser.add_argument("--anyway", action="store_true", help="although it is unfinished or of other code")
    chosen = parser.parse_args(arguments)
    target = chosen.to or Path("results") / chosen.folder.absolute().name
    try:
        if target.absolute() == chosen.folder.absolute():
            raise UserError(f"{target} is the study itself: give another place with --to.")
        written = publish(chosen.folder, target, chosen.anyway)
    except (UserError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in written)
    print(f"{len(written)} files, {size / 1e6:.1f} MB, are now in {target}. To publish them:")
    print(f"git add {target} {target.parent / PLOTLY}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""One check of everything that runs on CUDA: is it right, how fast is it, how much memory does it take?

    python tests/gpu/check.py --out check.json [--device cuda|cpu] [--minutes 6] [--small] [--only NAME,NAME]
                              [--inception FILE] [--weights FOLDER] [--commit COMMIT]

Sections run in order of importance (`--only` names some) and stop in time. Correctness sections hold a device against
the CPU, in other microbatches and batches; tables hold its speed and memory against the goals of `GOALS`. Only wavedp
is run: neither ray nor hydra is imported, and nothing is fetched. `--small --device cpu` is the same code in about a
minute of two cores, CPU against CPU, and the test suite runs it: its times say nothing. Exit status: 0; 1 where
something is wrong; 2 where there is no such device or section.

On the lent machine (Python 3.12, torch 2.11, no network; 64 MiB a call, of which tracked files take 34). Here, in the
root of the checkout that the session was started in:

    .venv/bin/python tests/gpu/pack.py    # wheels 11, FID network 70, an upscaler 1 MiB: .gpu/1 to .gpu/3, 29 MiB each

Then one call for each piece, the next within the 30 seconds that the machine stays warm, so that /tmp/gpu stays:

    run carry=[.gpu/1] timeout_s=60:   mkdir -p /tmp/gpu && cp .gpu/1/piece.* /tmp/gpu/
    run carry=[.gpu/2] timeout_s=60:   cp .gpu/2/piece.* /tmp/gpu/
    run carry=[.gpu/3] timeout_s=480:  cp .gpu/3/piece.* /tmp/gpu/ && . tests/gpu/unpack.sh && python3
        tests/gpu/check.py --out $OUT/check.json --weights /tmp/gpu/weights --commit $(cat /tmp/gpu/commit)
    give_back

A session's 15 minutes are enough for this check or for the study of conf/preset/gpu.yaml, which has its own commands.

The JSON (schema 1), written after every section:

    schema 1 · started (UTC) · commit, or "unknown" where no git is; changed: the tree was not that commit
    device {kind, name, memory_gib, cuda} · versions {python, torch, …} · threads · small · minutes · seconds
    sections [{name, kind, status, reason, seconds, rows}]
        kind    correctness | table
        status  passed, measured; failed: a row did; error: an exception; skipped: a package or file is missing;
                cut short, not run: no time was left. reason: why, "" if it went well
        rows    of correctness: {name, error, allowed, status, reason}: status passed, failed, skipped (a part of the
                section is missing) or refused (by CPU and device alike, in the words of `reason`). error: relative L2
                distance unless `name` says another; null where nothing was compared
                of tables: {name, value, unit, peak_gib, …}: further numbers of the row under their own names; value
                null and `reason` where it could not be measured. peak_gib: of device memory, null on a CPU
    goals [{name, section, row, goal, unit, found, reached}]: reached null where it was not measured on CUDA
    failed: number of failed rows and erring sections
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "gpu")]

import torch  # noqa: E402
from setting import Missing, Row, Setting  # noqa: E402

PACKAGES = ("torch", "numpy", "scipy", "opacus", "diffusers", "dp-accounting", "PyWavelets", "safetensors")


@dataclass(frozen=True)
class Section:
    """A part of the check. run: yields its rows; the clock is looked at between them."""

    name: str
    kind: str
    run: Callable[[Setting], Iterator[Row]]


@dataclass(frozen=True)
class Goal:
    """What issue 17 asks of one number of a table: at most `goal`, or at least where `least`. per: a row of the same
    section that the number is divided by first."""

    name: str
    section: str
    row: str
    goal: float
    unit: str
    field: str = "value"
    least: bool = False
    per: str | None = None


GOALS = (
    Goal("private step of the transformer, in plain bfloat16 steps", "transformer_step", "bookkeeping bfloat16", 1.35,
         "x", per="plain bfloat16"),
    Goal("private step of the transformer", "transformer_step", "bookkeeping bfloat16", 0.081, "s"),
    Goal("private step of the U-Net, 28x28, K=32, B=4096", "unet_large_step", "bookkeeping bfloat16", 2.5, "s"),
    Goal("memory of that step", "unet_large_step", "bookkeeping bfloat16", 40.0, "GiB", field="peak_gib"),
    Goal("4,000 steps of wavelet_detail", "wavelet_detail_training", "4,000 steps of 64", 20.0, "s"),
    Goal("FID features, twice what one H200 gave before", "fid_features_speed", "float32", 3846.0, "images/s",
         least=True),
)  # fmt: skip


def sections() -> list[Section]:
    """All of them, most important first."""
    import correctness
    import speed

    right = (*correctness.SECTIONS, speed.out_of_memory)
    found = [Section(run.__name__, "correctness", run) for run in right]
    return found + [Section(run.__name__, "table", run) for run in speed.SECTIONS]


def run_section(section: Section, setting: Setting) -> dict[str, Any]:
    """The section's part of the JSON."""
    started, rows, status, reason = time.monotonic(), [], "", ""
    try:
        if setting.late():
            status, reason = "not run", "no time was left"
        else:
            for row in section.run(setting):
                rows.append(row)
                if setting.late():
                    status, reason = "cut short", f"no time was left after {len(rows)} rows"
                    break
    except Missing as missing:
        status, reason = "skipped", str(missing)
    except ModuleNotFoundError as error:
        if (error.name or "wavedp").partition(".")[0] == "wavedp":
            status, reason = "error", f"{type(error).__name__}: {error}"
        else:
            status, reason = "skipped", f"the package {error.name} is not installed"
    except Exception as error:  # the other sections go on
        status, reason = "error", f"{type(error).__name__}: {error}"
    wrong = [row["name"] for row in rows if row.get("status") == "failed"]
    if wrong:
        status, reason = "failed", f"{len(wrong)} of {len(rows)} rows, first {wrong[0]}"
    if not status:
        status = "passed" if section.kind == "correctness" else "measured"
    seconds = round(time.monotonic() - started, 2)
    return {"name": section.name, "kind": section.kind, "status": status, "reason": reason, "seconds": seconds,
            "rows": rows}  # fmt: skip


def judged(goal: Goal, done: list[dict[str, Any]], device: str) -> dict[str, Any]:
    """The goal beside what was found."""
    rows = {row["name"]: row for part in done if part["name"] == goal.section for row in part["rows"]}
    found = rows.get(goal.row, {}).get(goal.field)
    if goal.per is not None and found is not None:
        under = rows.get(goal.per, {}).get(goal.field)
        found = None if not under else found / under
    reached = None
    if found is not None and device == "cuda":
        reached = found >= goal.goal if goal.least else found <= goal.goal
    return {"name": goal.name, "section": goal.section, "row": goal.row, "goal": goal.goal, "unit": goal.unit,
            "found": found, "reached": reached}  # fmt: skip


def about(device: str, told: str | None) -> dict[str, Any]:
    """Commit, device and versions."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    of_device: dict[str, Any] = {"kind": device, "name": platform.machine(), "memory_gib": None, "cuda": None}
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        of_device |= {"name": card.name, "memory_gib": round(card.total_memory / 2**30, 1), "cuda": torch.version.cuda}
    commit, changed = commit_of(told)
    return {"commit": commit, "changed": changed, "device": of_device, "versions": versions,
            "threads": torch.get_num_threads()}  # fmt: skip


def commit_of(told: str | None) -> tuple[str, bool | None]:
    """The commit, and whether the tree differs from it: as told, in the form of `git describe --dirty`, or by git,
    which a tree that travelled does not have."""
    if told is None:
        try:
            describe = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty"]
            told = subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return "unknown", None
    commit, _, dirty = told.partition("-")
    return commit, bool(dirty)


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    device = result["device"]
    lines = [f"{result['commit'][:12]} on {device['name']} ({device['kind']}), torch {result['versions']['torch']}, "
             f"{result['threads']} threads, {result['seconds']:.0f} s"]  # fmt: skip
    for part in result["sections"]:
        why = f": {part['reason']}" if part["reason"] else ""
        lines.append(f"\n{part['name']:<28}{part['status']}{why}  [{part['seconds']:.1f} s]")
        lines += [line for row in part["rows"] if (line := _line(part["kind"], row))]
    lines.append("\ngoals")
    for goal in result["goals"]:
        found = "not measured" if goal["found"] is None else f"{goal['found']:.4g} {goal['unit']}"
        word = {True: "reached", False: "NOT REACHED", None: "no CUDA"}[goal["reached"]]
        lines.append(f"  {goal['name']:<58}{goal['goal']:g} {goal['unit']:<10}{found:<18}{word}")
    lines.append(f"\n{result['failed']} wrong" if result["failed"] else "\nnothing wrong")
    return "\n".join(lines)


def _line(kind: str, row: Row) -> str:
    """Of correctness, what did not simply pass; of a table, everything."""
    if kind == "correctness":
        if row["status"] == "passed":
            return ""
        error = "" if row["error"] is None else f" error {row['error']:.3g}, allowed {row['allowed']:.3g}"
        return f"  {row['name']:<50}{row['status'].upper()}{error}  {row['reason']}"
    if row["value"] is None:
        return f"  {row['name']:<50}{row['reason']}"
    peak = "" if row.get("peak_gib") is None else f"  peak {row['peak_gib']:.2f} GiB"
    return f"  {row['name']:<50}{row['value']:.4g} {row['unit']}{peak}"


def main(arguments: list[str] | None = None) -> int:
    """The command; see the module. Returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE", help="for the JSON")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--small", action="store_true", help="the same code on toy sizes")
    parser.add_argument("--only", help="comma-separated names of sections")
    parser.add_argument("--inception", metavar="FILE", help="the FID network")
    parser.add_argument("--weights", metavar="FOLDER", help="files of the published upscalers")
    parser.add_argument("--commit", help="what this tree is, where there is no git")
    chosen = parser.parse_args(arguments)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("Error: torch finds no CUDA GPU on this machine: use --device cpu --small.", file=sys.stderr)
        return 2
    asked, names = sections(), None if chosen.only is None else chosen.only.split(",")
    for name in names or ():
        if name not in {section.name for section in asked}:
            known = ", ".join(section.name for section in asked)
            print(f"Error: --only {name} is not a section: use {known}.", file=sys.stderr)
            return 2
    clock = time.monotonic()
    setting = Setting(chosen.device, chosen.small, chosen.inception, chosen.weights, clock + 60 * chosen.minutes)
    result: dict[str, Any] = {
        "schema": 1,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **about(chosen.device, chosen.commit),
        "small": chosen.small,
        "minutes": chosen.minutes,
        "sections": [],
    }
    done = result["sections"]
    for section in asked:
        if names is None or section.name in names:
            done.append(run_section(section, setting))
            print(f"{section.name}: {done[-1]['status']} [{done[-1]['seconds']:.1f} s]", file=sys.stderr, flush=True)
            failed = sum(row.get("status") == "failed" for part in done for row in part["rows"])
            result |= {
                "seconds": round(time.monotonic() - clock, 1),
                "goals": [judged(goal, done, chosen.device) for goal in GOALS],
                "failed": failed + sum(part["status"] == "error" for part in done),
            }
            if chosen.out is not None:  # after each section: whoever stops the check keeps what is done
                chosen.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            if chosen.device == "cuda":
                torch.cuda.empty_cache()
    print(table(result))
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())

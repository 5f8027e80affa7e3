"""Audit the private fit: python -m wavedp.audit [--epsilon 1 4 10] [--quick] [--results runs/audit]

Writes

    audit.jsonl    a line `about`, then lines of kind bound, attack, nearest and sabotage (wavedp.audit.report)
    roc.jsonl      FPR and TPR of every attack, drawn by python -m analysis.audit_figure
    ledger.jsonl   only if the images are not public: the cost of this audit and of all earlier ones

Images are procedural unless --data names a dataset. With sensitive images each claim costs two fits of its budget; the
fit without privacy and all scores are looks that no ε covers.

Exit status: 0 if the claims stand, 1 if a bound exceeds its claim or a sabotage passes, 2 for bad input, after one
sentence of explanation.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from wavedp import data
from wavedp.audit.membership import AttackSetting, Pool
from wavedp.audit.report import Result, Settings, quick, run
from wavedp.audit.sabotage import Setting
from wavedp.audit.tables import tables
from wavedp.command import command
from wavedp.config import DataConfig, PrivacyConfig
from wavedp.full_precision import Precision
from wavedp.levels import check_level
from wavedp.privacy import ledger
from wavedp.progress import Report
from wavedp.seeds import derive_seed
from wavedp.store import write_jsonl
from wavedp.wavelets import coarse

PUBLIC = ("procedural", "openclipart")
COARSE = 7  # pixels per side, as in a study's coarsest trials


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(prog="python -m wavedp.audit", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--epsilon", type=float, nargs="+", default=list(Settings.claims), help="claims to audit (1 4 10)"
    )
    parser.add_argument("--delta", type=float, default=Settings.delta, help="of every claim (1e-5)")
    parser.add_argument("--canaries", type=int, default=Settings.canaries, help="of the white-box fit (1000)")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="of the white-box fit (4)")
    parser.add_argument("--draws", type=int, default=Settings.draws, help="of a single step, with and without (200000)")
    parser.add_argument("--seed", type=int, default=0, help="of coins, fits and noise (0)")
    parser.add_argument(
        "--precision", choices=get_args(Precision), default="float32", help="of the fits' gradients (float32)"
    )
    parser.add_argument("--quick", action="store_true", help="a miniature, to see whether everything runs")
    parser.add_argument("--data", default="procedural", help="images in the fits (procedural)")
    parser.add_argument("--path", help="of --data folder")
    parser.add_argument("--home", default=DataConfig().home, help="where downloads are kept (.wavedp/data)")
    parser.add_argument("--records", type=int, default=1024, help="images, of which each is in by a coin (1024)")
    parser.add_argument("--results", type=Path, default=Path("runs/audit"), help="folder to write (runs/audit)")
    chosen = parser.parse_args(arguments)
    settings = Settings(
        claims=tuple(chosen.epsilon),
        delta=chosen.delta,
        canaries=chosen.canaries,
        steps=chosen.steps,
        draws=chosen.draws,
        seed=chosen.seed,
        precision=chosen.precision,
        attack=AttackSetting(precision=chosen.precision),
        suite=Setting(precision=chosen.precision),
    )
    settings.check()
    config = DataConfig(
        name=chosen.data, path=chosen.path, home=chosen.home, n_records=max(chosen.records, 4), limit=chosen.records
    )
    pool, fingerprint = load_pool(config, settings.seed)
    command = "python -m wavedp.audit " + " ".join(sys.argv[1:] if arguments is None else arguments)
    about = {
        "command": command.strip(),
        "data": config.name,
        "dataset": fingerprint,
        "records": len(pool.images),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("torch", "dp-accounting", "scipy")},
    }
    result = run(quick(settings) if chosen.quick else settings, pool, about, _progress)
    if config.name not in PUBLIC:
        run_id = hashlib.sha256(json.dumps(result.rows[0]["settings"], sort_keys=True).encode()).hexdigest()[:12]
        add_to_ledger(chosen.results / "ledger.jsonl", ledger_lines(result, fingerprint, settings.delta, run_id))
    write_jsonl(chosen.results / "audit.jsonl", result.rows)
    write_jsonl(chosen.results / "roc.jsonl", result.curves)
    print(tables(result.rows))
    print("\n".join(result.failures) or "No bound exceeds its claim, and every sabotage was rejected.")
    return 1 if result.failures else 0


def load_pool(config: DataConfig, seed: int) -> tuple[Pool, str]:
    """Coarse images of the train split in random order with public procedural ones for pretraining, and the fingerprint
    of the former. Raises UserError for data that are missing or that no level brings to COARSE pixels."""
    level = max((config.size // COARSE).bit_length() - 1, 0)
    check_level(level, config.size, config.size)
    own = data.load(config, "train")
    public = data.load(
        DataConfig(name="procedural", size=config.size, channels=config.channels, n_records=1024), "test"
    )
    order = np.random.default_rng(derive_seed(seed, "audit", "pool")).permutation(len(own.images))
    images, public_images = (
        coarse(torch.from_numpy(item).float() / 255, level) for item in (own.images[order], public.images)
    )
    labels, public_labels = torch.from_numpy(own.labels[order]), torch.from_numpy(public.labels)
    return Pool(images, labels, public_images, public_labels, len(own.classes)), own.fingerprint


def add_to_ledger(path: Path, lines: Sequence[ledger.Line]) -> None:
    """Write the lines after those of earlier audits, which are kept because their cost remains."""
    known = ledger.read(path) if path.is_file() else []
    write_jsonl(path, ({(line["dataset"], *ledger.identity(line)): line for line in [*known, *lines]}).values())


def ledger_lines(result: Result, dataset: str, delta: float, run_id: str) -> list[ledger.Line]:
    """The cost of auditing sensitive images: a line for each fit, and one for the look that all scores are. run_id:
    hash of the settings and seed, so that repeating an audit repeats its releases and any other audit adds new ones."""
    source: dict[str, Any] = {"dataset": dataset, "trials": ["audit"]}
    lines = []
    for number, (purpose, mechanism, n) in enumerate(result.released):
        config, key = PrivacyConfig(delta=delta, batch_size=1), f"audit-{run_id}-{number}"
        lines.append(ledger.line_for_fit(mechanism, config, **source, n_records=n, stage_key=key, purpose=purpose))
    n = result.released[-1][2]
    look = ledger.line_nonprivate("audit, membership scores", **source, n_records=n, stage_key=f"audit-{run_id}-scores")
    return [*lines, look]


def _progress(part: str) -> Report:
    """A report on stderr that overwrites its own line."""

    def report(done: int, total: int) -> None:
        if sys.stderr.isatty() or done == total:
            print(f"\r{part}: {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return report


if __name__ == "__main__":
    sys.exit(main())

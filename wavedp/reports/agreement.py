"""Compare our metrics with those of independent programs, on two folders of images and with the same network file.

    python -m wavedp.reports.agreement REAL GENERATED [--samples N] [--out runs/agreement] [--work .wavedp/agreement]

    clean-fid        its own loop over files and resize: FID and KID, against our mode clean
    torch-fidelity   its own loop and TensorFlow-1 resize: FID, KID, precision, recall (k = 3), against mode tensorflow
    prdc             precision, recall, density and coverage (k = 5) of clean-fid's features, against mode clean

Each program computes its own features; only the network file is shared. OUT/agreement.jsonl has one row per metric. The
command can be stopped at any time and continues when run again: features are kept in WORK, 200 images per file (ours by
content; theirs by names, sizes and times of the files). pip install 'wavedp[metrics]' installs the other programs.

Both folders are read without differential privacy: use public images, or account for this access.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from wavedp import extras
from wavedp.command import command
from wavedp.config import MetricsConfig
from wavedp.data import picture
from wavedp.errors import UserError
from wavedp.metrics.features import DIMENSIONS, extract
from wavedp.metrics.frechet import frechet_distance_of
from wavedp.metrics.kernel import kernel_distance_of
from wavedp.metrics.neighbours import precision_recall_density_coverage
from wavedp.metrics.network_file import file_sha256, find_network
from wavedp.store import write_jsonl

CHUNK = 200  # images per file of features, and per line of progress


@dataclass(frozen=True)
class Row:
    """One comparison. difference: ours - theirs. In features_<mode>, ours and theirs are the largest feature, and
    difference is the largest absolute difference of any feature of any image."""

    metric: str
    ours: float
    theirs: float
    difference: float
    implementation: str
    n_generated: int
    n_real: int


def agreement(
    real: Path, generated: Path, samples: int | None, work: Path, inception: str | None = None, batch_size: int = 10
) -> list[Row]:
    """Compute every metric with our code and theirs, on two folders of images (the first `samples` files by name).

    Raises UserError for a package that is not installed, too few images, unreadable files and a missing network.
    """
    extras.require("This comparison", "cleanfid", "torch_fidelity", "prdc")
    from wavedp.reports import oracles

    sides = [_files(folder, samples) for folder in (generated, real)]
    network = find_network(inception)
    config = replace(MetricsConfig(), inception=inception, batch_size=batch_size)
    programs: list[oracles.CleanFid | oracles.TorchFidelity] = [
        oracles.CleanFid(network),
        oracles.TorchFidelity(network),
    ]
    rows = []
    for oracle in programs:
        program = oracles.version(oracle.package)
        mine = partial(_ours, replace(config, mode=oracle.mode), work / "features")
        their = partial(_kept, oracle.features, f"{program} {file_sha256(network)}", work / "theirs")
        (n, m), (their_n, their_m) = (
            [
                _by_chunk(features, files, f"{name}, {whose}")
                for files, whose in zip(sides, ("GENERATED", "REAL"), strict=True)
            ]
            for features, name in ((mine, f"wavedp {oracle.mode}"), (their, program))
        )
        pairs = {"features": (max(n.max(), m.max()), max(their_n.max(), their_m.max()), program)}
        found = oracle.metrics(their_n, their_m)
        ours = _metrics(n, m)
        pairs |= {name: (ours[name], value, program) for name, value in found.items()}
        if oracle.mode == "clean":
            found = oracles.prdc(their_n, their_m, k=5)
            pairs |= {name: (ours[name], value, oracles.version("prdc")) for name, value in found.items()}
        apart = float(max(abs(n - their_n).max(), abs(m - their_m).max()))
        for name, (us, them, who) in pairs.items():
            difference = apart if name == "features" else us - them
            rows.append(Row(f"{name}_{oracle.mode}", float(us), float(them), float(difference), who, len(n), len(m)))
    return rows


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Print and write the rows. Returns exit status 2, with a message, when something is missing or unreadable."""
    parser = argparse.ArgumentParser(
        prog="python -m wavedp.reports.agreement", description="Our metrics against other people's programs."
    )
    parser.add_argument("real", type=Path, help="folder of images")
    parser.add_argument("generated", type=Path, help="folder of images")
    parser.add_argument("--samples", type=int, help="the first so many files of each, by name (default: all)")
    parser.add_argument("--out", type=Path, default=Path("runs/agreement"))
    parser.add_argument("--work", type=Path, default=Path(".wavedp/agreement"), help="features are kept here")
    parser.add_argument("--inception", help="file of the FID network (default: search)")
    options = parser.parse_args(arguments)
    rows = agreement(options.real, options.generated, options.samples, options.work, options.inception)
    for row in rows:
        print(f"{row.metric:<24} {row.ours:>12.6g} {row.theirs:>12.6g} {row.difference:>9.1e}  {row.implementation}")
    write_jsonl(options.out / "agreement.jsonl", [asdict(row) for row in rows])
    return 0


def _metrics(n: np.ndarray, m: np.ndarray) -> dict[str, float]:
    """Compute our metrics, under the oracles' names; as in theirs, KID uses equally many images of each side."""
    generated, real = torch.from_numpy(n), torch.from_numpy(m)
    fewer = min(len(generated), len(real))
    narrow = precision_recall_density_coverage(real, generated, k=3)
    return {
        "fid": frechet_distance_of(generated, real),
        "kid": kernel_distance_of(generated[:fewer], real[:fewer]),
        **{f"{name}_k3": value for name, value in narrow.items()},
        **precision_recall_density_coverage(real, generated, k=5),
    }


def _files(folder: Path, samples: int | None) -> list[Path]:
    """List the images under `folder`, sorted by name."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give a folder of images, as the other programs read.")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in picture.SUFFIXES)
    if len(found) < max(samples or 0, 6):
        raise UserError(
            f"{folder} holds {len(found)} images, and {samples or 6} are wanted: add some, or ask for fewer."
        )
    return found[:samples]


def _by_chunk(features: Callable[[Sequence[Path]], np.ndarray], files: Sequence[Path], label: str) -> np.ndarray:
    """Return features n 2048, printing one line of progress per chunk on stderr."""
    parts: list[np.ndarray] = []
    start = time.monotonic()
    for first in range(0, len(files), CHUNK):
        parts.append(features(files[first : first + CHUNK]))
        done, seconds = min(first + CHUNK, len(files)), time.monotonic() - start
        left = seconds / done * (len(files) - done)
        print(f"{label}: {done} of {len(files)} images, about {left:.0f} s left", file=sys.stderr, flush=True)
    return np.concatenate(parts)


def _ours(config: MetricsConfig, cache: Path, files: Sequence[Path]) -> np.ndarray:
    """Return our features B 2048 in the order of the files, whose images may differ in shape."""
    by_shape: dict[tuple[int, ...], dict[int, np.ndarray]] = {}
    for position, file in enumerate(files):
        pixels = picture.pixels(picture.load(file))
        by_shape.setdefault(pixels.shape, {})[position] = pixels
    features = np.empty((len(files), DIMENSIONS), np.float32)
    for group in by_shape.values():
        features[list(group)] = extract(torch.from_numpy(np.stack(list(group.values()))), config, cache).numpy()
    return features


def _kept(
    compute: Callable[[Sequence[Path]], np.ndarray], source: str, folder: Path, files: Sequence[Path]
) -> np.ndarray:
    """Return `compute(files)`, cached in `folder` by `source` and the names, sizes and times of the files."""
    states = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    kept = folder / f"{hashlib.sha256(repr((source, states)).encode()).hexdigest()}.npy"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_suffix(".unfinished.npy")
        np.save(unfinished, compute(files))
        unfinished.replace(kept)
    return np.load(kept)


if __name__ == "__main__":
    sys.exit(main())

"""Add an entry: a public model that a study has made, with all that lets others find it, judge it and make it again."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from wavedp import chain, data
from wavedp.config import DataConfig, TrialConfig, identity
from wavedp.data import facts
from wavedp.entries import FILE, FORMAT, STAGES, Entry, read
from wavedp.errors import UserError, nearest
from wavedp.fields import differing
from wavedp.files import sha256, write_atomically, write_synced
from wavedp.methods import canonical
from wavedp.store import Artifact, Store
from wavedp.zoo.settings import deciding, portable

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
VERSIONED = ("wavedp", "torch", "numpy", "safetensors")


def add(
    name: str,
    trial: TrialConfig,
    stage: str,
    store: Store,
    folder: Path,
    *,
    command: str,
    licence: str = "Apache-2.0",
    data_licences: Mapping[str, str] | None = None,
    tolerance: float = 0.0,
    threads: int | None = None,
) -> Entry:
    """Write `<folder>/models/<name>`, and the facts of its public images; the entry.

    trial: one that asks for the artifact. command: what made it, as a user types it. licence: of the weights.
    data_licences: by a dataset's name, where it should be said otherwise than `wavedp.data.licence` does. tolerance:
    the largest difference of a weight that `rebuild` may find on another machine. threads: that it was trained with,
    on which the last bits depend (None: as many as torch takes here).
    Raises UserError for a name that is taken, a stage that is not public, an artifact that the store lacks or that
    holds no weight, and public images that are not here.
    """
    trial = canonical(trial)
    place = _free(folder, name)
    key = _key(trial, stage)
    artifact = store.open(stage, key)
    if artifact is None:
        raise UserError(f"{store.root} has no {stage} {key[:12]} of these settings: run `{command}` first.")
    require_public(trial, stage, artifact)
    if not any(artifact.tensors(file.removesuffix(".safetensors")) for file in artifact.files if _weights(file)):
        raise UserError(f"{stage} {key[:12]} holds no weight, and any store makes it in no time: leave it out.")
    reads = [read for item in chain.before(trial, stage) for read in item.reads(trial)]
    said = {config.name: (data_licences or {}).get(config.name, data.licence(config)) for config, _ in reads}
    described = [
        {
            "config": portable({"data": differing(config)})["data"],
            "split": split,
            "fingerprint": data.fingerprint(config, split),  # type: ignore[arg-type]
            "licence": said[config.name],
            "facts": write_facts(folder / "facts", config, split, said[config.name]),
        }
        for config, split in dict.fromkeys(reads)
    ]
    entry = Entry(
        folder=place,
        name=name,
        stage=stage,
        key=key,
        settings=deciding(trial, stage),
        command=command,
        data=described,
        licence=licence,
        made=made_here(threads),
        tolerance=float(tolerance),
        files={file: sha256(content) for file, content in sorted(artifact.files.items())},
    )
    _write(entry, artifact)
    return read(place)


def require_public(trial: TrialConfig, stage: str, artifact: Artifact) -> None:
    """Raises UserError for a stage that has looked at sensitive images, or rests on one that has."""
    sensitive = identity(trial.data), trial.data.path
    reads = [config for item in chain.before(trial, stage) for config, _ in item.reads(trial)]
    if any((identity(config), config.path) == sensitive for config in reads) or "ledger.json" in artifact.files:
        raise UserError(
            f"the stage {stage} looked at sensitive images (data.name={trial.data.name}): add public models only, and "
            "pack private ones with `python -m wavedp.zoo pack`."
        )


def write_facts(folder: Path, config: DataConfig, split: str, licence: str, suffix: str = ".json") -> str | None:
    """Write what is known of a public split beside that of its dataset's other splits; the file's name, or None for
    images that are computed. Raises UserError for images that are not here."""
    data.require_images(config)
    if not data.is_stored(config):
        return None
    loaded = data.load(config, split)  # type: ignore[arg-type]
    found = facts.of(config, licence, [(loaded, data.record_files(config, split))])  # type: ignore[arg-type]
    about = json.dumps([found.identity, found.folder], sort_keys=True)
    path = folder / f"{re.sub(r'[^A-Za-z0-9_-]+', '-', config.name)}-{sha256(about.encode())[:12]}{suffix}"
    known = facts.facts_in(path)
    if known is not None:
        found.splits.update({name: value for name, value in known.splits.items() if name != split})
    write_atomically(path, found.text().encode())
    return path.name


def made_here(threads: int | None = None) -> dict[str, Any]:
    """This machine, as far as its arithmetic is concerned, and the versions of what computes."""
    import torch

    return {
        "machine": f"{platform.system()} {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": threads or torch.get_num_threads(),
        "python": platform.python_version(),
        **{package: _version(package) for package in VERSIONED},
    }


def _free(folder: Path, name: str) -> Path:
    if not NAME.fullmatch(name):
        raise UserError(f"NAME={name!r} is no name of an entry: use lower-case letters, digits, _, - and dots.")
    place = folder / "models" / name
    if place.exists():
        raise UserError(f"{place} is there already: remove it, or choose another name.")
    return place


def _key(trial: TrialConfig, stage: str) -> str:
    if stage not in STAGES:
        raise UserError(f"--stage {stage} is not a public training: {nearest(stage, STAGES)}")
    key = chain.keys(trial, stage).get(stage)
    if key is None:
        raise UserError(f"upscaler={trial.upscaler.name} is not trained, so there is no stage {stage}: choose another.")
    return key


def _weights(file: str) -> bool:
    return file.endswith(".safetensors")


def _write(entry: Entry, artifact: Artifact) -> None:
    entry.folder.parent.mkdir(parents=True, exist_ok=True)
    values = {name: value for name, value in asdict(entry).items() if name != "folder"}
    text = json.dumps({"format": FORMAT, **values}, indent=1, ensure_ascii=False) + "\n"
    part = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=entry.folder.parent))
    try:
        part.chmod(0o755)
        for file, content in [*artifact.files.items(), (FILE, text.encode())]:
            write_synced(part / file, content)
        os.rename(part, entry.folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"

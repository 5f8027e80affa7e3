"""A released private model in one file: weights of a finished, accounted fit, its ledger lines, its public inputs.

    python -m wavedp.zoo pack runs/<study> --trial ID --store DIR [--out FILE]
    python -m wavedp.zoo load FILE --store DIR [--home DIR]

The file is a zip of two members: release.json says what it is, artifacts.tar holds the artifacts as `python -m
wavedp.store pack` writes them. Loaded into a store they are found by key: the study's own command makes none of them
again, and enters the lines that lie in the private fit's artifact into its ledger. Facts of the public images go into
the data home that lacks them (wavedp.data.facts), so that the keys can be made.

    case                                                     what happens
    no ledger line, or other lines than the study's ledger   not packed: nobody could state its ε
    a fit without noise (ε = ∞)                              packed with --non-private only, and called so
    the anchor `real`                                        not packed: it is the sensitive images
    ε = 0                                                    not packed: it is public (`add` is for such)
    the file is cut off, changed, or no such file            not loaded
    the sensitive images here are others                     not loaded: no study here would find it
    this code asks for another key                           not loaded: none would either

Whoever loads a model trusts whoever packed it, as with any model: a file cannot prove that its noise was drawn, or that
its public images held no sensitive one.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavedp import chain, data
from wavedp.config import DataConfig, TrialConfig, settings_of
from wavedp.data import facts
from wavedp.errors import UserError
from wavedp.files import sha256, write_atomically
from wavedp.finished import FinishedTrial
from wavedp.privacy import ledger
from wavedp.run import spent
from wavedp.store import Artifact, Store, carry
from wavedp.zoo.adding import made_here, write_facts
from wavedp.zoo.settings import anywhere, portable, trial_at

FORMAT = 1
ABOUT, ARTIFACTS = "release.json", "artifacts.tar"
SUFFIX = ".release.zip"
INPUTS = ("tokenizer", "pretrain", "upscaler")
"""What samples of the private fit are drawn and brought to full size with."""
WHEN = (1980, 1, 1, 0, 0, 0)  # the same artifacts give the same bytes
MECHANISM = ("kind", "sample_rate", "noise_multiplier", "steps", "delta", "epsilon", "dataset", "n_records")


@dataclass(frozen=True)
class Loaded:
    """The release that was loaded. new: artifacts that the store did not have. checked: whether the sensitive images
    are here and are those that it was fitted to."""

    about: dict[str, Any]
    new: int
    present: int
    checked: bool


def pack(finished: FinishedTrial, store: Store, out: Path, non_private: bool = False) -> dict[str, Any]:
    """Write the release of a finished trial's private fit; what release.json says.

    Raises UserError as the module lists, and for an artifact that neither the store nor the zoo has.
    """
    kind = chain.fit_kind(finished.config)
    if kind == "public":
        raise UserError(f"{finished.id} used no sensitive image: there is nothing private to pack, see `zoo add`.")
    if kind == "real":
        raise UserError(f"{finished.id} keeps the sensitive images themselves (generator=real): name a fitted one.")
    fit = finished.artifact("private_fit", store)
    lines = _accounted(finished, fit)
    epsilon = spent(lines)
    if math.isinf(epsilon) and not non_private:
        raise UserError(
            f"{finished.id} was fitted without noise, so its weights are not private: add --non-private if everyone "
            "may know the images."
        )
    inputs = [stage for stage in INPUTS if stage in finished.row["keys"]]
    artifacts = {"private_fit": fit, **{stage: finished.artifact(stage, store) for stage in inputs}}
    about = {
        "format": FORMAT,
        "trial": finished.id,
        "study": finished.meta.get("study"),
        "private": not math.isinf(epsilon),
        "epsilon": "inf" if math.isinf(epsilon) else epsilon,
        "delta": lines[0]["delta"],
        "dataset": lines[0]["dataset"],
        "data": finished.config.data.name,
        "settings": portable(settings_of(finished.config)),
        "keys": {stage: finished.row["keys"][stage] for stage in artifacts},
        "ledger": lines,
        "command": anywhere(str(finished.meta.get("command"))),
        "commit": finished.row.get("commit"),
        "packed": made_here(),
        "facts": _facts(finished.config),
    }
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder, ARTIFACTS)
        carry.write(tar, artifacts.items())
        content = tar.read_bytes()
    about["sha256"] = sha256(content)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        text = json.dumps(about, indent=1, ensure_ascii=False).encode()
        for name, part in ((ABOUT, text), (ARTIFACTS, content)):
            archive.writestr(zipfile.ZipInfo(name, WHEN), part)
    write_atomically(out, packed.getvalue())
    return about


def read(file: Path) -> tuple[dict[str, Any], bytes]:
    """What a release says of itself, and its tar. Raises UserError for a file that is not a whole release."""
    try:
        with zipfile.ZipFile(file) as archive:
            about, content = json.loads(archive.read(ABOUT)), archive.read(ARTIFACTS)
        if about["format"] != FORMAT:
            raise UserError(f"{file} has format {about['format']} and this version reads {FORMAT}: update wavedp.")
        if sha256(content) != about["sha256"]:
            raise _damaged(file, f"{ARTIFACTS} differs from its sha256")
    except FileNotFoundError:
        raise UserError(f"{file} is not there: name a file that `python -m wavedp.zoo pack` wrote.") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(file, f"{type(error).__name__}: {error}") from None
    return about, content


def load(file: Path, store: Store, home: str | None = None) -> Loaded:
    """Put a release's artifacts into the store, and facts of its public images into the data home.

    home: where the datasets are (None: the default). Raises UserError as the module lists; the store is then unchanged.
    """
    about, content = read(file)
    _require_lines(file, about, content)
    trial = trial_at(about["settings"], home)
    checked = _require_dataset(file, about, trial)
    written = _put_facts(about["facts"], Path(trial.data.home))
    try:
        _require_keys(file, about, trial, checked)
        with tempfile.TemporaryDirectory() as folder:
            tar = Path(folder, ARTIFACTS)
            tar.write_bytes(content)
            new, present = carry.unpack(Store(store.root, behind=()), tar)
    except UserError:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return Loaded(about, new, present, checked)


def _accounted(finished: FinishedTrial, fit: Artifact) -> list[ledger.Line]:
    """The ledger lines of the fit's artifact, with the trials that use them. Raises UserError unless they are among the
    study's, and say the same."""
    known = {ledger.identity(line): line for line in finished.releases()}
    where = finished.folder / "ledger.jsonl"
    if not known:
        raise UserError(
            f"{where} has no line of the private fit of {finished.id}, so that its ε is not known: restore that file, "
            "or type the study's command again."
        )
    lines = fit.json("ledger") if "ledger.json" in fit.files else []
    for line in lines:
        mine = known.get(ledger.identity({"release": None, **line}))
        if mine is None or any(mine[name] != line[name] for name in MECHANISM):
            raise UserError(
                f"{where} does not account for the private fit of {finished.id} as its artifact does: restore "
                "that file, or type the study's command again."
            )
    if not lines:
        raise UserError(f"the private fit of {finished.id} has no ledger line in its artifact: make it again.")
    return [{"release": None, "copies": None, **line} for line in lines]


def _facts(trial: TrialConfig) -> dict[str, str]:
    """{file name: content} of what is known of the trial's public images."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for config, split in chain.public_reads(trial):
            if data.has_images(config):
                write_facts(Path(folder), config, split, data.licence(config), facts.SUFFIX)
            elif (known := facts.find(config)) is not None:
                path = Path(str(known.path))
                name = path.name.removesuffix(facts.SUFFIX).removesuffix(".json") + facts.SUFFIX
                found[name] = path.read_text(encoding="utf-8")
        return found | {path.name: path.read_text(encoding="utf-8") for path in Path(folder).iterdir()}


def _put_facts(found: dict[str, str], home: Path) -> list[Path]:
    """Write the files of facts that the home lacks; their paths."""
    written = []
    for name, text in found.items():
        path = home / Path(name).name
        if path.name.endswith(facts.SUFFIX) and not path.exists():
            write_atomically(path, text.encode())
            written.append(path)
    return written


def _require_lines(file: Path, about: dict[str, Any], content: bytes) -> None:
    """Raises UserError unless the private fit in the tar carries the ledger lines that the release states."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            member = archive.extractfile(f"private_fit/{about['keys']['private_fit']}/ledger.json")
            lines = json.loads(member.read()) if member else []
        stated = {ledger.identity(line) for line in about["ledger"]}
        same = bool(lines) and {ledger.identity({"release": None, **line}) for line in lines} == stated
    except (tarfile.TarError, ValueError, KeyError, TypeError) as error:
        raise _damaged(file, f"{type(error).__name__}: {error}") from None
    if not same:
        raise _damaged(file, "its private fit carries other ledger lines than it states")


def _require_dataset(file: Path, about: dict[str, Any], trial: TrialConfig) -> bool:
    """True if the sensitive images are here, and those that the model was fitted to; False if they are not here.
    Raises UserError for other images."""
    if not data.has_images(trial.data):
        return False
    here = data.fingerprint(trial.data, "train")
    if here != about["dataset"]:
        raise UserError(
            f"{file} was fitted to other images ({trial.data.name} {str(about['dataset'])[:12]}) than those in "
            f"{_where(trial.data)} ({here[:12]}), so no study here would find it: give --home with its dataset."
        )
    return True


def _require_keys(file: Path, about: dict[str, Any], trial: TrialConfig, all_data: bool) -> None:
    """Raises UserError for an artifact that this code would not ask for by its key. all_data: the sensitive images are
    here; without them there may be keys that cannot be made, and that of the private fit is one."""
    for stage, key in about["keys"].items():
        if stage == "private_fit" and not all_data:
            continue
        try:
            here = chain.keys(trial, stage).get(stage, "none")
        except UserError:
            if all_data:
                raise
            continue
        if here != key:
            raise UserError(
                f"{file} holds {stage} {key[:12]} and this code asks for {here[:12]}: check out the commit "
                f"{about['commit']} and load it there."
            )


def _where(config: DataConfig) -> str:
    return str(config.path or config.home)


def _damaged(file: Path, reason: str) -> UserError:
    return UserError(f"{file} is not a whole release ({reason}): copy it again, or pack it again.")

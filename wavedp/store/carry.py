"""Carry artifacts from one store to another, in one tar file:

    python -m wavedp.store pack FILE --store DIR [--keys K ...] [--stages private_fit,coarse_samples]
    python -m wavedp.store unpack FILE --store DIR

DIR is any fsspec URL. --keys takes full keys or prefixes of at least 8 digits that fit one key; --stages takes a comma
list. With both, an artifact must match both; with neither, all artifacts are packed.

    <stage>/<key>/manifest.json, *.safetensors, *.json    members of the tar, as in the store (wavedp.store)

Only published artifacts travel; the zoo's, which every wavedp has, stay where they are. The folder `work/` never
travels: its checkpoints hold the state of the noise generator, and whoever has that can subtract the noise from a
private fit. Locks, damaged artifacts, unfinished folders and the records of studies stay behind too. `unpack` verifies
every file of the tar before it publishes the first artifact.

Unpacking beside a running study is safe: of two that publish one artifact, the first stays.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from wavedp.command import command
from wavedp.errors import UserError
from wavedp.store import MANIFEST, Artifact, Draft, Store, sha256

STAGE = re.compile(r"(?!(?:work|studies)$)[a-z][a-z0-9_]*")
KEY = re.compile(r"[0-9a-f]{64}")
FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
SHORTEST_PREFIX = 8
AGAIN = "copy it again, or write it again with `python -m wavedp.store pack`"

Contents = dict[tuple[str, str], dict[str, tarfile.TarInfo]]
"""(stage, key) -> file name -> member."""


def pack(store: Store, file: str | Path, keys: Sequence[str] = (), stages: Sequence[str] = ()) -> int:
    """Write the chosen artifacts into `file`, a tar, and return how many.

    keys: full keys, or prefixes of at least 8 digits. stages: stage names. An empty sequence chooses everything.
    The same artifacts give the same bytes. An existing file is replaced once the new one is complete.
    Raises UserError for a key or stage that the store lacks, an ambiguous prefix, a corrupted artifact, or when nothing
    is chosen; the file is then left as it was.
    """
    chosen = _choose(store, list(_artifacts(store)), keys, stages)
    write(file, _opened_all(store, chosen))
    return len(chosen)


def write(file: str | Path, artifacts: Iterable[tuple[str, Artifact]]) -> None:
    """Write these artifacts, each with its stage, into a tar, which replaces `file` once it is complete."""
    file = Path(file)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with tarfile.open(part, "w") as archive:
            for stage, artifact in artifacts:
                manifest = json.dumps(
                    {name: sha256(data) for name, data in artifact.files.items()}, sort_keys=True
                ).encode()
                for name, data in [(MANIFEST, manifest), *sorted(artifact.files.items())]:
                    member = tarfile.TarInfo(f"{stage}/{artifact.key}/{name}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def _opened_all(store: Store, chosen: Iterable[tuple[str, str]]) -> Iterator[tuple[str, Artifact]]:
    for stage, key in chosen:
        artifact = store.open(stage, key)
        if artifact is None:
            raise UserError(
                f"{stage}/{key} in {store.root} was corrupted and is now set aside: make it again, or choose "
                "others with --keys or --stages."
            )
        yield stage, artifact


def unpack(store: Store, file: str | Path) -> tuple[int, int]:
    """Publish the artifacts of a tar that `pack` wrote. Returns (new ones, ones that the store had and kept).

    The whole tar is verified first: names, completeness, and each file's sha256 in its artifact's manifest. Raises
    UserError if it is damaged or holds anything else than artifacts; the store is then unchanged.
    """
    new = present = 0
    with _opened(file) as handle, _archive(handle, file) as archive:
        contents = _verified(archive, handle, file)
        for (stage, key), members in contents.items():
            if store.open(stage, key) is not None:
                present += 1
                continue
            draft = Draft()
            draft.files = {name: _bytes(archive, member) for name, member in members.items()}
            manifest = json.loads(draft.files.pop(MANIFEST))
            if any(sha256(data) != manifest[name] for name, data in draft.files.items()):
                raise _damaged(file, f"{stage}/{key} changed while it was read")
            store.publish(stage, key, draft)
            new += 1
    return new, present


@command
def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status (2 after a UserError)."""
    parser = argparse.ArgumentParser(prog="python -m wavedp.store", description="Carry artifacts between stores.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (("pack", "write artifacts into one tar file"), ("unpack", "publish the artifacts of a tar")):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("file", type=Path)
        command.add_argument("--store", required=True, help="a folder, or any fsspec URL")
        if name == "pack":
            command.add_argument("--keys", nargs="+", default=[], help="keys, or prefixes of 8 or more digits")
            command.add_argument("--stages", default="", help="a comma list, such as private_fit,coarse_samples")
    options = parser.parse_args(arguments)
    try:
        store = Store(options.store, behind=())  # what lies behind it is in every wavedp
        if options.command == "pack":
            stages = [stage for stage in options.stages.split(",") if stage]
            print(f"{pack(store, options.file, options.keys, stages)} artifacts are now in {options.file}")
        else:
            new, present = unpack(store, options.file)
            print(f"{new} artifacts are new in {options.store}, {present} were present")
    except OSError as error:
        print(f"{options.command} failed ({error}): check {options.file} and {options.store}.", file=sys.stderr)
        return 2
    return 0


def _artifacts(store: Store) -> Iterator[tuple[str, str]]:
    """(stage, key) of every published artifact, sorted; anything else in the store is passed over."""
    for stage in _names(store, store.path, STAGE):
        for key in _names(store, f"{store.path}/{stage}", KEY):
            if store.has(stage, key):
                yield stage, key


def _names(store: Store, folder: str, pattern: re.Pattern[str]) -> list[str]:
    try:
        entries = store.fs.ls(folder, detail=True)
    except FileNotFoundError:
        return []
    names = (entry["name"].rstrip("/").split("/")[-1] for entry in entries if entry["type"] == "directory")
    return sorted(name for name in names if pattern.fullmatch(name))


def _choose(
    store: Store, found: list[tuple[str, str]], keys: Iterable[str], stages: Iterable[str]
) -> list[tuple[str, str]]:
    known = sorted({stage for stage, _ in found})
    if not found:
        raise UserError(f"{store.root} holds no artifacts: give --store the store of a finished study.")
    for stage in stages:
        if stage not in known:
            raise UserError(f"{store.root} has no artifacts of stage {stage!r}: use {', '.join(known)}.")
    chosen = [(stage, key) for stage, key in found if not stages or stage in stages]
    if not keys:
        return chosen
    wanted = set()
    for prefix in keys:
        if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST_PREFIX},64}}", prefix):
            raise UserError(f"--keys {prefix} is not a key: give {SHORTEST_PREFIX} to 64 of the digits 0-9 and a-f.")
        matches = sorted({key for _, key in chosen if key.startswith(prefix)})
        if not matches:
            raise UserError(
                f"no artifact in {store.root} has key {prefix}: take keys from the study's trials.jsonl, and check "
                "--stages."
            )
        if len(matches) > 1:
            raise UserError(f"--keys {prefix} fits {len(matches)} keys: give more digits, as {' or '.join(matches)}.")
        wanted.add(matches[0])
    return [(stage, key) for stage, key in chosen if key in wanted]


def _opened(file: str | Path) -> IO[bytes]:
    try:
        return open(file, "rb")
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): name a tar from wavedp.store pack.") from error


def _archive(handle: IO[bytes], file: str | Path) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=handle, mode="r:")
    except tarfile.TarError as error:
        raise _damaged(file, f"not a plain tar: {error}") from error


def _verified(archive: tarfile.TarFile, handle: IO[bytes], file: str | Path) -> Contents:
    """The members by artifact, after every name and every byte was checked."""
    contents: Contents = {}
    digests: dict[str, str] = {}
    end = 0
    try:
        for member in archive:
            stage, key, name = _parts(member, file)
            if name in contents.setdefault((stage, key), {}):
                raise _damaged(file, f"{member.name} is in it twice")
            contents[stage, key][name] = member
            digests[member.name] = _digest(archive, member)
            end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    except (tarfile.TarError, OSError, ValueError) as error:
        raise _damaged(file, str(error)) from error
    # tarfile takes a damaged header, or the end of the file, for the end of the archive. That is two blocks of zeros.
    handle.seek(end)
    if handle.read(2 * tarfile.BLOCKSIZE) != bytes(2 * tarfile.BLOCKSIZE):
        raise _damaged(file, "its end is missing")
    if not contents:
        raise _damaged(file, "it is empty")
    for (stage, key), members in contents.items():
        where = f"{stage}/{key}"
        try:
            manifest = json.loads(_bytes(archive, members[MANIFEST]))
            expected = {str(name): str(digest) for name, digest in manifest.items()}
        except (KeyError, ValueError, AttributeError) as error:
            raise _damaged(file, f"{where} has no readable {MANIFEST}") from error
        found = {name: digests[member.name] for name, member in members.items() if name != MANIFEST}
        if found != expected:
            wrong = min(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            raise _damaged(file, f"{where}/{wrong} differs from its manifest")
    return contents


def _parts(member: tarfile.TarInfo, file: str | Path) -> tuple[str, str, str]:
    """Stage, key and file name of a member. Raises UserError for anything that `pack` does not write."""
    parts = member.name.split("/")
    patterns = (STAGE, KEY, FILE)
    if (
        not member.isreg()
        or len(parts) != len(patterns)
        or not all(pattern.fullmatch(part) for pattern, part in zip(patterns, parts, strict=True))
    ):
        raise UserError(
            f"{file} holds {member.name!r}, which is not a file <stage>/<key>/<name> of an artifact: unpack only files "
            "that `python -m wavedp.store pack` wrote."
        )
    return parts[0], parts[1], parts[2]


def _digest(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    """sha256 (hex) of a member, read in blocks. Raises TarError if the file ends too early."""
    content, digest = archive.extractfile(member), hashlib.sha256()
    assert content is not None  # it is a regular file
    while block := content.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = archive.extractfile(member)
    assert content is not None
    return content.read()


def _damaged(file: str | Path, reason: str) -> UserError:
    return UserError(f"{file} is not a whole tar of artifacts ({reason}): {AGAIN}.")


if __name__ == "__main__":
    sys.exit(main())

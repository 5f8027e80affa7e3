"""Files of an npm package: its tarball from the registry, or by `npm pack`, which knows the machine's own registry."""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

REGISTRY = "https://registry.npmjs.org"
PACK_TIMEOUT = 600
"""Seconds: npm itself tries for minutes when there is no network."""


def url(package: str, version: str) -> str:
    """The registry's address of a package's tarball."""
    return f"{REGISTRY}/{package}/-/{package.rpartition('/')[2]}-{version}.tgz"


def pack(package: str, version: str, folder: Path) -> Path:
    """`npm pack` into `folder`; returns the tarball. Raises OSError with npm's reason, and where there is no npm."""
    npm = shutil.which("npm")
    if npm is None:
        raise OSError("npm is not installed")
    command = [npm, "pack", f"{package}@{version}", "--fetch-retries=0", "--ignore-scripts", "--loglevel=error"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace", timeout=PACK_TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"npm pack did not end within {PACK_TIMEOUT} s") from error
    found = next(folder.glob("*.tgz"), None)
    if done.returncode or found is None:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise OSError(said[-1] if said else f"npm pack ended with {done.returncode}")
    return found


def sha256(file: Path) -> str:
    """Of the file's content, in hex."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def unpack(tarball: Path, wanted: re.Pattern[str], folder: Path, compress: str = "") -> None:
    """Write the members that `wanted` matches whole (their path below package/) to `folder`, under the path that its
    group `to` has caught. compress: a folder whose files are kept as .gz.

    Raises OSError for a file that is no readable tarball.
    """
    done, said = 0, 0
    try:
        with tarfile.open(tarball, "r|gz") as archive:
            for member in archive:
                found = wanted.fullmatch(member.name.partition("/")[2])
                content = archive.extractfile(member) if found and member.isfile() else None
                if found is None or content is None:
                    continue
                inside = Path(found["to"])
                if inside.is_absolute() or ".." in inside.parts:
                    raise OSError(f"{member.name} points out of the package")
                target = folder / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                if compress and inside.parts[0] == compress:
                    with (
                        open(f"{target}.gz", "wb") as file,
                        gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed,
                    ):
                        shutil.copyfileobj(content, packed)
                else:
                    target.write_bytes(content.read())
                done += member.size
                if done - said >= 100e6:
                    print(f"  {done / 1e6:.0f} MB unpacked", flush=True)
                    said = done
    except tarfile.TarError as error:
        raise OSError(f"{tarball.name} cannot be read: {error}") from error

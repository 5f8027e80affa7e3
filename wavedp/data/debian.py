"""Files of a Debian package without root: `apt-get download` with its state in a temporary folder, then unpacking."""

from __future__ import annotations

import lzma
import shutil
import subprocess
import tarfile
from pathlib import Path


def apt_download(package: str, folder: Path) -> Path:
    """Download `package` from the machine's own Debian sources into `folder`; returns the .deb.

    apt checks the signature of the index and the checksum of the package; nothing that it says is shown. Raises OSError
    with its reason.
    """
    apt = shutil.which("apt-get")
    if apt is None:
        raise OSError("apt-get is not installed")
    state = folder / "apt"
    (state / "lists" / "partial").mkdir(parents=True)
    options = {
        "Dir::State::Lists": state / "lists",
        "Dir::Cache": state,
        "Acquire::Retries": 0,
        "Acquire::http::Timeout": 10,
        "Acquire::https::Timeout": 10,
        "APT::Update::Error-Mode": "any",  # otherwise a failed update only warns, and the download's error hides it
    }
    flags = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    for command in (["update"], ["download", package]):
        done = subprocess.run(
            [apt, "-q", *flags, *command], cwd=folder, capture_output=True, encoding="utf-8", errors="replace"
        )
        if done.returncode:
            errors = [line[2:].strip() for line in done.stderr.splitlines() if line.startswith("E:")]
            raise OSError(errors[0] if errors else f"apt-get {command[0]} ended with {done.returncode}")
    return next(folder.glob(f"{package}_*.deb"))


def unpack(deb: Path, folder: Path) -> None:
    """Extract a package's files below `folder`. Raises OSError for a file that is not a readable package.

    dpkg-deb knows every compression; without dpkg-deb, Python reads the common ones (plain, gzip, xz).
    """
    dpkg = shutil.which("dpkg-deb")
    if dpkg:
        done = subprocess.run(
            [dpkg, "-x", str(deb), str(folder)], stderr=subprocess.PIPE, encoding="utf-8", errors="replace"
        )
        if done.returncode:
            raise OSError(done.stderr.strip())
        return
    with open(deb, "rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise OSError(f"{deb.name} is not a Debian package")
        # ar: 60-byte headers (name in bytes 0-15, decimal size in 48-57), members padded to an even length.
        while header := file.read(60):
            name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
            if name.startswith("data.tar"):
                try:
                    with tarfile.open(fileobj=file, mode="r|*") as archive:
                        archive.extractall(folder, filter="data")
                except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
                    raise OSError(f"{name} of {deb.name} cannot be read without dpkg-deb: {error}") from error
                return
            file.seek(size + size % 2, 1)
    raise OSError(f"{deb.name} has no data.tar member")

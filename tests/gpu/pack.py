"""Collect what a lent GPU machine lacks, in pieces that travel with the working tree.

    python tests/gpu/pack.py [--data] [--plan FILE] [--folder .gpu] [--limit-mib 64] [--python 3.12]
    python tests/gpu/pack.py --restore /tmp/gpu [--to FILE]

The first form downloads wheels for x86-64 (versions of constraints.txt; not those of what is installed there) and
adds the FID network of this environment. --data adds Fashion-MNIST's files and Open Clip Art, decoded; --plan a plan of
`python -m sweeps.run … plan=FILE`; without one, for check.py, a published upscaler is added. All of it is one archive,
cut into FOLDER/1/piece.01, FOLDER/2/piece.02, …, none larger than the limit leaves beside the tracked files. The
commands of the calls that carry one piece each are printed. The second form is what tests/gpu/unpack.sh runs there: it
puts the FID network together, where wavedp finds it by itself.

The FID network is 83 MiB of float32, which compresses to 85 % once the first bytes of all numbers stand together, then
the second, third and fourth: nothing is rounded, and the file there has the checksum that it has here.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

WHEELS = ("PyWavelets", "opacus", "dp-accounting", "dm-tree", "diffusers", "importlib_metadata", "lazy-importer")
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014", "manylinux1")
UPSCALER = "animevideov3_x2"
MARGIN = 1.0  # MiB that a call keeps free


def together(content: bytes) -> bytes:
    """All first bytes of four, then all second ones, …, compressed; the rest of a length not divisible by 4 last."""
    whole = len(content) // 4 * 4
    return zlib.compress(b"".join(content[place:whole:4] for place in range(4)) + content[whole:], 9)


def apart(packed: bytes) -> bytes:
    """What `together` was given."""
    content = zlib.decompress(packed)
    whole = len(content) // 4 * 4
    found = bytearray(content)
    for place in range(4):
        found[place:whole:4] = content[place * whole // 4 : (place + 1) * whole // 4]
    return bytes(found)


def wheels(folder: Path, python: str) -> None:
    """Download the wheels, without what they need: the machine has that."""
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", constraints, re.MULTILINE))
    asked = [f"{name}=={pinned[name]}" for name in WHEELS]
    options = ["--no-deps", "--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    for platform in PLATFORMS:
        options += ["--platform", f"{platform}_x86_64"]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--quiet", *options, "-d", folder, *asked], check=True
    )


def collect(folder: Path, python: str, with_data: bool, plan: Path | None) -> None:
    """Everything that travels, as files of this folder."""
    from wavedp.config import DataConfig
    from wavedp.data.export import export_decoded
    from wavedp.metrics.network_file import find_network
    from wavedp.upscalers.ncnn.weights import find_weights

    wheels(folder / "wheels", python)
    (folder / "inception.packed").write_bytes(together(find_network(None).read_bytes()))
    if plan is None:
        (folder / "weights").mkdir()
        graph = find_weights(UPSCALER)
        for file in (graph, graph.with_suffix(".bin")):
            shutil.copy(file, folder / "weights" / file.name)
    commit = ["git", "-C", ROOT, "describe", "--always", "--abbrev=40", "--dirty"]
    found = subprocess.run(commit, capture_output=True, text=True, check=True).stdout
    (folder / "commit").write_text(found, encoding="utf-8")
    if with_data:
        home = Path(DataConfig().home)
        shutil.copytree(home / "fashion_mnist", folder / "data" / "fashion_mnist")
        export_decoded(DataConfig(name="openclipart"), folder / "data" / "openclipart.decoded.npz")
    if plan is not None:
        shutil.copy(plan, folder / "plan.json")


def pieces(archive: bytes, folder: Path, size: int) -> list[Path]:
    """Cut the archive into folders of one piece each; what lay there before is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    found = []
    for number, start in enumerate(range(0, len(archive), size), 1):
        piece = folder / str(number) / f"piece.{number:02}"
        piece.parent.mkdir(parents=True)
        piece.write_bytes(archive[start : start + size])
        found.append(piece)
    return found


def tracked_bytes() -> int:
    """Size of the files that travel with every call."""
    listed = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, check=True).stdout.decode().split("\0")
    return sum((ROOT / name).stat().st_size for name in names if name and (ROOT / name).is_file())


def restore(folder: Path, file: Path | None = None) -> Path:
    """Write the FID network to where wavedp looks for it; returns the file."""
    from wavedp.metrics.network_file import CLEANFID_FILE

    file = CLEANFID_FILE if file is None else file
    file.write_bytes(apart((folder / "inception.packed").read_bytes()))
    return file


def main() -> int:
    """The command; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="store_true", help="also Fashion-MNIST and Open Clip Art")
    parser.add_argument("--plan", type=Path, help="also a plan for python -m wavedp.run")
    parser.add_argument("--folder", type=Path, default=Path(".gpu"), help="for the pieces (%(default)s)")
    parser.add_argument("--limit-mib", type=float, default=64.0, help="of one call, tracked files included")
    parser.add_argument("--python", default="3.12", help="version there (%(default)s)")
    parser.add_argument("--restore", type=Path, metavar="FOLDER", help="there: put the FID network together")
    parser.add_argument("--to", type=Path, metavar="FILE", help="where (default: where wavedp looks for it)")
    chosen = parser.parse_args()
    if chosen.restore is not None:
        print(f"the FID network is in {restore(chosen.restore, chosen.to)}")
        return 0
    with tempfile.TemporaryDirectory() as place:
        collect(Path(place), chosen.python, chosen.data, chosen.plan)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for file in sorted(path for path in Path(place).rglob("*") if path.is_file()):
                archive.add(file, file.relative_to(place))
                print(f"{file.stat().st_size / 2**20:8.2f} MiB  {file.relative_to(place)}")
    tree = tracked_bytes()
    size = int((chosen.limit_mib - MARGIN) * 2**20) - tree
    if size <= 0:
        print(f"Error: tracked files take {tree / 2**20:.1f} MiB of --limit-mib {chosen.limit_mib:g}.", file=sys.stderr)
        return 2
    found = pieces(packed.getvalue(), chosen.folder, size)
    total = len(packed.getvalue()) / 2**20
    print(f"{total:.1f} MiB in {len(found)} pieces beside {tree / 2**20:.1f} MiB of tracked files; one call each:")
    for piece in found:
        print(f"run carry=[{piece.parent}] timeout_s=60: mkdir -p /tmp/gpu && cp {piece} /tmp/gpu/")
    print("and in the last call, after its cp: && . tests/gpu/unpack.sh && …")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Sets of images for `python -m wavedp.metrics`: archives that are damaged, or claim what they do not hold."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from odd_inputs import Odd, Refused
from wavedp.metrics import __main__ as metrics
from wavedp.metrics import image_sets

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)


def save(folder: Path, images=IMAGES) -> Path:
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number}.png")
    return folder


def read(path: Path) -> torch.Tensor:
    return torch.cat([*image_sets.chunks(path)])


def measure(folder: Path, *options: str) -> None:
    """The command on two equal folders, in this process."""
    real = str(save(folder / "real"))
    stderr = io.StringIO()
    sys_stderr, metrics.sys.stderr = metrics.sys.stderr, stderr
    try:
        status = metrics.main([real, real, *options])
    finally:
        metrics.sys.stderr = sys_stderr
    if status == 2:
        raise Refused(stderr.getvalue().strip())


def packed(folder: Path, name: str = "set.zip") -> bytearray:
    with zipfile.ZipFile(folder / name, "w") as archive:
        for file in sorted(save(folder / "files").iterdir()):
            archive.write(file, file.name)
    return bytearray((folder / name).read_bytes())


def patched(folder: Path, local: int, central: int, value: int) -> None:
    """A zip with one byte of every header changed: at `local` in local headers, `central` in the directory."""
    content = packed(folder)
    for magic, offset in ((b"PK\3\4", local), (b"PK\1\2", central)):
        place = content.find(magic)
        while place >= 0:
            content[place + offset] = value
            place = content.find(magic, place + 4)
    (folder / "set.zip").write_bytes(content)
    read(folder / "set.zip")


def damaged(folder: Path) -> None:
    content = packed(folder)
    content[content.find(b"IDAT") + 30] ^= 255
    (folder / "set.zip").write_bytes(content)
    read(folder / "set.zip")


def upper_case(folder: Path) -> None:
    packed(folder, "SET.ZIP")
    np.savez(folder / "set.npz", IMAGES)
    os.rename(folder / "set.npz", folder / "SET.NPZ")
    for name in ("SET.ZIP", "SET.NPZ"):
        assert torch.equal(read(folder / name), torch.from_numpy(IMAGES))


def npz(folder: Path, **arrays) -> Path:
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


def npy_called_npz(folder: Path) -> None:
    np.save(folder / "a.npy", IMAGES)
    os.rename(folder / "a.npy", folder / "a.npz")
    read(folder / "a.npz")


def header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


def claiming(folder: Path) -> None:
    """346 bytes whose header claims 698 TiB."""
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.writestr("images.npy", header((800_000, 3, 17_886, 17_886)) + bytes(100))
    read(folder / "a.npz")


def bomb(folder: Path) -> None:
    """300 KB that unpack to 300 MiB."""
    with (
        zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("images.npy", "w") as file,
    ):
        file.write(header((100, 3, 1024, 1024)))
        for _ in range(300):
            file.write(bytes(2**20))
    read(folder / "a.npz")


def linked(folder: Path) -> None:
    """A class folder that is a link is read."""
    save(folder / "elsewhere", IMAGES[:2])
    save(folder / "set" / "cats", IMAGES[2:])
    os.symlink(folder / "elsewhere", folder / "set" / "dogs")
    assert torch.equal(read(folder / "set"), torch.from_numpy(np.concatenate([IMAGES[2:], IMAGES[:2]])))


def link_to_parent(folder: Path) -> None:
    save(folder / "set")
    os.symlink(folder / "set", folder / "set" / "again")
    read(folder / "set")


def broken_link(folder: Path) -> None:
    save(folder / "set")
    os.symlink(folder / "nowhere.png", folder / "set" / "a.png")
    read(folder / "set")


def jfif(folder: Path) -> None:
    save(folder / "set", IMAGES[:1])
    Image.new("RGB", (8, 8), (9, 9, 9)).save(folder / "set" / "b.jfif", "JPEG")
    assert len(read(folder / "set")) == 2


def other_kind(folder: Path) -> None:
    save(folder / "set")
    (folder / "set" / "a.heic").write_bytes(b"unread")
    read(folder / "set")


CASES = [
    Odd("an encrypted zip", lambda folder: patched(folder, 6, 8, 1), ("set.zip:0.png is encrypted",)),
    Odd("a zip packed by deflate64", lambda folder: patched(folder, 8, 10, 9), ("set.zip:0.png", "deflate64")),
    Odd("a damaged zip", damaged, ("set.zip:0.png cannot be read (Bad CRC-32",)),
    Odd(".ZIP and .NPZ in capitals", upper_case),
    Odd("an npz without arrays", lambda folder: read(npz(folder)), ("a.npz holds nothing",)),
    Odd("an npy called npz", npy_called_npz, ("a.npz is a single array, an .npy by another name",)),
    Odd(
        "fewer labels than images",
        lambda folder: image_sets.labels(npz(folder, images=IMAGES, labels=np.arange(4))),
        ("a.npz: labels are int64 (4,) for 6 images",),
    ),
    Odd(
        "one-hot labels",
        lambda folder: image_sets.labels(npz(folder, images=IMAGES, labels=np.eye(6))),
        ("a.npz: labels are float64 (6, 6) for 6 images",),
    ),
    Odd("an npz whose header claims 698 TiB", claiming, ("a.npz:images.npy is damaged", "767,781,590,400,128 bytes")),
    Odd("an npz packed a thousandfold", bomb, ("a.npz:images.npy claims 314,572,928 bytes", "100 times is the limit")),
    Odd(
        "an npz of images of 9,000 × 9,000",
        lambda folder: image_sets.count(npz(folder, images=np.zeros((1, 9_000, 9_000), np.uint8))),
        ("a.npz has 9,000 × 9,000 pixels, and 67,108,864 in all are read at most",),
    ),
    Odd("a class folder that is a link", linked),
    Odd("a set with a link to itself", link_to_parent, ("again is ", "again, by a link")),
    Odd("a picture that is a broken link", broken_link, ("a.png cannot be read", "No such file")),
    Odd("a picture called .jfif", jfif),
    Odd("a picture of a kind that is not read", other_kind, ("a.heic is a picture of a kind that is not read",)),
    Odd(
        "--samples -3",
        lambda folder: measure(folder, "--metrics", "spectrum", "--samples", "-3"),
        ("--samples=-3 leaves nothing to compare",),
    ),
    Odd(
        "--device foo",
        lambda folder: measure(folder, "--metrics", "fid", "--device", "foo"),
        ("--device=foo is not a device that works here",),
    ),
    Odd(
        "rows to a file in no folder",
        lambda folder: measure(folder, "--metrics", "spectrum", "--json", "/proc/nowhere/rows.jsonl"),
        ("/proc/nowhere/rows.jsonl cannot be written",),
    ),
]

"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017, arXiv:1708.07747): grey garments, 28x28, ten balanced classes."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np

from wavedp.config import DataConfig
from wavedp.data.dataset import Records, Split, download_command
from wavedp.errors import UserError

LICENCE = "MIT (github.com/zalandoresearch/fashion-mnist)"
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

# sha256 of the uncompressed files. The .gz around them differ: Debian drops the name and the date from the gzip header;
# with both put back its files have the md5 sums that the publisher states for the .gz (tests/wavedp/test_data.py).
SHA256 = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
COUNTS: dict[str, dict[str, int]] = {
    "official": {"train": 60_000, "test": 10_000},
    "dpimagebench": {"train": 55_000, "val": 5_000, "test": 10_000},
}
DIVISIONS = tuple(COUNTS)
"""Values of `data.split` that this set defines."""


def shape(config: DataConfig) -> tuple[int, int, int]:
    """(1, 28, 28), or (1, 32, 32): a black frame of 2 pixels, which makes the side divisible by 2 five times."""
    if config.channels != 1 or config.size not in (28, 32):
        raise UserError(
            f"fashion_mnist is grey and 28x28, not data.channels={config.channels} and data.size={config.size}: "
            "use channels=1 and size=28, or size=32 for a black frame of 2 pixels."
        )
    return 1, config.size, config.size


def classes(config: DataConfig) -> tuple[str, ...]:
    """The ten garments."""
    return CLASSES


def has_captions(config: DataConfig) -> bool:
    """False: the set has labels only."""
    return False


def count(config: DataConfig, split: Split) -> int:
    """Raises UserError for `val` of the official division, which has only train and test."""
    counts = COUNTS[config.split]
    if split not in counts:
        raise UserError("fashion_mnist has no official val split: use train or test, or data.split=dpimagebench.")
    return counts[split]


def files(config: DataConfig) -> list[Path]:
    """The four idx files. Raises UserError when one is absent."""
    home = Path(config.home, "fashion_mnist")
    found = [home / name for name in SHA256]
    if not all(path.is_file() for path in found):
        raise UserError(f"fashion_mnist is not in {config.home}: {download_command(config)}.")
    return found


def read(config: DataConfig, split: Split, n: int) -> Records:
    """The first n records, in the publisher's order; dpimagebench's train and val are in its random split's order."""
    prefix = "t10k" if split == "test" else "train"
    images_file, labels_file = (path for path in files(config) if path.name.startswith(prefix))
    try:
        images = np.frombuffer(_content(images_file), np.uint8, offset=16).reshape(-1, 28, 28)
        labels = np.frombuffer(_content(labels_file), np.uint8, offset=8).astype(np.int64)
    except ValueError as error:
        raise UserError(f"{config.home}/fashion_mnist is damaged ({error}): {download_command(config)}.") from error
    if config.split == "dpimagebench" and split != "test":
        cut = COUNTS["dpimagebench"]["train"]
        order = benchmark_order(sum(COUNTS["dpimagebench"][name] for name in ("train", "val")))
        chosen = (order[:cut] if split == "train" else order[cut:])[:n]
        images, labels = images[chosen], labels[chosen]
    images, labels = images[:n, None], labels[:n]
    margin = (config.size - 28) // 2
    if margin:
        images = np.pad(images, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    return images, labels, None


def benchmark_order(n: int) -> np.ndarray:
    """The permutation of n training records, 60,000 here, whose first 55,000 are DPImageBench's train and the rest its
    val; cifar10 and celeba are divided likewise.

    2019ChenGong/DPImageBench, data/dataset_loader.py calls `torch.manual_seed(0)`, then `random_split` to these sizes,
    on images that data/preprocess_dataset.py stores in the publisher's order. `random_split` draws `randperm(n)`:
    torch's CPU generator is MT19937, seeded as numpy's RandomState is, and its shuffle swaps place i with place
    i + r_i mod (N - i). So numpy gives the same indices without torch, whatever its later versions do.
    """
    draws = np.random.RandomState(0).randint(0, 2**32, size=n - 1, dtype=np.uint32).astype(np.int64)
    order = list(range(n))
    for i, step in enumerate((draws % np.arange(n, 1, -1)).tolist()):
        order[i], order[i + step] = order[i + step], order[i]
    return np.array(order)


def damaged(folder: Path) -> str | None:
    """The first published file that is missing from `folder` or differs, as a sentence; None if all are right."""
    for name in SHA256:
        if not (folder / name).is_file():
            return f"{name} is missing"
        try:
            _content(folder / name)
        except ValueError as error:
            return str(error)
    return None


def _content(path: Path) -> bytes:
    """An idx file unpacked: 16 bytes of header (images) or 8 (labels), then one byte per value.

    Raises ValueError for a file that differs from the published one.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path.name} is not a whole gzip file") from error
    if hashlib.sha256(content).hexdigest() != SHA256[path.name]:
        raise ValueError(f"{path.name} is not the published file")
    return content

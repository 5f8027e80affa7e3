"""Computed shapes and textures: a small distribution that can be learned, at any size, without a file.

Record i of a split is a function of (division, split, i) only: its class is i mod 10, and the position, scale, angle,
brightness and hue of its motif are uniform numbers hashed from them. So a longer set begins with the shorter one.
data.split=public has none of the images of `official`: public images for a study of computed ones.

Sines and exponentials differ in the last bit between CPUs, and rounding to 8 bits hides it: the sets tried (28x28 grey,
32x32 and 64x64 RGB) have the same fingerprints with and without AVX2, AVX-512 and FMA in numpy and the C library.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wavedp.config import DataConfig
from wavedp.data.dataset import Records, Split, square_shape
from wavedp.errors import UserError

LICENCE = "Apache-2.0 (this code computes them)"
CLASSES = ("disk", "square", "triangle", "cross", "blobs", "stripes", "checker", "rings", "dots", "gradient")
PLURAL = ("blobs", "stripes", "rings", "dots")
COLOURS = ("white", "red", "yellow", "green", "cyan", "blue", "magenta")
RGB = np.array(
    [(1, 1, 1), (1, 0.15, 0.1), (1, 0.9, 0.1), (0.15, 0.85, 0.2), (0.1, 0.9, 0.9), (0.2, 0.3, 1), (0.9, 0.2, 0.9)]
)
DIVISIONS = ("official", "public")
SPLIT_SEED = {"train": 1, "val": 2, "test": 3}
CHUNK = 512  # records drawn at once; limits memory, and the images do not depend on it

shape = square_shape


def classes(config: DataConfig) -> tuple[str, ...]:
    """Five shapes, then five textures."""
    return CLASSES


def has_captions(config: DataConfig) -> bool:
    """True: captions describe the motif."""
    return True


def count(config: DataConfig, split: Split) -> int:
    """n_records for train, a quarter of it for val and test. Raises UserError below 4."""
    if config.n_records < 4:
        raise UserError(f"data.n_records={config.n_records} leaves val and test empty: use 4 or more.")
    return config.n_records if split == "train" else config.n_records // 4


def files(config: DataConfig) -> list[Path]:
    """An empty list: the set is computed."""
    return []


def read(config: DataConfig, split: Split, n: int) -> Records:
    """Draw records 0 to n-1; captions such as `a small bright disk` (RGB: `a small bright red disk`)."""
    motif = uniforms(SPLIT_SEED[split] + len(SPLIT_SEED) * DIVISIONS.index(config.split), n, 8)  # B 8
    labels = np.arange(n, dtype=np.int64) % len(CLASSES)
    images = np.empty((n, config.channels, config.size, config.size), np.uint8)
    for start in range(0, n, CHUNK):
        chunk = slice(start, start + CHUNK)
        images[chunk] = _draw(motif[chunk], labels[chunk], config.size, config.channels)
    sizes = np.where(motif[:, 2] < 0.5, "small", "large")
    lights = np.where(motif[:, 4] < 0.5, "dim", "bright")
    hues = np.array(COLOURS)[_hue(motif)] if config.channels == 3 else [""] * n
    nouns = np.array(CLASSES)[labels]
    articles = np.where(np.isin(nouns, PLURAL), "", "a")
    words = zip(articles, sizes, lights, hues, nouns, strict=True)
    return images, labels, tuple(" ".join(filter(None, word)) for word in words)


def uniforms(seed: int, n: int, k: int) -> np.ndarray:
    """float64 [n k] in [0, 1): splitmix64 (Steele, Lea and Flood, 2014) of the counter (seed, row, column)."""
    x = (np.uint64(seed) << np.uint64(56)) + np.arange(n * k, dtype=np.uint64)
    x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)  # uint64 arrays wrap around, as the generator wants
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).reshape(n, k) / 2.0**53


def _hue(motif: np.ndarray) -> np.ndarray:
    return (motif[:, 6] * len(COLOURS)).astype(np.int64)


def _draw(motif: np.ndarray, labels: np.ndarray, size: int, channels: int) -> np.ndarray:
    """B 8 uniforms -> B C H W uint8: background + (foreground - background) * coverage of the motif."""
    x0, y0, scale, angle, light, back = motif[:, :6, None, None].transpose(1, 0, 2, 3)  # each B 1 1
    centres = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)  # pixel centres in [-1, 1]
    reach = 0.25 + 0.4 * scale  # half the motif's width; the image's is 1
    x = (centres - 0.7 * (x0 - 0.5)) / reach  # B 1 W
    y = (centres[:, None] - 0.7 * (y0 - 0.5)) / reach  # B H 1
    turn = 2 * np.pi * angle
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x  # B H W, in units of reach
    coverage = np.empty(u.shape, np.float32)
    edge = size * reach / 2  # pixels in one unit of (u, v)
    for label in np.unique(labels):
        of = labels == label
        coverage[of] = coverage_of(CLASSES[label], u[of], v[of], edge[of])
    bright, dark = 0.35 + 0.65 * light, 0.15 * back
    if channels == 1:
        images = (dark + (bright - dark) * coverage)[:, None]
    else:
        colour = RGB[_hue(motif)][:, :, None, None] * bright[:, None]  # B 3 1 1
        images = dark[:, None] + (colour - dark[:, None]) * coverage[:, None]
    return np.rint(255 * images).astype(np.uint8)


def coverage_of(name: str, u: np.ndarray, v: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """Share of each pixel that the motif covers, in [0, 1].

    Shapes: their signed distance, in pixels, ramped over one pixel.
    """
    a, b, radius = np.abs(u), np.abs(v), np.hypot(u, v)
    if name == "blobs":
        places = ((0.0, 0.0, 0.6), (0.9, 0.3, 0.4), (-0.5, 0.8, 0.4))  # centre and width of three Gaussians
        bumps = sum(np.exp(-((u - p) ** 2 + (v - q) ** 2) / (2 * w * w)) for p, q, w in places)
        return np.minimum(bumps, 1.0)
    if name == "stripes":
        return 0.5 + 0.5 * np.sin(2 * np.pi * u)
    if name == "rings":
        return 0.5 + 0.5 * np.cos(2 * np.pi * radius)
    if name == "gradient":
        return np.clip(0.5 + 0.5 * u, 0, 1)
    if name == "checker":
        return np.clip(0.5 + edge / np.pi * np.sin(np.pi * u) * np.sin(np.pi * v), 0, 1)
    if name == "dots":
        distance = np.hypot((u + 0.5) % 1 - 0.5, (v + 0.5) % 1 - 0.5) - 0.3
    elif name == "disk":
        distance = radius - 1
    elif name == "square":
        distance = np.maximum(a, b) - 0.85
    elif name == "triangle":
        distance = np.maximum(a * np.sqrt(0.75) + v / 2, -v) - 0.55
    elif name == "cross":
        distance = np.minimum(np.maximum(a - 1, b - 0.33), np.maximum(a - 0.33, b - 1))
    else:
        raise AssertionError(name)
    return np.clip(0.5 - distance * edge, 0, 1)

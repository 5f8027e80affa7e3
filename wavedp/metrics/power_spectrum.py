"""The radial power spectrum of images: how much of each fineness they hold.

    B images, C channels, H W pixels, F bands

Definition. An image's modes are its coefficients in the orthonormal DCT-II (Ahmed, Natarajan & Rao 1974), which mirrors
borders where a Fourier transform would see an edge. Mode (k, l) has √((k/2H)² + (l/2W)²) cycles per pixel, from 0 (the
mean) to 0.71; its power is its square, averaged over channels. Band 0 is the mean and band j what lies above
(j-1)/N and up to j/N, N = max(H, W); so each axis gives it an odd and an even mode (centred objects have little of the
odd ones, and narrower bands would show a saw). A band's power and frequency are means over its modes. White noise of
variance v has power v in every band, and powers times numbers of modes add up to Σ pixel², averaged over channels
(Parseval).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wavedp.diffusion.blur import cosine_basis
from wavedp.errors import UserError
from wavedp.metrics.views import View

ROUNDING = 1 / (12 * 255**2)
"""Power of each mode of the error that 8 bits make on [0, 1]: less than this is not told apart."""

CHUNK, CHUNK_BYTES = 256, 2**27  # images transformed at a time, and their bytes in float64
ONE_SIZE = "Spectra need all images of both sets in one size: resize them, or leave spectrum out."


@dataclass(frozen=True)
class Spectrum:
    """frequencies: of the bands, cycles per pixel. modes: in each band. power: mean over modes, channels and images.
    standard_error: of that mean, over images as independent draws. All F float64 (modes int64)."""

    frequencies: Tensor
    modes: Tensor
    power: Tensor
    standard_error: Tensor
    n_images: int


def spectrum(images: Tensor) -> Spectrum:
    """The spectrum of images B C H W, uint8 (then taken as [0, 1]) or float. Raises UserError for fewer than two."""
    if len(images) < 2:
        raise UserError(f"a spectrum with a standard error needs two images, got {len(images)}: give more.")
    _, frequencies, modes = bands(*images.shape[-2:])
    powers = band_powers(images)
    return Spectrum(frequencies, modes, powers.mean(0), powers.std(0) / len(images) ** 0.5, len(images))


def band_powers(images: Tensor) -> Tensor:
    """The spectrum of each image by itself, B C H W -> B F float64."""
    band, _, modes = bands(*images.shape[-2:])
    size = min(CHUNK, max(CHUNK_BYTES // (8 * images[0].numel()), 1)) if len(images) else CHUNK
    return torch.cat([_band_powers(part, band, modes) for part in images.split(size)])


def bands(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The band of each mode, H W int64, and the bands' frequencies (float64) and numbers of modes, F each."""
    rows, columns = (torch.arange(side, dtype=torch.float64) / (2 * side) for side in (height, width))
    frequency = (rows[:, None].square() + columns.square()).sqrt()  # H W
    upper = (frequency * max(height, width) - 1e-9).ceil()  # 1e-9: j/N itself belongs to band j, however it is rounded
    _, band, modes = upper.unique(return_inverse=True, return_counts=True)
    return band, _band_means(frequency.flatten()[None], band, modes)[0], modes


def log_spectral_distance(power: Tensor, reference: Tensor) -> float:
    """Root mean square over the bands above 0 of 10 log₁₀(power/reference), in dB; powers F of 8-bit images.

    Band 0, the brightness, is left out. Both are raised to ROUNDING where they are less.
    """
    decibels = 10 * (power.clamp(min=ROUNDING) / reference.clamp(min=ROUNDING)).log10()
    return float(decibels[1:].square().mean().sqrt())


def mean_powers(view: View) -> Tensor:
    """Mean power of each band over the images of a view, F float64. Raises UserError for images of several sizes."""
    rows: list[tuple[Tensor, Tensor]] = []
    for places, images in view.stream():
        rows.append((places, band_powers(images)))
        if rows[0][1].shape[1] != rows[-1][1].shape[1]:
            raise UserError(ONE_SIZE)
    order = torch.cat([places for places, _ in rows]).argsort()
    return torch.cat([powers for _, powers in rows])[order].mean(0)


def octaves_apart(power: Tensor, reference: Tensor) -> float:
    """Root mean square over bands of log2 of the ratio of powers F, in octaves; 0 for equal spectra. Raises UserError
    for powers of images of two sizes."""
    if power.shape != reference.shape:
        raise UserError(ONE_SIZE)
    octaves = (power.clamp(min=1e-12) / reference.clamp(min=1e-12)).log2()
    return float(octaves.square().mean().sqrt())


def _band_powers(images: Tensor, band: Tensor, modes: Tensor) -> Tensor:
    """B F: each image's mean power in each band."""
    pixels = images.double() / (255 if images.dtype == torch.uint8 else 1)
    rows, columns = (cosine_basis(side) for side in images.shape[-2:])
    return _band_means((rows @ pixels @ columns.T).square().mean(1).flatten(1), band, modes)


def _band_means(values: Tensor, band: Tensor, modes: Tensor) -> Tensor:
    """Means over each band's modes: B HW -> B F."""
    return values.new_zeros(len(values), len(modes)).index_add(1, band.flatten(), values) / modes

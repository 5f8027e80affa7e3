"""Radial power spectrum of images: their power in bands from coarse to fine.

    B images, C channels, H W pixels, F bands

Definition. An image's modes are its coefficients in the orthonormal DCT-II (Ahmed, Natarajan & Rao 1974), which mirrors
borders where a Fourier transform would see an edge. Mode (k, l) has √((k/2H)² + (l/2W)²) cycles per pixel, from 0 (the
mean) to 0.71; its power is its square, averaged over channels. Band 0 is only the mean. Band j holds frequencies above
(j-1)/N and up to j/N, N = max(H, W), so each axis gives it one odd and one even mode (centred objects have weak
odd modes; narrower bands would zigzag). A band's power and frequency are means over its modes. White noise of
variance v has power v in every band, and powers times numbers of modes add up to Σ pixel², averaged over channels
(Parseval).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wavedp.diffusion.blur import cosine_basis
from wavedp.errors import UserError

ROUNDING = 1 / (12 * 255**2)
"""Power per mode of the rounding error of 8-bit images in [0, 1]; smaller powers cannot be resolved."""

CHUNK = 256  # images transformed at a time


@dataclass(frozen=True)
class Spectrum:
    """frequencies: of the bands, cycles per pixel. modes: their number in each band. power: mean over modes, channels
    and images. standard_error: of that mean, with images as independent draws. All F float64 (modes int64)."""

    frequencies: Tensor
    modes: Tensor
    power: Tensor
    standard_error: Tensor
    n_images: int


def spectrum(images: Tensor) -> Spectrum:
    """Return the spectrum of images B C H W, float or uint8 (scaled to [0, 1]). Raises UserError for fewer than two."""
    if len(images) < 2:
        raise UserError(f"a spectrum with a standard error needs two images, got {len(images)}: give more.")
    _, frequencies, modes = bands(*images.shape[-2:])
    powers = band_powers(images)
    return Spectrum(frequencies, modes, powers.mean(0), powers.std(0) / len(images) ** 0.5, len(images))


def band_powers(images: Tensor) -> Tensor:
    """Compute the spectrum of each image separately, B C H W -> B F float64."""
    band, _, modes = bands(*images.shape[-2:])
    return torch.cat([_band_powers(part, band, modes) for part in images.split(CHUNK)])


def bands(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the band of each mode, H W int64, and the bands' frequencies (float64) and numbers of modes, F each."""
    rows, columns = (torch.arange(side, dtype=torch.float64) / (2 * side) for side in (height, width))
    frequency = (rows[:, None].square() + columns.square()).sqrt()  # H W
    upper = (frequency * max(height, width) - 1e-9).ceil()  # 1e-9: j/N itself belongs to band j despite rounding
    _, band, modes = upper.unique(return_inverse=True, return_counts=True)
    return band, _band_means(frequency.flatten()[None], band, modes)[0], modes


def log_spectral_distance(power: Tensor, reference: Tensor) -> float:
    """Root mean square over the bands above 0 of 10 log₁₀(power/reference), in dB; powers F of 8-bit images.

    Band 0, the brightness, is left out. Powers below ROUNDING are raised to it.
    """
    decibels = 10 * (power.clamp(min=ROUNDING) / reference.clamp(min=ROUNDING)).log10()
    return float(decibels[1:].square().mean().sqrt())


def _band_powers(images: Tensor, band: Tensor, modes: Tensor) -> Tensor:
    """Return each image's mean power in each band, B F."""
    pixels = images.double() / (255 if images.dtype == torch.uint8 else 1)
    rows, columns = (cosine_basis(side) for side in images.shape[-2:])
    return _band_means((rows @ pixels @ columns.T).square().mean(1).flatten(1), band, modes)


def _band_means(values: Tensor, band: Tensor, modes: Tensor) -> Tensor:
    """Average over each band's modes: B HW -> B F."""
    return values.new_zeros(len(values), len(modes)).index_add(1, band.flatten(), values) / modes


if __name__ == "__main__":
    from wavedp.moved import run_moved

    run_moved("wavedp.metrics.spectrum", "wavedp.reports.spectrum")

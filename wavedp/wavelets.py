"""Two-dimensional discrete wavelet pyramids as tensors.

Shapes: B records, C channels, H W pixels, h w coefficients of one level, F filter taps.

Supports every discrete wavelet of PyWavelets, with its filters; each coefficient equals that of `pywt.wavedec2`.
The coarse image of level ℓ is the Haar low-pass band divided by 2^ℓ, which is the mean of each 2^ℓ × 2^ℓ block. It has
the range of the image, so no normaliser has to be fitted on private data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pywt
import torch
import torch.nn.functional as F
from torch import Tensor

from wavedp.errors import UserError
from wavedp.full_precision import full_precision
from wavedp.levels import check_level

Mode = Literal[
    "symmetric", "reflect", "periodic", "constant", "zero", "smooth", "antisymmetric", "antireflect", "periodization"
]
"""PyWavelets' modes of extending a signal beyond its ends."""
# Those that only copy samples -> np.pad's names for them.
_COPIES = {
    "symmetric": "symmetric", "reflect": "reflect", "periodic": "wrap", "periodization": "wrap", "constant": "edge",
}  # fmt: skip


@dataclass(frozen=True)
class Pyramid:
    """approximation: B C h w of the deepest level. details: coarse to fine, each B C 3 h w with bands H, V, D."""

    approximation: Tensor
    details: tuple[Tensor, ...]


def decompose(images: Tensor, level: int, wavelet: str = "haar", mode: Mode = "symmetric") -> Pyramid:
    """Return the `level`-fold DWT of images B C H W (any float range); equals that of `pywt.wavedec2`.

    mode=periodization is the only one that halves sizes exactly; `reconstruct` needs to be told of it. Raises UserError
    for an unknown or non-discrete wavelet, and for an unknown mode.
    """
    _known(mode)
    low, high = _filters(wavelet, "analysis")
    approximation = images
    details: list[Tensor] = []
    with full_precision(images.device):
        for _ in range(level):
            rows_low, rows_high = (_analyse(approximation, f, -2, mode) for f in (low, high))
            # Named as in PyWavelets: H is high-pass along axis -2 (down the rows), V along -1 (across the columns).
            bands = [
                _analyse(rows_high, low, -1, mode),
                _analyse(rows_low, high, -1, mode),
                _analyse(rows_high, high, -1, mode),
            ]
            details.insert(0, torch.stack(bands, dim=2))
            approximation = _analyse(rows_low, low, -1, mode)
    return Pyramid(approximation, tuple(details))


def reconstruct(pyramid: Pyramid, wavelet: str = "haar", mode: Mode = "symmetric") -> Tensor:
    """Return images B C H W from a pyramid; inverts `decompose` to ≤ 1e-5 in float32. As in PyWavelets, an odd side
    comes back one pixel longer: crop it. mode: that of `decompose`; all but periodization are inverted alike."""
    _known(mode)
    low, high = _filters(wavelet, "synthesis")
    images = pyramid.approximation
    with full_precision(images.device):
        for bands in pyramid.details:
            height, width = bands.shape[-2:]
            images = images[..., :height, :width]
            horizontal, vertical, diagonal = bands.unbind(2)
            rows_low = _synthesise(images, low, -1, mode) + _synthesise(vertical, high, -1, mode)
            rows_high = _synthesise(horizontal, low, -1, mode) + _synthesise(diagonal, high, -1, mode)
            images = _synthesise(rows_low, low, -2, mode) + _synthesise(rows_high, high, -2, mode)
    return images


def coarse(images: Tensor, level: int) -> Tensor:
    """Return coarse images B C H/2^level W/2^level: means of blocks of side 2^level (Haar low-pass / 2^level).

    Raises UserError when 2^level does not divide both sides.
    """
    check_level(level, images.shape[-2], images.shape[-1])
    low, _ = _filters("haar", "analysis")
    with full_precision(images.device):
        for _ in range(level):
            images = _analyse(_analyse(images, low, -2, "symmetric"), low, -1, "symmetric")
    return images / 2**level


def spread(images: Tensor, factor: int) -> Tensor:
    """Repeat each pixel in a factor × factor block: B C h w -> B C h*factor w*factor, of block means `images`."""
    return images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def doubled(images: Tensor, bands: Tensor) -> Tensor:
    """Images B C 2h 2w of block means `images` B C h w and bands H, V, D, B C 3 h w: the inverse Haar transform of
    (2 images, bands), `reconstruct`, up to rounding and in a few kernels, for a network on an accelerator."""
    share = torch.full((2, 2, 3), 0.5, device=images.device)  # of H, V, D in each pixel of a block, row by row
    share[1, :, 0].neg_()
    share[:, 1, 1].neg_()
    share[1, 0, 2] = share[0, 1, 2] = -0.5
    with full_precision(images.device):
        pixels = share.view(4, 3).to(bands.dtype) @ bands.flatten(3)  # B C 4 hw
        return F.pixel_shuffle((pixels.unflatten(3, images.shape[-2:]) + images[:, :, None]).flatten(1, 2), 2)


def _filters(wavelet: str, side: Literal["analysis", "synthesis"]) -> tuple[list[float], list[float]]:
    try:
        bank = pywt.Wavelet(wavelet)
    except ValueError:
        raise UserError(
            f"wavelet={wavelet!r} is not a discrete PyWavelets family: use one of pywt.wavelist(kind='discrete')."
        ) from None
    return (bank.dec_lo, bank.dec_hi) if side == "analysis" else (bank.rec_lo, bank.rec_hi)


def _known(mode: str) -> None:
    if mode not in get_args(Mode):
        raise UserError(f"mode={mode!r} is not one of PyWavelets': use one of {', '.join(get_args(Mode))}.")


def _analyse(x: Tensor, taps: list[float], axis: int, mode: Mode) -> Tensor:
    """Filter one axis and keep every second sample: y[k] = Σ_j taps[j] x[2k + 1 - j], with x extended by `mode`.

    periodization extends an odd length by its last sample, and is centred: y[k] = Σ_j taps[j] x[2k + F/2 - j].
    """
    x = x.movedim(axis, -1)
    n_taps = len(taps)
    if mode == "periodization":
        x = torch.cat([x, x[..., -1:]], -1) if x.shape[-1] % 2 else x
        kept = x.shape[-1] // 2
        before, after = n_taps // 2 - 1, n_taps // 2
    else:
        kept = (x.shape[-1] + n_taps - 1) // 2
        before, after = n_taps - 2, 2 * kept - x.shape[-1]
    x = _extended(x, before, after, mode)
    if n_taps == 2:  # Haar: a sum of two slices, in the order in which the filter adds them
        y = torch.add(taps[1] * x[..., 0 : 2 * kept : 2], x[..., 1 : 2 * kept : 2], alpha=taps[0])
    else:
        y = F.conv1d(x.reshape(-1, 1, x.shape[-1]), x.new_tensor(taps[::-1]).view(1, 1, -1), stride=2)[..., :kept]
        y = y.reshape(*x.shape[:-1], kept)
    return y.movedim(-1, axis)


def _extended(x: Tensor, before: int, after: int, mode: Mode) -> Tensor:
    """The last axis with samples before and after it."""
    length = x.shape[-1]
    if before == after == 0:
        return x
    if mode == "zero":
        return F.pad(x, (before, after))
    if mode in ("reflect", "antireflect") and length == 1:
        raise UserError(f"mode={mode} cannot extend a side of one pixel: use mode=symmetric, or a smaller level.")
    if mode == "smooth" and length == 1:  # no slope to go on with
        mode = "constant"
    if mode in _COPIES:
        index = np.pad(np.arange(length), (before, after), mode=_COPIES[mode])  # type: ignore[call-overload]
        return x[..., torch.from_numpy(index).to(x.device)]
    # The others are linear in the samples: PyWavelets' extensions of the unit vectors say how.
    return x @ x.new_tensor(np.stack([pywt.pad(unit, (before, after), mode) for unit in np.eye(length)]))


def _synthesise(y: Tensor, taps: list[float], axis: int, mode: Mode) -> Tensor:
    """Insert zeros between samples, filter, and drop the n_taps - 2 samples at each end that come from extension; under
    periodization, add them to the other end instead."""
    y = y.movedim(axis, -1)
    n_taps, length = len(taps), 2 * y.shape[-1]
    if n_taps == 2:  # Haar: each sample gives two
        x = torch.stack([taps[0] * y, taps[1] * y], -1).flatten(-2)
    else:
        x = F.conv_transpose1d(y.reshape(-1, 1, y.shape[-1]), y.new_tensor(taps).view(1, 1, -1), stride=2)
        x = x.reshape(*y.shape[:-1], x.shape[-1])
        if mode == "periodization":
            place = (torch.arange(x.shape[-1], device=x.device) - (n_taps // 2 - 1)) % length
            x = x.new_zeros(*x.shape[:-1], length).index_add(-1, place, x)
        else:
            x = x[..., n_taps - 2 : x.shape[-1] - (n_taps - 2)]
    return x.movedim(-1, axis)

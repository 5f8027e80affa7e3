"""Class means under differential privacy: one Gaussian release from which a fit can start.

    B  records   K  classes   D = C h w  pixels of an image   n  records of a class   z  noise multiplier

For every class, the vector [sum of (x - 1/2), w n] of D + 1 numbers is released with noise; the mean image is computed
from it. Centring halves the largest norm of an image.

Joint sensitivity. A record enters the vector of one class only, as [x - 1/2, w] with |x - 1/2| <= √D / 2, so adding or
removing it changes all K (D + 1) numbers together by at most √(D/4 + w²) in L2 norm. A black and white image attains
this bound.

The weight w. With noise of z √(D/4 + w²) on every number, a pixel of mean m has variance, to first order in 1 / n,

    (z / n)² (D/4 + w²) (1 + (m - 1/2)² / w²),

where the second term comes from the noisy count. For the worst m (0 or 1) it is smallest at w² = √D / 4. There it is
(1 + 1 / √D)² times the variance for a known count, (z / n)² D / 4: a standard deviation larger by 25 % at 4 x 4 pixels
and by 7 % at 14 x 14.

Formal guarantee. `class_means` is the Gaussian mechanism with noise multiplier z, Mechanism(1, z, 1), under
`add_or_remove_one`, for any images and labels that it accepts; everything computed from the noisy totals is
post-processing. It assumes a secret seed, real numbers and public C, h, w, K, as the private fit does
(privacy.training). Its noise is seeded by the fingerprint of the release: z, K and the records. Running the release
again gives the same bits; two releases that differ in any of these (z follows from epsilon) share no noise.

    case                                 result
    a class without records              noise / max(noisy count, 1): meaningless pixels, but in [0, 1]
    no records at all                    the same for every class
    z = 0 (epsilon = inf)                the exact means, 1/2 for a class without records
    a pixel outside [0, 1] by rounding   clipped before it is summed
    a pixel further out, or not finite   UserError, and nothing is released
    a label outside 0..K-1               UserError, and nothing is released
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wavedp.errors import UserError
from wavedp.privacy.checkpoint import digest
from wavedp.privacy.clipping import noisy_mean
from wavedp.privacy.training import release_id
from wavedp.seeds import derive_seed


def class_means(images: Tensor, labels: Tensor, n_classes: int, *, noise_multiplier: float, seed: int) -> Tensor:
    """The mean image of every class, K C h w float32 in [0, 1]; see the module for the guarantee.

    images: B C h w float in [0, 1], on any device. labels: B int64 in 0..K-1. noise_multiplier: z >= 0, noise standard
    deviation / sensitivity. seed: secret, as in fit_private.
    """
    totals = class_totals(images, labels, n_classes)
    release = means_release(images, labels, n_classes, noise_multiplier)
    noise = torch.Generator().manual_seed(derive_seed(seed, "class_means", release))
    n_pixels = totals.shape[1] - 1
    (noisy,) = noisy_mean([totals], noise_multiplier, sensitivity(n_pixels), 1, noise)
    counts = (noisy[:, -1:] / count_weight(n_pixels)).clamp(min=1)  # K 1
    means = (noisy[:, :-1] / counts + 0.5).clamp(0, 1)
    return means.reshape(n_classes, *images.shape[1:]).float()


def means_release(images: Tensor, labels: Tensor, n_classes: int, noise_multiplier: float) -> str:
    """SHA-256 id of the release of these class means, in the seed of its noise and in the ledger."""
    return release_id(
        {
            "noise_multiplier": noise_multiplier,
            "n_classes": n_classes,
            "records": digest([("images", images), ("labels", labels)]),
        }
    )


def class_totals(images: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """[sum of (x - 1/2), w n] of every class without noise, K (D+1) float64 on the CPU. Raises UserError."""
    if images.ndim != 4 or labels.shape != images.shape[:1]:
        raise UserError(
            f"Images of shape {tuple(images.shape)} and labels of shape {tuple(labels.shape)} do not match: "
            f"give B C h w and B."
        )
    pixels = images.detach().cpu().flatten(1).double()  # B D
    if not ((pixels > -1e-3) & (pixels < 1 + 1e-3)).all():
        raise UserError("A pixel is out of [0, 1] or not finite, so no noise would hide it: scale the images first.")
    if not ((labels >= 0) & (labels < n_classes)).all():
        raise UserError(f"A label is out of 0..{n_classes - 1}: give n_classes as many classes as there are.")
    weight = torch.full((len(pixels), 1), count_weight(pixels.shape[1]), dtype=torch.float64)
    totals = torch.zeros(n_classes, pixels.shape[1] + 1, dtype=torch.float64)
    return totals.index_add_(0, labels.detach().cpu(), torch.cat([pixels.clamp(0, 1) - 0.5, weight], dim=1))


def sensitivity(n_pixels: int) -> float:
    """√(D/4 + w²), the most that one record changes the totals of all classes together, in L2 norm."""
    return math.sqrt(n_pixels / 4 + count_weight(n_pixels) ** 2)


def count_weight(n_pixels: int) -> float:
    """The weight w = D^(1/4) / 2; see the module."""
    return n_pixels**0.25 / 2

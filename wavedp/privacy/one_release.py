"""Sums over the records, released once with Gaussian noise: all that a generator of one release ever sees of them.

    B  records   K  classes   D = C h w  numbers of an image   P  released numbers of a class
    Δ  L2 sensitivity of all K P numbers together   z  noise multiplier: noise standard deviation / Δ

A statistic maps one record to P numbers, which are added to the row of its class. Adding or removing a record changes
one row, by the statistic of that record: Δ is the largest norm that a statistic can have, for any number of classes.
That is parallel composition: the classes' rows are functions of disjoint sets of records, so that K releases with noise
zΔ cost what one does.

Formal guarantee. `release` is the Gaussian mechanism with noise multiplier z, Mechanism(1, z, 1), under
`add_or_remove_one`, if no record's statistic has a norm above `sensitivity`, which is the caller's to prove. Everything
computed from its output and from public numbers is post-processing. It assumes a secret seed (or source="secure"), real
numbers, and public z, Δ and shapes. The number of records of a class is private: whoever divides by it must take it
from the noisy totals, or give it a sensitivity of its own.

Seeded noise belongs to a release, as in wavedp.privacy.training: its generator is seeded by the fingerprint of the
release, `about` and the records. The same release again is bit-equal; two that differ in anything share no noise.

    case                                 result
    a class without records              noise alone
    z = 0 (epsilon = inf)                the exact totals
    a pixel outside [0, 1] by rounding   clipped before it is summed
    a pixel further out, or not finite   UserError, and nothing is released
    a label outside 0..K-1               UserError, and nothing is released
    sentence embeddings for labels       UserError, and nothing is released
    source = secure, and run again       other noise and another id: another release. Nothing was shown of one whose
                                         process died before it was published
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from wavedp.errors import UserError
from wavedp.privacy.checkpoint import digest
from wavedp.privacy.clipping import noisy_mean
from wavedp.privacy.randomness import Generator, SecureGenerator
from wavedp.privacy.training import release_id
from wavedp.seeds import derive_seed

AT_ONCE = 2048
"""Records whose statistics are in memory at a time."""


def checked(images: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Pixels B D float32 in [0, 1] and labels B int64, on the CPU, of images B C h w and labels B. Raises UserError for
    what the table above refuses."""
    if images.ndim != 4 or labels.shape != images.shape[:1] or labels.is_floating_point():
        raise UserError(
            f"Images of shape {tuple(images.shape)} and conditions of shape {tuple(labels.shape)}, {labels.dtype}, are "
            "not B C h w and B whole numbers: a release by classes needs one label for each image."
        )
    pixels = images.detach().cpu().flatten(1).float()
    if not ((pixels > -1e-3) & (pixels < 1 + 1e-3)).all():
        raise UserError("A pixel is out of [0, 1] or not finite, so no noise would hide it: scale the images first.")
    if not ((labels >= 0) & (labels < n_classes)).all():
        raise UserError(f"A label is out of 0..{n_classes - 1}: give n_classes as many classes as there are.")
    return pixels.clamp(0, 1), labels.detach().cpu().long()


def class_totals(pixels: Tensor, labels: Tensor, n_classes: int, summed: Callable[[Tensor], Tensor]) -> Tensor:
    """The sum of each class's statistics without noise, K P float64. pixels, labels: as `checked` gives them. summed:
    from pixels b D of some records of one class to the sum of their statistics, P; zeros from no records."""
    rows = []
    for label in range(n_classes):
        own = pixels[labels == label]
        parts = [summed(part).double().cpu() for part in own.split(AT_ONCE)]
        rows.append(torch.stack(parts).sum(0))
    return torch.stack(rows)


def release(
    totals: Tensor,
    records: tuple[Tensor, Tensor],
    about: dict[str, Any],
    *,
    sensitivity: float,
    noise_multiplier: float,
    seed: int,
    source: Literal["seeded", "secure"] = "seeded",
) -> tuple[Tensor, str]:
    """The totals plus N(0, (zΔ)²) on every number, and the id of the release for the ledger; see the module.

    totals: float64 on the CPU. records: the pixels and labels that they were made of. about: JSON values of everything
    else that they depend on, such as the name of the statistic. sensitivity: Δ > 0. noise_multiplier: z >= 0. seed:
    secret, as in fit_private.
    """
    fingerprint = {
        **about,
        "sensitivity": sensitivity,
        "noise_multiplier": noise_multiplier,
        "seed": derive_seed(seed, "fingerprint"),
        "records": digest([("pixels", records[0]), ("labels", records[1])]),
    }
    identity = release_id(fingerprint)
    noise: Generator
    if source == "secure":
        noise = SecureGenerator()
        identity = release_id({"release": identity, "noise": noise.name()})
    else:
        noise = torch.Generator().manual_seed(derive_seed(seed, "one release", identity))
    (noisy,) = noisy_mean([totals], noise_multiplier, sensitivity, 1, noise)
    return noisy, identity

"""Views: augmented copies of an image, averaged within the record's loss before clipping, at no cost in ε.

An image with all its views is one record (the first law of the ledger); a view never counts as a record of its own.
Source: augmentation multiplicity of De et al. (2022, arXiv 2204.13650), which averages in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wavedp.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SHIFTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
MOST = 2 * len(SHIFTS)


def view(images: Tensor, number: int) -> Tensor:
    """Return view `number` of images B C h w: 0 the image, 1 its mirror image, 2 to 9 both of them shifted by one pixel
    down, up, right and left, edges repeated. Raises UserError for 10 and above."""
    if not 0 <= number < MOST:
        raise UserError(f"privacy.views={number + 1} is more than there are: use 1 to {MOST}.")
    import torch  # which checks do without

    down, right = SHIFTS[number // 2]
    if down or right:
        rows, columns = (
            (torch.arange(side, device=images.device) - step).clamp(0, side - 1)
            for side, step in zip(images.shape[-2:], (down, right), strict=True)
        )
        images = images[..., rows, :][..., columns]
    return images.flip(-1) if number % 2 else images

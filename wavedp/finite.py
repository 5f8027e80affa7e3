"""What a diverged model makes is refused where it would be used: NaN becomes a black pixel or a code like any other."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wavedp.errors import UserError


def require_finite(tensors: Mapping[str, Tensor], what: str, remedy: str) -> None:
    """Raises UserError if a number of the tensors, which are `what`, is NaN or infinite.

    All are on one device, which is waited for once.
    """
    numbers = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    if not numbers or torch.stack([tensor.isfinite().all() for tensor in numbers.values()]).all():
        return
    name, tensor = next((name, tensor) for name, tensor in numbers.items() if not tensor.isfinite().all())
    wrong = int((~tensor.isfinite()).sum())
    raise UserError(f"{what} are not finite ({wrong} of {tensor.numel()} numbers of {name}): {remedy}.")

"""Matrix products whose result is float32, of factors that may be bfloat16: what norms and clipped sums are made of.

    n  matrices, each b m k and b k p   f  factors of the records, float32

A product of two bfloat16 numbers is exact in float32, and all sums here are taken in float32. So a norm is that of the
gradient that the rounded factors make, to float32 rounding, whatever was rounded before.

    case                               how
    float32                            torch's product, without TF32 (the caller sees to it: wavedp.full_precision)
    bfloat16 on CUDA                   the tensor cores' product with a float32 result: no float32 copy of a factor
    bfloat16 on a CPU                  of float32 copies, because a CPU's product of bfloat16 rounds its result
    f g, where g is bfloat16, on CUDA  as the sum of two bfloat16 tensors, the rounded one and the rest: 16 bits of f g
                                       are kept, so that what is summed is what was measured, to 2^-17 of each term
"""

from __future__ import annotations

import torch
from torch import Tensor


def product(a: Tensor, b: Tensor) -> Tensor:
    """n m k @ n k p -> n m p in float32; factors of one dtype, float32 (or more: that dtype) or bfloat16."""
    if a.dtype != torch.bfloat16:
        return a @ b
    if a.device.type == "cuda":
        return torch.bmm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def weighted_product(f: Tensor, g: Tensor, a: Tensor) -> Tensor:
    """Σ_i f_i g_iᵀ a_i -> p d, of g n t p and a n t d; f: n."""
    weighted = f[:, None, None] * g  # float32
    if g.dtype != torch.bfloat16 or g.device.type != "cuda":
        return weighted.flatten(0, 1).T @ wide(a).flatten(0, 1)
    large = weighted.to(g.dtype)
    small = (weighted - large).to(g.dtype)
    flat = a.flatten(0, 1)
    parts = (torch.mm(part.flatten(0, 1).T, flat, out_dtype=torch.float32) for part in (large, small))
    return next(parts).add_(next(parts))


def wide(tensor: Tensor) -> Tensor:
    """A floating-point tensor in float32 or more; ids unchanged."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)) if tensor.is_floating_point() else tensor

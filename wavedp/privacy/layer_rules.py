"""One rule for each type of layer: per-record gradients from the layer's inputs and the gradients by its outputs.

    b  records   c  copies of a record in a call (views, noises)   T  positions of a record, over all calls and copies
    d  width in   p  width out   a  b T d, inputs   g  b T p, gradients by outputs   f  b, clipping factors
    V D  an embedding's table   C H W  images, or C L and C D H W

A rule takes the layer and, for each of its calls, an input and a gradient whose first dimensions are b and c, in
bfloat16, float32 or more. It returns a Split for each trained parameter, whose norms and sums are float32 or more
(wavedp.privacy.products). Weights are split in one of two ways. Direct: the
gradients of all records are computed, and kept for the sum. Gram: |Σ_t g_t a_tᵀ|² = Σ_ts (a_t·a_s)(g_t·g_s)
(Goodfellow, arXiv 1510.01799; Li et al., arXiv 2110.05679), and the sum is one contraction of f g with a. Where the
many terms of a record nearly cancel, the Gram square is off by about 1e-7 (Σ_t |a_t||g_t|)², a direct norm by 1e-7 of
itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight, conv3d_weight

from wavedp.privacy.products import product, weighted_product, wide

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


@dataclass(frozen=True)
class Split:
    """One parameter's gradient by record. norms: b. weighted: f b -> Σ_i f_i gradient_i, in the parameter's shape."""

    norms: Tensor
    weighted: Callable[[Tensor], Tensor]


def _linear(layer: nn.Linear, inputs: list[Tensor], gradients: list[Tensor]) -> dict[str, Split]:
    g = _joined(gradients)  # b T p
    split = {}
    if _trained(layer.bias):
        split["bias"] = _direct(_sum(g, 1))
    if _trained(layer.weight):
        a = _seen(_joined(inputs), g)  # b T d
        if _gram_pays(a.shape[1], a.shape[2], g.shape[2], g.device.type):
            split["weight"] = Split(_gram_norms(a, g), lambda f: weighted_product(f, g, a))
        else:
            transposed = _direct(product(a.mT, g))  # b d p: products of small matrices are fastest in this order
            split["weight"] = Split(transposed.norms, lambda f: transposed.weighted(f).T)
    return split


def _convolution(layer: Convolution, inputs: list[Tensor], gradients: list[Tensor]) -> dict[str, Split]:
    """A transposed convolution y = Aᵀx is the adjoint of the convolution A with its weight: ⟨g, Aᵀx⟩ = ⟨Ag, x⟩, so that
    its weight's gradient is that of A for the input g and the gradient x."""
    split = {}
    if _trained(layer.bias):
        split["bias"] = _direct(_total(_sum(_sum(g.flatten(3), 3), 1) for g in gradients))
    if not _trained(layer.weight):
        return split
    b = len(gradients[0])
    inputs = [_seen(a, g).flatten(0, 1) for a, g in zip(inputs, gradients, strict=True)]
    gradients = [g.flatten(0, 1) for g in gradients]
    kernel, stride, dilation, padding = layer.kernel_size, layer.stride, layer.dilation, layer.padding
    if layer.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        inputs = [F.pad(a, layer._reversed_padding_repeated_twice, mode) for a in inputs]
        padding = (0,) * len(kernel)
    if len(kernel) == 1:  # treated as images one pixel high
        inputs, gradients = [a.unsqueeze(2) for a in inputs], [g.unsqueeze(2) for g in gradients]
        kernel, stride, dilation, padding = (1, *kernel), (1, *stride), (1, *dilation), (0, *padding)
    if layer.transposed:
        inputs, gradients = gradients, inputs
        whole = [_positions(a.shape[2:], kernel, stride, dilation, padding) for a in inputs]
        gradients = [_filled(g, size) for g, size in zip(gradients, whole, strict=True)]  # output_padding
    groups = layer.groups
    out, width = len(layer.weight) // groups, layer.weight[0].numel()  # of one group
    shape = (*layer.weight.shape[:2], *kernel)
    pointwise = set(kernel) == {1} and set(stride) == {1} and set(padding) == {0}
    weight_gradient = conv3d_weight if len(kernel) == 3 else conv2d_weight

    def of_records(rows: Tensor, size: int) -> Tensor:  # bc (groups size) T -> b·groups size cT
        apart = rows.reshape(b, -1, groups, size, math.prod(rows.shape[2:])).permute(0, 2, 3, 1, 4)
        return apart.reshape(b * groups, size, -1)

    def windows(a: Tensor) -> Tensor:  # the kernel's input at each position: bc C H W -> b·groups width cT
        if pointwise:
            return of_records(a, width)
        unfolded = F.unfold if len(kernel) == 2 else _unfold
        return of_records(unfolded(a, kernel, dilation, padding, stride), width)

    def total(inputs: list[Tensor], gradients: list[Tensor], shape: tuple[int, ...], groups: int) -> Tensor:
        pairs = zip(inputs, gradients, strict=True)
        return _total(weight_gradient(wide(a), shape, wide(g), stride, padding, dilation, groups) for a, g in pairs)

    rows = [of_records(g.flatten(2), out) for g in gradients]
    if _gram_pays(sum(g.shape[2] for g in rows), width, out, rows[0].device.type):
        a, g = torch.cat([windows(a) for a in inputs], 2), torch.cat(rows, 2)
        norms = _gram_norms(a.mT, g.mT).view(b, groups).norm(dim=1)

        def weighted(f: Tensor) -> Tensor:
            of_copies = [f.repeat_interleave(len(g) // b).view(-1, *[1] * (g.ndim - 1)) for g in gradients]
            shares = [factors * g for factors, g in zip(of_copies, gradients, strict=True)]
            return total(inputs, shares, shape, groups).view_as(layer.weight)

        split["weight"] = Split(norms, weighted)
        return split
    if pointwise or _windows_pay(rows[0].device.type):
        each = _total(product(g, windows(a).mT) for a, g in zip(inputs, rows, strict=True))
    else:  # images whose channels are those of all records, grouped by record: gradients stay apart

        def beside(rows: Tensor) -> Tensor:  # bc C H W -> c bC H W
            return rows.unflatten(0, (b, -1)).transpose(0, 1).flatten(1, 2)

        many = (b * shape[0], *shape[1:])
        each = total([beside(a) for a in inputs], [beside(g) for g in gradients], many, b * groups)
    split["weight"] = _direct(each.view(b, *layer.weight.shape))
    return split


def _embedding(layer: nn.Embedding, inputs: list[Tensor], gradients: list[Tensor]) -> dict[str, Split]:
    """Adds up a record's positions that look up the same row, so that no tensor of b V D is needed."""
    ids = _joined([item.unsqueeze(-1) for item in inputs]).squeeze(-1).long()  # b T
    g = wide(_joined(gradients)).flatten(0, 1)  # bT D
    b, rows = len(ids), layer.num_embeddings
    pairs = (torch.arange(b, device=ids.device)[:, None] * rows + ids).flatten()  # (record, row) as one number
    if layer.padding_idx is not None:
        kept = ids.flatten() != layer.padding_idx
        pairs, g = pairs[kept], g[kept]
    pairs, place = pairs.unique(return_inverse=True)
    record, row = pairs // rows, pairs % rows
    merged = g.new_zeros(len(pairs), g.shape[1]).index_add_(0, place, g)  # a row for each (record, row) pair
    norms = g.new_zeros(b).index_add_(0, record, merged.square().sum(1)).sqrt()
    shape = layer.weight.shape
    return {"weight": Split(norms, lambda f: g.new_zeros(shape).index_add_(0, row, f[record, None] * merged))}


def _normalization(
    layer: nn.LayerNorm | nn.RMSNorm | nn.GroupNorm, inputs: list[Tensor], gradients: list[Tensor]
) -> dict[str, Split]:
    b, split = len(inputs[0]), {}
    inputs, gradients = [wide(a) for a in inputs], [wide(g) for g in gradients]
    if isinstance(layer, nn.GroupNorm):
        normalized = [F.group_norm(a.flatten(0, 1), layer.num_groups, eps=layer.eps).view_as(a) for a in inputs]
        apart: tuple[int, ...] = (b, -1, layer.num_channels, math.prod(inputs[0].shape[3:]))
        positions: tuple[int, ...] = (3, 1)
    else:
        normalize: Callable[..., Tensor] = F.rms_norm if isinstance(layer, nn.RMSNorm) else F.layer_norm
        normalized = [normalize(a, layer.normalized_shape, eps=layer.eps) for a in inputs]
        apart = (b, -1, *layer.normalized_shape)
        positions = (1,)

    def over_positions(each: Tensor) -> Tensor:
        return reduce(_sum, positions, each.reshape(apart))

    if _trained(layer.weight):
        pairs = zip(normalized, gradients, strict=True)
        split["weight"] = _direct(_total(over_positions(a * g) for a, g in pairs))
    if _trained(getattr(layer, "bias", None)):
        split["bias"] = _direct(_total(over_positions(g) for g in gradients))
    return split


RULES: dict[type[nn.Module], Callable[[Any, list[Tensor], list[Tensor]], dict[str, Split]]] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.ConvTranspose1d: _convolution,
    nn.ConvTranspose2d: _convolution,
    nn.ConvTranspose3d: _convolution,
    nn.Embedding: _embedding,
    nn.LayerNorm: _normalization,
    nn.RMSNorm: _normalization,
    nn.GroupNorm: _normalization,
}
"""(layer, inputs, gradients by outputs; one of each for every call) -> a Split for each trained parameter."""


def least_dimensions(layer: nn.Module) -> int:
    """Fewest dimensions of an input with the record dimension, before copies are set apart; most layers take
    fewer for a single record."""
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        return 1 + len(layer.normalized_shape)
    if isinstance(layer, Convolution):
        return 2 + len(layer.kernel_size)
    return 1 if isinstance(layer, nn.Embedding) else 2


def _direct(gradients: Tensor) -> Split:
    """The Split of explicit gradients, b ..., one for each record."""
    flat = gradients.flatten(1)
    return Split(flat.norm(dim=1), lambda f: (flat.T @ f).view(gradients.shape[1:]))


def _gram_pays(positions: int, width: int, out: int, device: str = "cpu") -> bool:
    """True if Gram matrices, at a cost of T²(d + p), cost under a quarter of the T d p that the sum costs anyway.

    Otherwise the gradients of all records, b d p numbers, are computed and kept for the sum: at most four times the
    b T (d + p) numbers that are recorded of the layer anyway. On CUDA, where arithmetic is cheap and memory is not,
    True if two Gram matrices of T² numbers take less room than those gradients.
    """
    if device == "cuda":
        return 2 * positions**2 < width * out
    return 4 * positions * (width + out) < width * out


def _positions(
    sides: Iterable[int],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    padding: tuple[int, ...],
) -> list[int]:
    """Sides of what a convolution makes of an image with these sides."""
    each = zip(sides, kernel, stride, dilation, padding, strict=True)
    return [(side + 2 * p - d * (k - 1) - 1) // s + 1 for side, k, s, d, p in each]


def _filled(images: Tensor, sides: list[int]) -> Tensor:
    """The images with zeros after them, up to these sides."""
    missing = [side - had for side, had in zip(sides, images.shape[2:], strict=True)]
    return F.pad(images, [n for each in reversed(missing) for n in (0, each)]) if any(missing) else images


def _unfold(
    images: Tensor,
    kernel: tuple[int, ...],
    dilation: tuple[int, ...],
    padding: tuple[int, ...],
    stride: tuple[int, ...],
) -> Tensor:
    """torch's `unfold` for images of any number of dimensions: n C ... -> n C·kernel positions."""
    windows = F.pad(images, [p for each in reversed(padding) for p in (each, each)])
    for axis, (k, d, s) in enumerate(zip(kernel, dilation, stride, strict=True)):
        windows = windows.unfold(2 + axis, d * (k - 1) + 1, s)[..., ::d]
    axes = range(2, 2 + len(kernel))  # of the positions; those of the kernel follow
    order = (0, 1, *(axis + len(kernel) for axis in axes), *axes)
    return windows.permute(order).flatten(1, 1 + len(kernel)).flatten(2)


def _windows_pay(device: str) -> bool:
    """True where one batched product of a convolution's windows is faster than a convolution in as many groups as there
    are records: on CUDA, whose libraries run groups one after the other."""
    return device == "cuda"


def _gram_norms(a: Tensor, g: Tensor) -> Tensor:
    """|Σ_t g_t a_tᵀ| = sqrt(Σ_ts (a_t·a_s)(g_t·g_s)): b T d, b T p -> b."""
    return (product(a, a.mT) * product(g, g.mT)).sum((1, 2)).clamp(min=0).sqrt()


def _trained(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.requires_grad


def _seen(inputs: Tensor, gradients: Tensor) -> Tensor:
    """The inputs as the layer saw them: autocast rounds those of a layer whose output is bfloat16."""
    return inputs.to(gradients.dtype) if inputs.dtype != gradients.dtype else inputs


def _sum(tensor: Tensor, dimension: int) -> Tensor:
    """The sum over a dimension, in float32 or more."""
    return tensor.sum(dimension, dtype=torch.promote_types(tensor.dtype, torch.float32))


def _joined(parts: list[Tensor]) -> Tensor:
    """The positions of all calls, b ... d each -> b T d."""
    flat = [part.reshape(len(part), -1, part.shape[-1]) for part in parts]
    return flat[0] if len(flat) == 1 else torch.cat(flat, 1)


def _total(parts: Iterable[Tensor]) -> Tensor:
    """Their sum, computed in place in the first."""
    return reduce(Tensor.add_, parts)

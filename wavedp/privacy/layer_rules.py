"""One rule for each type of layer: per-record gradients from the layer's inputs and the gradients by its outputs.

    b  records   T  positions of a record, over all calls of a layer   d  width in   p  width out   a  b T d, inputs
    g  b T p, gradients by outputs   f  b, clipping factors   V D  an embedding's table   C H W  images

A rule takes the layer and, for each of its calls, an input and a gradient, in float32 or more and with the record
dimension first. It returns a Split for each trained parameter. Weights are split in one of two ways. Direct: the
gradients of all records are computed, and kept for the sum. Gram: |Σ_t g_t a_tᵀ|² = Σ_ts (a_t·a_s)(g_t·g_s)
(Goodfellow, arXiv 1510.01799; Li et al., arXiv 2110.05679), and the sum is one contraction of f g with a. Where the
many terms of a record nearly cancel, the Gram square is off by about 1e-7 (Σ_t |a_t||g_t|)², a direct norm by 1e-7 of
itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight


@dataclass(frozen=True)
class Split:
    """One parameter's gradient by record. norms: b. weighted: f b -> Σ_i f_i gradient_i, in the parameter's shape."""

    norms: Tensor
    weighted: Callable[[Tensor], Tensor]


def _linear(layer: nn.Linear, inputs: list[Tensor], gradients: list[Tensor]) -> dict[str, Split]:
    g = _joined(gradients)  # b T p
    split = {}
    if _trained(layer.bias):
        split["bias"] = _direct(g.sum(1))
    if _trained(layer.weight):
        a = _joined(inputs)  # b T d
        if _gram_pays(a.shape[1], a.shape[2], g.shape[2]):
            split["weight"] = Split(
                _gram_norms(a, g), lambda f: (f[:, None, None] * g).flatten(0, 1).T @ a.flatten(0, 1)
            )
        else:
            transposed = _direct(a.mT @ g)  # b d p: products of small matrices are fastest in this order
            split["weight"] = Split(transposed.norms, lambda f: transposed.weighted(f).T)
    return split


def _convolution(layer: nn.Conv1d | nn.Conv2d, inputs: list[Tensor], gradients: list[Tensor]) -> dict[str, Split]:
    split = {}
    if _trained(layer.bias):
        split["bias"] = _direct(_total(g.flatten(2).sum(2) for g in gradients))
    if not _trained(layer.weight):
        return split
    kernel, stride, dilation, padding = layer.kernel_size, layer.stride, layer.dilation, layer.padding
    if layer.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        inputs = [F.pad(a, layer._reversed_padding_repeated_twice, mode) for a in inputs]
        padding = (0,) * len(kernel)
    if isinstance(layer, nn.Conv1d):  # treated as images one pixel high
        inputs, gradients = [a.unsqueeze(2) for a in inputs], [g.unsqueeze(2) for g in gradients]
        kernel, stride, dilation, padding = (1, *kernel), (1, *stride), (1, *dilation), (0, *padding)
    b, groups = len(inputs[0]), layer.groups
    out, width = layer.out_channels // groups, layer.weight[0].numel()  # of one group
    shape = (layer.out_channels, layer.in_channels // groups, *kernel)
    pointwise = (kernel, stride, padding) == ((1, 1), (1, 1), (0, 0))

    def windows(a: Tensor) -> Tensor:  # the kernel's input at each position: b C H W -> b·groups width T
        seen = a if pointwise else F.unfold(a, kernel, dilation, padding, stride)
        return seen.reshape(b * groups, width, -1)

    def total(gradients: list[Tensor], shape: tuple[int, ...], groups: int) -> Tensor:
        pairs = zip(inputs, gradients, strict=True)
        views = ((a.reshape(len(g), -1, *a.shape[2:]), g) for a, g in pairs)
        return _total(conv2d_weight(a, shape, g, stride, padding, dilation, groups) for a, g in views)

    rows = [g.reshape(b * groups, out, -1) for g in gradients]
    if _gram_pays(sum(g.shape[2] for g in rows), width, out):
        a, g = torch.cat([windows(a) for a in inputs], 2), torch.cat(rows, 2)
        norms = _gram_norms(a.mT, g.mT).view(b, groups).norm(dim=1)
        split["weight"] = Split(
            norms,
            lambda f: total([f.view(-1, 1, 1, 1) * g for g in gradients], shape, groups).view_as(layer.weight),
        )
        return split
    if pointwise:
        each = _total(g @ windows(a).mT for a, g in zip(inputs, rows, strict=True))
    else:  # one image whose channels are those of all records, grouped by record: gradients stay apart
        side_by_side = [g.reshape(1, -1, *g.shape[2:]) for g in gradients]
        each = total(side_by_side, (b * shape[0], *shape[1:]), b * groups)
    split["weight"] = _direct(each.view(b, *layer.weight.shape))
    return split


def _embedding(layer: nn.Embedding, inputs: list[Tensor], gradients: list[Tensor]) -> dict[str, Split]:
    """Adds up a record's positions that look up the same row, so that no tensor of b V D is needed."""
    ids = _joined([item.unsqueeze(-1) for item in inputs]).squeeze(-1).long()  # b T
    g = _joined(gradients).flatten(0, 1)  # bT D
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
    if isinstance(layer, nn.GroupNorm):
        normalized = [F.group_norm(a, layer.num_groups, eps=layer.eps) for a in inputs]
        apart: tuple[int, ...] = (b, layer.num_channels, -1)
        positions = 2
    else:
        normalize: Callable[..., Tensor] = F.rms_norm if isinstance(layer, nn.RMSNorm) else F.layer_norm
        normalized = [normalize(a, layer.normalized_shape, eps=layer.eps) for a in inputs]
        apart = (b, -1, *layer.normalized_shape)
        positions = 1
    if _trained(layer.weight):
        pairs = zip(normalized, gradients, strict=True)
        split["weight"] = _direct(_total((a * g).reshape(apart).sum(positions) for a, g in pairs))
    if _trained(getattr(layer, "bias", None)):
        split["bias"] = _direct(_total(g.reshape(apart).sum(positions) for g in gradients))
    return split


RULES: dict[type[nn.Module], Callable[[Any, list[Tensor], list[Tensor]], dict[str, Split]]] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Embedding: _embedding,
    nn.LayerNorm: _normalization,
    nn.RMSNorm: _normalization,
    nn.GroupNorm: _normalization,
}
"""(layer, inputs, gradients by outputs; one of each for every call) -> a Split for each trained parameter."""


def least_dimensions(layer: nn.Module) -> int:
    """Fewest dimensions of an input with the record dimension; most layers take fewer for a single record."""
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        return 1 + len(layer.normalized_shape)
    return {nn.Embedding: 1, nn.Conv1d: 3, nn.Conv2d: 4}.get(type(layer), 2)


def _direct(gradients: Tensor) -> Split:
    """The Split of explicit gradients, b ..., one for each record."""
    flat = gradients.flatten(1)
    return Split(flat.norm(dim=1), lambda f: (flat.T @ f).view(gradients.shape[1:]))


def _gram_pays(positions: int, width: int, out: int) -> bool:
    """True if Gram matrices, at a cost of T²(d + p), cost under a quarter of the T d p that the sum costs anyway.

    Otherwise the gradients of all records, b d p numbers, are computed and kept for the sum: at most four times the
    b T (d + p) numbers that are recorded of the layer anyway.
    """
    return 4 * positions * (width + out) < width * out


def _gram_norms(a: Tensor, g: Tensor) -> Tensor:
    """|Σ_t g_t a_tᵀ| = sqrt(Σ_ts (a_t·a_s)(g_t·g_s)): b T d, b T p -> b."""
    return ((a @ a.mT) * (g @ g.mT)).sum((1, 2)).clamp(min=0).sqrt()


def _trained(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.requires_grad


def _joined(parts: list[Tensor]) -> Tensor:
    """The positions of all calls, b ... d each -> b T d."""
    flat = [part.reshape(len(part), -1, part.shape[-1]) for part in parts]
    return flat[0] if len(flat) == 1 else torch.cat(flat, 1)


def _total(parts: Iterable[Tensor]) -> Tensor:
    """Their sum, computed in place in the first."""
    return reduce(Tensor.add_, parts)

"""Per-record norms and clipped sums from one forward and one backward pass, by keeping what passes through each layer.

    b  records   T  positions of a record, over all calls of a layer   d  width in   p  width out   a  b T d, inputs
    g  b T p, gradients of the losses by a layer's outputs   f  b, clipping factors   V  rows of an embedding

Source: book-keeping of Bu et al., "Differentially Private Optimization on Large Model at Small Cost" (ICML 2023,
arXiv 2210.00038), with Goodfellow's norms (arXiv 1510.01799) through Gram matrices (Li et al., arXiv 2110.05679).

A linear layer's gradient by record i is Σ_t g_it a_itᵀ. Autograd is asked for the g alone, at the edges where layers'
outputs entered the graph, so that it skips the gradients of parameters, and the step pays for them once: here.

Formal guarantee. Norms and sums are two readings of one per-record gradient, both in float32 or more, of the same
kept a and g: the sum of f times the gradients, whose norms f was computed from. Records are kept apart by the first
dimension of every a and g, which `astray` checks. Rounding: |Σ_t g_t a_tᵀ|² = Σ_ts (a_t·a_s)(g_t·g_s) through Gram
matrices is off by about 1e-7 (Σ_t |a_t||g_t|)²; a direct norm by 1e-7 of itself.

    case                                             result
    several calls of a layer for a record            one gradient: positions of all calls are joined before any norm
    a call under no_grad, or that no loss uses       adds nothing, as in autograd
    frozen layer, frozen weight of a trained bias    not kept, not computed
    embedding's padding_idx                          its row gets no gradient
    bfloat16 autocast in loss_fn                     a and g are as rounded as the losses; norms and sums are float32
    another layer with parameters of its own         UserError; also renormalising embeddings and tied parameters
    an input changed in place after its call         UserError
    torch.compile(model)                             right, but the graph breaks at every trained layer
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.grad import conv2d_weight

from wavedp.errors import UserError


@dataclass(frozen=True)
class Split:
    """One parameter's gradient, by record. norms: b. weighted: f b -> Σ_i f_i gradient_i, of the parameter's shape."""

    norms: Tensor
    weighted: Callable[[Tensor], Tensor]


class Call(NamedTuple):
    """A layer's call: its input, how often that had been changed in place, where its output entered the graph."""

    inputs: Tensor
    version: int
    output: GradientEdge


class Bookkeeping:
    """The splitter (wavedp.privacy.clipping) of `grad_sample_mode=bookkeeping`.

    parameters: the trained ones of `model`, by name. Raises UserError when one of them is in a layer without a rule, or
    in two layers.
    """

    def __init__(self, model: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
        self.layers = _layers(model)
        self.parameters = list(parameters)
        self.calls: dict[str, list[Call]] = {}
        self.splits: dict[str, Split] = {}
        self.on = False
        # First among hooks: one that changes the output must not come before ours.
        self.handles = [
            layer.register_forward_hook(partial(self._keep, name), prepend=True, with_kwargs=True)
            for name, layer in self.layers.items()
        ]

    @contextmanager
    def watching(self) -> Iterator[None]:
        self.on = True
        try:
            yield
        finally:
            self.on = False

    def astray(self, records: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for name, calls in self.calls.items():
            for call in calls:
                shape = tuple(call.inputs.shape)
                if len(shape) < _least_dimensions(self.layers[name]) or shape[0] != records:
                    yield name, shape

    def norms(self, losses: Tensor) -> dict[str, Tensor]:
        edges = [call.output for calls in self.calls.values() for call in calls]
        found = iter(torch.autograd.grad(losses.sum(), edges, allow_unused=True) if edges else ())
        gradients = {name: [next(found) for _ in calls] for name, calls in self.calls.items()}
        del found
        with torch.no_grad(), torch.autocast(losses.device.type, enabled=False):
            for name in list(gradients):
                layer, prefix = self.layers[name], f"{name}." if name else ""
                # Popped: once a layer's gradients are split, what they were made of may go.
                used = [(c, g) for c, g in zip(self.calls.pop(name), gradients.pop(name), strict=True) if g is not None]
                for call, _ in used:
                    _require_unchanged(name, call)
                if used:
                    inputs, outputs = [_full(call.inputs) for call, _ in used], [_full(g) for _, g in used]
                    split = RULES[type(layer)](layer, inputs, outputs)
                    self.splits |= {prefix + own: part for own, part in split.items()}
        return {name: part.norms for name, part in self.splits.items()}

    def sums(self, factors: Tensor) -> list[Tensor]:
        with torch.no_grad(), torch.autocast(factors.device.type, enabled=False):
            return [self.splits[name].weighted(factors) for name in self.parameters]

    def forget(self) -> None:
        self.calls.clear()
        self.splits.clear()

    def close(self) -> None:
        self.forget()
        for handle in self.handles:
            handle.remove()

    @torch.compiler.disable
    def _keep(
        self, name: str, layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor
    ) -> None:
        if self.on and output.requires_grad:
            (given,) = (*inputs, *named.values())
            self.calls.setdefault(name, []).append(Call(given.detach(), given._version, get_gradient_edge(output)))


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
            transposed = _direct(a.mT @ g)  # b d p: this way round, a product of small matrices is fastest
            split["weight"] = Split(transposed.norms, lambda f: transposed.weighted(f).T)
    return split


def _convolution(layer: nn.Conv1d | nn.Conv2d, inputs: list[Tensor], gradients: list[Tensor]) -> dict[str, Split]:
    split = {}
    if _trained(layer.bias):
        split["bias"] = _direct(_total([g.flatten(2).sum(2) for g in gradients]))
    if not _trained(layer.weight):
        return split
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    inputs = [F.pad(a, layer._reversed_padding_repeated_twice, mode) for a in inputs]
    weight, kernel, stride, dilation = layer.weight, layer.kernel_size, layer.stride, layer.dilation
    shape = weight.shape
    if isinstance(layer, nn.Conv1d):  # a convolution of images one pixel high
        inputs, gradients = [a.unsqueeze(2) for a in inputs], [g.unsqueeze(2) for g in gradients]
        weight, kernel, stride, dilation = weight.unsqueeze(2), (1, *kernel), (1, *stride), (1, *dilation)
    options = {"stride": stride, "dilation": dilation}
    b, groups = len(inputs[0]), layer.groups
    positions = sum(g.shape[2] * g.shape[3] for g in gradients)
    width, out = weight[0].numel(), len(weight) // groups  # of one group
    if _gram_pays(positions, width, out):
        windows = [F.unfold(a, kernel, dilation, 0, stride).view(b * groups, width, -1) for a in inputs]
        a, g = torch.cat(windows, 2).mT, torch.cat([g.reshape(b * groups, out, -1) for g in gradients], 2).mT
        norms = _gram_norms(a, g).view(b, groups).norm(dim=1)

        def weighted(f: Tensor) -> Tensor:
            scaled = [f.view(-1, 1, 1, 1) * g for g in gradients]
            parts = [conv2d_weight(a, weight.shape, g, groups=groups, **options) for a, g in zip(inputs, scaled)]  # noqa: B905
            return _total(parts).view(shape)

        return {**split, "weight": Split(norms, weighted)}
    # Records as groups of channels of one image: a grouped convolution's gradient is then one a record.
    records = (b * len(weight), *weight.shape[1:])
    parts = [
        conv2d_weight(_as_one(a), records, _as_one(g), groups=b * groups, **options)
        for a, g in zip(inputs, gradients, strict=True)
    ]
    return {**split, "weight": _direct(_total(parts).view(b, *shape))}


def _embedding(layer: nn.Embedding, inputs: list[Tensor], gradients: list[Tensor]) -> dict[str, Split]:
    """Positions of a record that look up the same row are one row of its gradient: b V D is never made."""
    ids = _joined([item.unsqueeze(-1) for item in inputs]).squeeze(-1).long()  # b T
    g = _joined(gradients).flatten(0, 1)  # bT D
    b, rows = len(ids), layer.num_embeddings
    pairs = (torch.arange(b, device=ids.device)[:, None] * rows + ids).flatten()  # (record, row) as one number
    if layer.padding_idx is not None:
        kept = ids.flatten() != layer.padding_idx
        pairs, g = pairs[kept], g[kept]
    pairs, place = pairs.unique(return_inverse=True)
    record, row = pairs // rows, pairs % rows
    merged = g.new_zeros(len(pairs), g.shape[1]).index_add_(0, place, g)  # a record's gradient by one row each
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
        products = [(a * g).reshape(apart).sum(positions) for a, g in zip(normalized, gradients, strict=True)]
        split["weight"] = _direct(_total(products))
    if _trained(getattr(layer, "bias", None)):
        split["bias"] = _direct(_total([g.reshape(apart).sum(positions) for g in gradients]))
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
"""(layer, inputs, gradients by outputs; one of each a call) -> its trained parameters, split by record."""


def _direct(gradients: Tensor) -> Split:
    """gradients: b ..., one of each record."""
    flat = gradients.flatten(1)
    return Split(flat.norm(dim=1), lambda f: (flat.T @ f).view(gradients.shape[1:]))


def _gram_pays(positions: int, width: int, out: int) -> bool:
    """Whether Gram matrices cost T²(d + p), less than a quarter of the T d p that the sum costs in any case.

    Otherwise the gradients of all records are made, b d p numbers, and kept for the sum: at most four times the
    b T (d + p) that were kept of the layer before.
    """
    return 4 * positions * (width + out) < width * out


def _gram_norms(a: Tensor, g: Tensor) -> Tensor:
    """|Σ_t g_t a_tᵀ| = sqrt(Σ_ts (a_t·a_s)(g_t·g_s)): b T d, b T p -> b."""
    return ((a @ a.mT) * (g @ g.mT)).sum((1, 2)).clamp(min=0).sqrt()


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers with trained parameters of their own, by name. Raises UserError for one without a rule."""
    layers, owners = {}, dict[nn.Parameter, str]()
    for name, layer in model.named_modules():
        own = [parameter for parameter in layer.parameters(recurse=False) if parameter.requires_grad]
        if not own:
            continue
        if type(layer) not in RULES or getattr(layer, "max_norm", None) or getattr(layer, "scale_grad_by_freq", False):
            raise UserError(
                f"grad_sample_mode=bookkeeping has no rule for layer {name!r}, {layer}: use grad_sample_mode=hooks."
            )
        for parameter in own:
            if parameter in owners:
                raise UserError(
                    f"Layers {owners[parameter]!r} and {name!r} share a parameter, whose gradient "
                    f"grad_sample_mode=bookkeeping would find in two parts: use grad_sample_mode=hooks."
                )
            owners[parameter] = name
        layers[name] = layer
    return layers


def _least_dimensions(layer: nn.Module) -> int:
    """Of an input with the record dimension; without it, torch reads most layers' inputs as a record alone."""
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        return 1 + len(layer.normalized_shape)
    return {nn.Embedding: 1, nn.Conv1d: 3, nn.Conv2d: 4}.get(type(layer), 2)


def _require_unchanged(name: str, call: Call) -> None:
    if call.inputs._version != call.version:
        raise UserError(
            f"The input of layer {name!r} was changed in place after the layer saw it, so its gradient is lost: "
            f"change a copy, such as x = x + y for x += y."
        )


def _trained(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.requires_grad


def _full(tensor: Tensor) -> Tensor:
    """At least float32, for numbers that autocast rounded; ids stay as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)) if tensor.is_floating_point() else tensor


def _joined(parts: list[Tensor]) -> Tensor:
    """The positions of all calls, b ... d each -> b T d."""
    flat = [part.reshape(len(part), -1, part.shape[-1]) for part in parts]
    return flat[0] if len(flat) == 1 else torch.cat(flat, 1)


def _total(parts: list[Tensor]) -> Tensor:
    return reduce(torch.add, parts)


def _as_one(images: Tensor) -> Tensor:
    """b C H W -> 1 bC H W."""
    return images.reshape(1, -1, *images.shape[2:])

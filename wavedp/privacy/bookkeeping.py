"""Per-record norms and clipped sums from one forward and one backward pass, by recording each layer's inputs.

    b  records   a  a layer's input   g  gradient of the losses by its output   f  b, clipping factors

Source: book-keeping of Bu et al., "Differentially Private Optimization on Large Model at Small Cost" (ICML 2023,
arXiv 2210.00038). A linear layer's gradient for record i is Σ_t g_it a_itᵀ over its positions t; the rules of other
layers are in wavedp.privacy.layer_rules. Autograd computes the g only and skips the gradients of parameters. The rules
compute those once, as soon as the g of all calls of a layer are known.

Formal guarantee. Norms and clipped sums are computed from the same a and g of each record, in float32 or more: the sum
is that of f times exactly those gradients whose norms gave f (wavedp.privacy.products says how exactly). The first
dimension of every a and g separates the records, or the copies of records that a loss lays side by side (views, noises
of diffusion), a record's copies next to each other; `astray` checks it.

    case                                             result
    several calls of a layer for a record            one gradient: positions of all calls are joined before any norm
    a call under no_grad, or unused by any loss      adds nothing, as in autograd
    frozen layer, frozen weight beside trained bias  neither recorded nor computed
    copies of a record side by side in a call        one gradient, as of several calls
    bfloat16 autocast in loss_fn                     a and g are rounded like the losses; norms and sums are float32
    trained layer without a rule                     UserError; also renormalising embeddings and tied parameters
    an input changed in place after its call         UserError
    torch.compile(model)                             correct, but the graph breaks at every trained layer
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from wavedp.errors import UserError
from wavedp.full_precision import full_precision
from wavedp.privacy.layer_rules import RULES, Split, least_dimensions


class Call(NamedTuple):
    """One call of a layer: its input, and the version counter of that tensor, which in-place changes raise."""

    inputs: Tensor
    version: int


class Bookkeeping:
    """The splitter (wavedp.privacy.clipping) of `grad_sample_mode=bookkeeping`.

    parameters: the trained parameters of `model`, by name. Raises UserError for a model with an `obstacle`.
    """

    def __init__(self, model: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
        if reason := obstacle(model):
            raise UserError(
                f"grad_sample_mode=bookkeeping cannot split the gradient, for {reason}: use grad_sample_mode=hooks."
            )
        self.layers = _trained_layers(model)
        self.parameters = list(parameters)
        self.calls: dict[str, list[Call]] = {}
        self.ends: list[tuple[str, int, GradientEdge]] = []  # numbered calls whose input needs no gradient
        self.gradients: dict[str, list[tuple[Call, Tensor]]] = {}
        self.splits: dict[str, Split] = {}
        self.forwards = self.backwards = False  # which pass is running
        self.records = 0  # of the microbatch
        # Ours run first: a hook that changes the output must not come before them.
        self.handles = [
            layer.register_forward_hook(partial(self._called, name), prepend=True, with_kwargs=True)
            for name, layer in self.layers.items()
        ]

    @contextmanager
    def watching(self) -> Iterator[None]:
        self.forwards = True
        try:
            yield
        finally:
            self.forwards = False

    def astray(self, records: int, copies: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for name, calls in self.calls.items():
            for call in calls:
                shape = tuple(call.inputs.shape)
                if len(shape) < least_dimensions(self.layers[name]) or shape[0] not in (records, records * copies):
                    yield name, shape

    def norms(self, losses: Tensor, copies: int) -> dict[str, Tensor]:
        self.backwards, self.records = True, len(losses)
        edges = [edge for _, _, edge in self.ends]
        # Every other call lies on a path to one of these, so that its hook runs on the way.
        found = torch.autograd.grad(losses.sum(), edges, allow_unused=True) if edges else ()
        for (name, number, _), gradient in zip(self.ends, found, strict=True):
            self._heard(name, number, gradient)
        for name in list(self.gradients):  # no loss uses some of its calls
            self._split(name)
        return {name: part.norms for name, part in self.splits.items()}

    def sums(self, factors: Tensor) -> list[Tensor]:
        with torch.no_grad(), full_precision(factors.device):
            return [self.splits[name].weighted(factors) for name in self.parameters]

    def forget(self) -> None:
        self.backwards = False
        for kept in (self.calls, self.ends, self.gradients, self.splits):
            kept.clear()  # type: ignore[attr-defined]

    def close(self) -> None:
        self.forget()
        for handle in self.handles:
            handle.remove()

    @torch.compiler.disable
    def _called(
        self, name: str, layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor
    ) -> None:
        if not self.forwards or not output.requires_grad:
            return
        (given,) = (*inputs, *named.values())
        calls = self.calls.setdefault(name, [])
        calls.append(Call(given.detach(), given._version))
        number, edge = len(calls) - 1, get_gradient_edge(output)
        place = edge.output_nr
        if given.requires_grad:
            edge.node.register_prehook(lambda gradients: self._heard(name, number, gradients[place]))
        else:
            self.ends.append((name, number, edge))

    def _heard(self, name: str, number: int, gradient: Tensor | None) -> None:
        if not self.backwards or gradient is None:
            return
        heard = self.gradients.setdefault(name, [])
        heard.append((self.calls[name][number], gradient.detach()))
        if len(heard) == len(self.calls[name]):
            self._split(name)

    def _split(self, name: str) -> None:
        heard = self.gradients.pop(name)
        del self.calls[name]  # free the inputs
        for call, _ in heard:
            _require_unchanged(name, call)
        inputs = [self._apart(call.inputs) for call, _ in heard]
        gradients = [self._apart(gradient) for _, gradient in heard]
        layer, prefix = self.layers[name], f"{name}." if name else ""
        with torch.no_grad(), full_precision(gradients[0].device):
            split = RULES[type(layer)](layer, inputs, gradients)
        self.splits |= {prefix + own: part for own, part in split.items()}

    def _apart(self, rows: Tensor) -> Tensor:
        """A tensor of one row a copy of a record, with records and copies as two dimensions."""
        return rows.unflatten(0, (self.records, -1))


def obstacle(model: nn.Module) -> str | None:
    """The reason why `Bookkeeping` cannot split the gradient of `model`, as a clause; None if it can. Runs no layer."""
    owners: dict[nn.Parameter, str] = {}
    for name, layer in _trained_layers(model).items():
        if type(layer) not in RULES or getattr(layer, "max_norm", None) or getattr(layer, "scale_grad_by_freq", False):
            return f"there is no rule for layer {name!r}, {' '.join(str(layer).split())}"
        for parameter in layer.parameters(recurse=False):
            if parameter.requires_grad and parameter in owners:
                return f"layers {owners[parameter]!r} and {name!r} share a parameter, whose gradient comes in two parts"
            owners[parameter] = name
    return None


def _trained_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers with trained parameters of their own, by name."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
    }


def _require_unchanged(name: str, call: Call) -> None:
    if call.inputs._version != call.version:
        raise UserError(
            f"The input of layer {name!r} was changed in place after the layer saw it, so its gradient is lost: "
            f"change a copy, such as x = x + y for x += y."
        )

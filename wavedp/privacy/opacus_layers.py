"""Opacus' hooks, with their rules for layers put right where they differ from autograd.

    case                                 Opacus' rule                      here
    Embedding with padding_idx           its row gets a gradient           none, as in autograd
    convolution with padding_mode        pads with zeros all the same      by functorch
    LayerNorm without bias               AttributeError                    by functorch
    anything that fails inside a hook    its own error                     UserError that names the layer

Imports Opacus, so import this module where it is used only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping
from opacus.grad_sample.functorch import ft_compute_per_sample_gradient, prepare_layer
from torch import Tensor, nn

from wavedp.errors import UserError

Rule = Callable[[Any, list[Tensor], Tensor], dict[nn.Parameter, Tensor]]


def _without_padding(rule: Rule) -> Rule:
    def ruled(layer: nn.Embedding, inputs: list[Tensor], gradients: Tensor) -> dict[nn.Parameter, Tensor]:
        if layer.padding_idx is not None:
            gradients = gradients.masked_fill((inputs[0] == layer.padding_idx).unsqueeze(-1), 0)
        return rule(layer, inputs, gradients)

    return ruled


def _or_functorch(rule: Rule) -> Rule:
    def ruled(layer: nn.Module, inputs: list[Tensor], gradients: Tensor) -> dict[nn.Parameter, Tensor]:
        chosen: Rule = ft_compute_per_sample_gradient if _misread(layer) else rule
        return chosen(layer, inputs, gradients)

    return ruled


def _misread(layer: nn.Module) -> bool:
    """Whether Opacus has a rule for this type of layer that is wrong for this layer."""
    if isinstance(layer, nn.LayerNorm):
        return layer.bias is None
    return isinstance(layer, CONVOLUTIONS) and layer.padding_mode != "zeros"


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

_RULES: dict[type[nn.Module], Rule] = dict(GradSampleHooks.GRAD_SAMPLERS)
_RULES[nn.Embedding] = _without_padding(_RULES[nn.Embedding])
_RULES |= {kind: _or_functorch(_RULES[kind]) for kind in (*CONVOLUTIONS, nn.LayerNorm)}

_NORMS: dict[type[nn.Module], Rule] = dict(GradSampleHooksFastGradientClipping.NORM_SAMPLERS)
_NORMS[nn.Embedding] = _without_padding(_NORMS[nn.Embedding])


class _Corrected:
    """Prepares layers for functorch, and turns whatever fails in a hook into a sentence about its layer."""

    remedy = "put other layers in its place, such as nn.Linear, or freeze it (requires_grad=False)"

    def add_hooks(self, **options: Any) -> None:
        for module in self.iterate_submodules(self._module):  # type: ignore[attr-defined]
            if _misread(module):
                prepare_layer(module)  # copies it, so before it has hooks
        super().add_hooks(**options)  # type: ignore[misc]

    def capture_activations_hook(self, module: nn.Module, *arguments: Any) -> None:
        with self._layer(module):
            super().capture_activations_hook(module, *arguments)  # type: ignore[misc]

    def capture_backprops_hook(self, module: nn.Module, *arguments: Any, **options: Any) -> None:
        with self._layer(module):
            super().capture_backprops_hook(module, *arguments, **options)  # type: ignore[misc]

    @contextmanager
    def _layer(self, module: nn.Module) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            (name,) = [name for name, other in self._module.named_modules() if other is module]  # type: ignore[attr-defined]
            raise UserError(
                f"Opacus cannot split the gradient of layer {name!r}, {' '.join(str(module).split())}, by record "
                f"({' '.join(str(error).split()).rstrip('.')}): {self.remedy}."
            ) from error


class Hooks(_Corrected, GradSampleHooks):
    """Per-record gradients in full."""

    GRAD_SAMPLERS = _RULES


class GhostHooks(_Corrected, GradSampleHooksFastGradientClipping):
    """Their norms only."""

    GRAD_SAMPLERS, NORM_SAMPLERS = _RULES, _NORMS
    remedy = "use grad_sample_mode=hooks"

"""Opacus' hooks as a splitter: per-record gradients (`hooks`), or norms and a second backward pass (`ghost`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wavedp.errors import UserError
from wavedp.privacy.alone import dense
from wavedp.privacy.products import wide

SEVERAL = (nn.EmbeddingBag, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)
"""Layers that take or return several tensors; the hooks see the first one only."""


class OpacusHooks:
    """The splitter (wavedp.privacy.clipping) of `grad_sample_mode=hooks` and `ghost`.

    hooks keeps b gradients in memory; ghost keeps one and takes a second backward pass. Raises UserError for a model
    whose gradients Opacus cannot split.
    """

    def __init__(self, model: nn.Module, parameters: dict[str, nn.Parameter], ghost: bool) -> None:
        if reason := obstacle(model):
            raise UserError(
                f"Opacus cannot split the gradient by record, for {reason}: put other layers in its place, such as "
                "nn.Linear, or freeze it (requires_grad=False)."
            )
        from wavedp.privacy.opacus_layers import GhostHooks, Hooks

        self.model, self.parameters, self.ghost = model, parameters, ghost
        self.losses: Tensor | None = None
        attach = GhostHooks if ghost else Hooks
        try:
            self.hooks = attach(model, loss_reduction="sum")
        except NotImplementedError as error:
            raise UserError(
                f"Opacus refuses the model ({error}): use trainable layers without buffers, "
                f"such as GroupNorm for BatchNorm."
            ) from error
        self.hooks.disable_hooks()

    @contextmanager
    def watching(self) -> Iterator[None]:
        self.hooks.enable_hooks()
        try:
            yield
        finally:
            self.hooks.disable_hooks()

    def astray(self, records: int, copies: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for name, module in self.model.named_modules():
            for inputs in getattr(module, "activations", ()):  # inputs that Opacus will pair with output gradients
                shape = tuple(inputs[0].shape) if inputs else ()
                if not shape or shape[0] not in (records, records * copies):
                    yield name, shape

    def norms(self, losses: Tensor, copies: int) -> dict[str, Tensor]:
        self.losses = losses
        with self.watching():
            losses.sum().backward(retain_graph=self.ghost)
        found = {}
        for name, parameter in self.parameters.items():
            split = getattr(parameter, "_norm_sample" if self.ghost else "grad_sample", None)
            if isinstance(split, Tensor):
                split = wide(split)  # autocast leaves fewer digits
                if not self.ghost and copies > 1 and len(split) == copies * len(losses):
                    split = split.unflatten(0, (len(losses), copies)).sum(1)
                    parameter.grad_sample = split  # type: ignore[attr-defined]
                found[name] = split if self.ghost else split.flatten(1).norm(dim=1)
        return found

    def sums(self, factors: Tensor) -> list[Tensor]:
        parameters = list(self.parameters.values())
        if self.ghost:
            found = torch.autograd.grad((factors * self.losses).sum(), parameters)  # type: ignore[operator]
            return [dense(gradient) for gradient in found]
        split = [item.grad_sample.to(factors.dtype) for item in parameters]  # type: ignore[attr-defined]
        return [torch.tensordot(factors, gradients, dims=1) for gradients in split]

    def forget(self) -> None:
        self.losses = None
        for parameter in self.parameters.values():
            parameter.grad = parameter.grad_sample = parameter._norm_sample = None  # type: ignore[attr-defined]
            parameter._forward_counter = 0  # type: ignore[attr-defined]
        for module in self.model.modules():  # left by a forward pass without its backward pass
            for leftover in ("activations", "max_batch_len"):
                module.__dict__.pop(leftover, None)

    def close(self) -> None:
        self.forget()
        self.hooks.cleanup()


def obstacle(model: nn.Module) -> str | None:
    """The reason why Opacus cannot split the gradient of `model`, as a clause; None if none is seen without running."""
    for name, layer in model.named_modules():
        if any(parameter.requires_grad for parameter in layer.parameters(recurse=False)):
            kind = f"layer {name!r}, {' '.join(str(layer).split())},"
            if isinstance(layer, SEVERAL):
                return f"{kind} takes or returns several tensors"
            if getattr(layer, "scale_grad_by_freq", False):
                return f"{kind} divides its gradient by counts over all records"
    return None

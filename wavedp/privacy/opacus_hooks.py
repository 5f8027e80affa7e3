"""Opacus' hooks as a splitter: per-record gradients (`hooks`), or norms and a second backward pass (`ghost`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wavedp.errors import UserError


class OpacusHooks:
    """The splitter (wavedp.privacy.clipping) of `grad_sample_mode=hooks` and `ghost`.

    hooks keeps b gradients in memory; ghost keeps one and takes a second backward pass. Raises UserError for a model
    whose gradients Opacus cannot split.
    """

    def __init__(self, model: nn.Module, parameters: dict[str, nn.Parameter], ghost: bool) -> None:
        from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping

        self.model, self.parameters, self.ghost = model, parameters, ghost
        self.losses: Tensor | None = None
        attach = GradSampleHooksFastGradientClipping if ghost else GradSampleHooks
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
        except NotImplementedError as error:
            raise UserError(
                f"Opacus cannot split this gradient by record ({error}): use grad_sample_mode=hooks."
            ) from error
        finally:
            self.hooks.disable_hooks()

    def astray(self, records: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for name, module in self.model.named_modules():
            for inputs in getattr(module, "activations", ()):  # inputs that Opacus will pair with output gradients
                shape = tuple(inputs[0].shape) if inputs else ()
                if not shape or shape[0] != records:
                    yield name, shape

    def norms(self, losses: Tensor) -> dict[str, Tensor]:
        self.losses = losses
        with self.watching():
            losses.sum().backward(retain_graph=self.ghost)
        found = {}
        for name, parameter in self.parameters.items():
            norms = getattr(parameter, "_norm_sample" if self.ghost else "grad_sample", None)
            if isinstance(norms, Tensor):
                found[name] = norms if self.ghost else norms.flatten(1).norm(dim=1)
        return found

    def sums(self, factors: Tensor) -> list[Tensor]:
        parameters = list(self.parameters.values())
        if self.ghost:
            return list(torch.autograd.grad((factors * self.losses).sum(), parameters))  # type: ignore[operator]
        return [torch.tensordot(factors, item.grad_sample, dims=1) for item in parameters]  # type: ignore[attr-defined]

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

"""How often a loop starts work on a GPU and how often it makes the host wait for one, counted without a GPU.

    def train(steps): fit_public(images, config(train_steps=steps), "meta", silent)

    launches.per_step(train, 2, 6)  # PerStep(kernels=293.0, waits=0.0, uploads=1.0)

The code runs as it is, with device="meta": tensors have shapes and no numbers, so a step takes milliseconds whatever
its size. Small steps on a fast GPU take as long as the host needs to start their kernels, which these counts show on
every machine; they are no measure of arithmetic. What they say of CUDA is an estimate: a call of an operation is
counted as one kernel, and CUDA starts two for some (a convolution and its bias).
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

STAGED = 64 * 1024  # bytes: CUDA copies so many from pageable memory without waiting for earlier work
# These only make or look at memory.
FREE = frozenset(
    ("alias", "detach", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view")
)
# Their outputs have as many elements as the device finds, so the host waits to learn how many.
DATA_DEPENDENT = frozenset(("nonzero", "bincount", "masked_select"))
# They copy Python numbers to the device they are told, below what a dispatch mode sees.
FROM_PYTHON = frozenset((torch.tensor, torch.as_tensor, torch.Tensor.new_tensor))


@dataclass
class Counted:
    """By operation. kernels: started on the device. waits: for which the host stood still until the device had done
    all that it was given; reading a number, a copy to the host, a copy from it unless that is non_blocking and small.
    uploads: other copies to the device."""

    kernels: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    uploads: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class PerStep:
    """Means over steps; see `Counted`."""

    kernels: float
    waits: float
    uploads: float


@contextlib.contextmanager
def counted() -> Iterator[Counted]:
    """Count what runs on device="meta" meanwhile. Numbers read from the device are 1 or True, copies of it are 0."""
    found = Counted()
    autocast = torch.autocast

    def without_meta(device_type: str, *rest: Any, **options: Any) -> Any:
        return contextlib.nullcontext() if device_type == "meta" else autocast(device_type, *rest, **options)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "autocast", without_meta))  # which does not know that device
        for name in ("_get_foreach_kernels_supported_devices", "_get_fused_kernels_supported_devices"):
            real = getattr(_foreach_utils, name)
            for module in [module for module in sys.modules.values() if getattr(module, name, None) is real]:
                stack.enter_context(mock.patch.object(module, name, return_value=["cuda", "meta"]))
        stack.enter_context(_Creation(found))
        stack.enter_context(_Mode(found))
        yield found


def per_step(run: Callable[[int], object], few: int, more: int) -> PerStep:
    """The mean over steps `few` to `more` of what run(steps) does on device="meta"."""
    totals = []
    for steps in (few, more):
        with counted() as found:
            run(steps)
        totals.append([sum(kind.values()) for kind in (found.kernels, found.waits, found.uploads)])
    return PerStep(*((late - early) / (more - few) for early, late in zip(*totals, strict=True)))


class _Creation(TorchFunctionMode):
    def __init__(self, found: Counted) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in FROM_PYTHON and _there(result) and not isinstance(args[-1], torch.Tensor):
            self.found.waits["from the host"] += 1
        return result


class _Mode(TorchDispatchMode):
    def __init__(self, found: Counted) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, op._schema.name.removeprefix("aten::")
        given = [item for item in tree_iter((args, kwargs)) if isinstance(item, torch.Tensor)]
        if _composite(op):  # inference mode hands these on whole
            with self:
                return op.decompose(*args, **kwargs)
        if any(map(_there, given)):
            if name == "_local_scalar_dense":
                self.found.waits[name] += 1
                return True if given[0].dtype == torch.bool else 1.0 if given[0].is_floating_point() else 1
            if name == "_to_copy" and kwargs.get("device") == torch.device("cpu"):
                self.found.waits["to the host"] += 1
                return torch.zeros(given[0].shape, dtype=kwargs.get("dtype") or given[0].dtype)
            if name == "copy_" and not _there(given[0]):
                self.found.waits["to the host"] += 1
                return given[0].zero_()
            if name in DATA_DEPENDENT:
                self.found.waits[name] += 1
                shape = (1, given[0].ndim) if name == "nonzero" else (max(kwargs.get("minlength", 0), 1),)
                return torch.zeros(shape, dtype=torch.long, device="meta")
            if name.startswith("_fused_"):  # an optimiser's step, which has no meta kernel
                self.found.kernels[name] += 1
                return None
        result = op(*args, **kwargs)
        if not any(_there(item) for item in tree_iter((args, kwargs, result)) if isinstance(item, torch.Tensor)):
            return result
        if name in ("_to_copy", "copy_") and not all(map(_there, given)):
            source = given[0] if name == "_to_copy" else given[1]
            unwaited = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
            small = source.numel() * source.element_size() <= STAGED
            (self.found.uploads if unwaited and small else self.found.waits)["from the host"] += 1
        elif not op.is_view and name not in FREE:
            self.found.kernels[name] += 1
            if name.startswith("index") and not all(map(_there, given)):  # by an index that is not there
                self.found.waits["from the host"] += 1
        return result


def _there(item: torch.Tensor) -> bool:
    return item.device.type == "meta"


def _composite(op: Any) -> bool:
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return has(op.name(), "CompositeImplicitAutograd") and not has(op.name(), "CPU")

"""What the training of a trial holds in memory and computes, found without holding or computing it.

    python -m sweeps.run +sweep=NAME plan=plan.json
    python -m wavedp.run plan.json --dry-run

One pass of each training runs on PyTorch's device `meta`, whose tensors have shapes and no numbers. It is the
training's own code, so what it keeps for the backward pass, and what separating gradients by record adds, is counted
and not guessed.

    counted       weights, gradients, activations and Adam's two averages; of a private fit also the tokenizer, the sum
                  over microbatches and the averaged weights. All in float32: bfloat16 holds less
    not counted   images, what PyTorch's allocator wastes and a GPU's own context; in a tokenizer's training the
                  networks of the perceptual and the adversarial loss
    taken as      attention by fused kernels, which keep no L × L matrix; every record looking up rows of an embedding
                  that no other token looks up, which is the most that they can hold
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from wavedp import methods
from wavedp.config import TrialConfig
from wavedp.methods import Rehearsal, Rehearses

GIB = 2**30

MEASURED = 55e12
"""Operations a second that `preset=gpu`'s private step reached on one H200 in bfloat16, by this module's count: 2,048
records in 0.113 s (conf/preset/gpu.yaml). Its model is 256 wide; wider ones use a GPU better."""


@dataclass(frozen=True)
class Step:
    """One step of a training. stage: of the chain. weights: that it trains. records: of a step, and at_once: of a pass.
    memory: bytes. operations: of a step, a multiplication and an addition being two. steps: of the training."""

    stage: str
    weights: int
    records: int
    at_once: int
    memory: int
    operations: float
    steps: int

    def __str__(self) -> str:
        hours = self.operations * self.steps / MEASURED / 3600
        return (
            f"{self.stage:<15}{self.weights:,} weights, {self.memory / GIB:.3g} GiB with {self.at_once:,} records at "
            f"once; {self.steps:,} steps of {self.records:,} records, {self.operations / 1e12:,.3g} Tflop each: "
            f"{hours:.3g} hours at {MEASURED / 1e12:.3g} Tflop/s"
        )


def unlike(trials: Iterable[TrialConfig]) -> list[TrialConfig]:
    """Those of the trials that differ in what their steps hold: a study's ε, seeds and upscalers do not."""
    found: dict[str, TrialConfig] = {}
    for trial in map(methods.canonical, trials):
        epsilon = trial.privacy.epsilon if trial.privacy.epsilon in (0, math.inf) else 1.0
        privacy = replace(trial.privacy, epsilon=epsilon)
        found.setdefault(repr((trial.data, trial.tokenizer, trial.generator, privacy, trial.level)), trial)
    return list(found.values())


def steps(trial: TrialConfig) -> Iterator[Step]:
    """Of the trainings of a trial whose methods can rehearse them, in the order of the chain."""
    trial = methods.canonical(trial)
    for method in (methods.tokenizer(trial), methods.generator(trial)):
        if isinstance(method, Rehearses):
            with torch.device("meta"):
                for rehearsal in method.rehearsals(trial):
                    yield step_of(rehearsal)


def step_of(rehearsal: Rehearsal) -> Step:
    """Run its pass. Called under torch.device("meta"), or on real tensors to see what they hold."""
    trained = [parameter for parameter in rehearsal.model.parameters() if parameter.requires_grad]
    held = [*rehearsal.model.parameters(), *rehearsal.model.buffers(), *rehearsal.beside]
    most, operations = watched(rehearsal.run, held)
    weights = sum(parameter.numel() for parameter in trained)
    averages = rehearsal.averages * sum(parameter.nbytes for parameter in trained)
    share = rehearsal.records / rehearsal.at_once
    return Step(
        rehearsal.stage, weights, rehearsal.records, rehearsal.at_once, most + averages, operations * share,
        rehearsal.steps,
    )  # fmt: skip


def watched(work: Callable[[], object], held: Iterable[Tensor]) -> tuple[int, int]:
    """The most bytes of tensors that were alive at once during `work`, and its floating-point operations. held: tensors
    that it finds."""
    alive, counter = _Alive(held), FlopCounterMode(display=False)
    with _AsOnAGPU(), counter, alive:
        work()
    return alive.most, counter.get_total_flops()


class _Alive(TorchDispatchMode):
    """Adds up the memory behind tensors while it is alive; views of one memory count once."""

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: dict[int, weakref.ref[Any]] = {}
        for tensor in held:
            self._count(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return made

    def _count(self, tensor: Tensor) -> None:
        memory = tensor.untyped_storage()
        place, size = memory._cdata, memory.nbytes()
        if place in self.known:
            return
        self.known[place] = weakref.ref(memory, lambda _: self._gone(place, size))
        self.now += size
        self.most = max(self.most, self.now)

    def _gone(self, place: int, size: int) -> None:
        del self.known[place]
        self.now -= size


class _AsOnAGPU(TorchFunctionMode):
    """Without numbers torch would choose attention that keeps L × L matrices, and could not say how many ids differ."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(args[0] if args else None, Tensor) and args[0].is_meta:
            if func is F.scaled_dot_product_attention:
                fused = torch.ops.aten._scaled_dot_product_efficient_attention
                return fused(*args[:3], None, True, 0.0, kwargs.get("is_causal", False))[0]
            if func is Tensor.unique:
                return args[0].clone(), args[0].clone()
        return func(*args, **kwargs)

"""The slow, exact way to split a gradient by record: each record of a microbatch by itself.

    b  records in a microbatch   P  trainable parameters

Splitters (wavedp.privacy.clipping) are compared with it, record by record and parameter by parameter. It sees what no
look at shapes can: a time dimension that happens to be as long as the microbatch, attention or statistics over the
records, a rule that is wrong for one kind of layer.

    case                                     result
    the loss draws random numbers (dropout)  the microbatch is filled with copies of the record, so that the record's
                                             place gets the numbers that it got before
    the loss updates buffers                 they are put back
    the loss of one record alone fails       UserError: BatchNorm, for one, needs others
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from wavedp.errors import UserError


class GlobalRandom:
    """The state of torch's global generators, of the CPU and of the devices that hold `tensors`, at one moment."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.devices = sorted({tensor.device.index for tensor in tensors if tensor.device.type == "cuda"})
        self.states = self._now()

    def moved(self) -> bool:
        """Whether anything was drawn since."""
        return any(not torch.equal(old, new) for old, new in zip(self.states, self._now(), strict=True))

    def restore(self) -> None:
        """Draw the same numbers again."""
        torch.set_rng_state(self.states[0])
        for device, state in zip(self.devices, self.states[1:], strict=True):
            torch.cuda.set_rng_state(state, device)

    def _now(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self.devices)]


def norms_alone(
    losses_of: Callable[[Sequence[Tensor]], Tensor],
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    batch: Sequence[Tensor],
    rows: Sequence[int],
    random: GlobalRandom,
) -> Tensor:
    """Norms of the gradient by every parameter, of the records at r places `rows`: P r.

    losses_of: a microbatch -> one loss per record. random: the state of before the loss of the whole microbatch.
    """
    draws, after = random.moved(), GlobalRandom(batch)
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    norms = []
    try:
        for row in rows:
            copies = [row] * len(batch[0]) if draws else [row]
            random.restore()
            try:
                loss = losses_of([tensor[copies] for tensor in batch])[row if draws else 0]
            except torch.OutOfMemoryError:  # says nothing of the model
                raise
            except Exception as error:
                raise UserError(
                    f"The loss of one record by itself fails ({' '.join(str(error).split()).rstrip('.')}): use layers "
                    "that need no other record, such as GroupNorm for BatchNorm."
                ) from error
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            norms.append(torch.stack([dense(gradient).norm() for gradient in gradients]))
    finally:
        after.restore()
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)
    return torch.stack(norms, 1)


def dense(gradient: Tensor) -> Tensor:
    """The gradient of an embedding with sparse=True, like any other."""
    return gradient.to_dense() if gradient.is_sparse else gradient

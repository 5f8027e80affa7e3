"""Where noise and sampling come from: a seed, for studies that others can repeat, or secrets that nobody can.

A generator is torch's own on the CPU, or a `SecureGenerator`, which stands in for it.

    case                       seeded (torch.Generator)             secure (SecureGenerator)
    known to whoever           has the seed                         has the 256-bit key, drawn from the system, which is
                                                                    in no seed, artifact or ledger, but in a checkpoint
    the same fit run again     the same noise: the same release     other noise: another release, with another id
    resumed from a checkpoint  goes on where it was                 goes on where it was
    normal numbers             torch's                              (x1 + x2 + x3 + x4) / 2 of four independent ones

Formal guarantee of `secure`. Whoever tells its stream from a true random one, tells SHAKE-256 (FIPS 202) of a secret
key and a counter from a random function. Adding four numbers of which an attacker sees the sum alone makes their
rounding errors too costly to enumerate (Holohan & Braghin, 2021, arXiv 2107.10138); it is not an exact discrete
mechanism.

Written by hand, because PyTorch's generator of this kind (torchcsprng) is no longer maintained; the cipher is Python's.
"""

from __future__ import annotations

import hashlib
import math
import secrets

import torch
from torch import Tensor

_BLOCK = 1 << 20
"""Numbers from one digest: it bounds memory."""
_BITS = 52
_SUMMANDS = 4
_KEY_BYTES = 32


class SecureGenerator:
    """An endless stream of unpredictable bytes; state, get_state and set_state are those of a torch.Generator."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self._key = secrets.token_bytes(_KEY_BYTES)
        self._counter = 0

    def words(self, count: int) -> Tensor:
        """float64 [count], whole numbers of 52 random bits, so that a half more is still exact."""
        self._counter += 1
        stream = hashlib.shake_256(self._key + self._counter.to_bytes(8, "little")).digest(8 * count)
        return (torch.frombuffer(bytearray(stream), dtype=torch.int64) & ((1 << _BITS) - 1)).double()

    def get_state(self) -> Tensor:
        """uint8 [40]: the key and how often it was used. As secret as the records."""
        return torch.tensor(list(self._key + self._counter.to_bytes(8, "little")), dtype=torch.uint8)

    def set_state(self, state: Tensor) -> None:
        """Go on where `get_state` was called."""
        data = bytes(state.tolist())
        self._key, self._counter = data[:_KEY_BYTES], int.from_bytes(data[_KEY_BYTES:], "little")

    def name(self) -> str:
        """Tells this stream from others and gives nothing of it away: SHA-256 of the key."""
        return hashlib.sha256(b"name" + self._key).hexdigest()


Generator = torch.Generator | SecureGenerator


def uniform(count: int, generator: Generator) -> Tensor:
    """float64 [count] in [0, 1), in steps of at most 2^-52; count >= 1."""
    if isinstance(generator, torch.Generator):
        return torch.rand(count, generator=generator, dtype=torch.float64)
    return torch.cat([generator.words(part) * 2.0**-_BITS for part in _parts(count)])


def normal(shape: torch.Size, dtype: torch.dtype, generator: Generator) -> Tensor:
    """Independent standard normal numbers of this shape, one or more, on the generator's device."""
    if isinstance(generator, torch.Generator):
        return torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)
    parts = [_normal(part, generator) for part in _parts(math.prod(shape))]
    return torch.cat(parts).reshape(shape).to(dtype)


def _parts(count: int) -> list[int]:
    return [min(_BLOCK, count - done) for done in range(0, count, _BLOCK)]


def _normal(count: int, generator: SecureGenerator) -> Tensor:
    # By the inverse of the distribution function, at midpoints: |x| < 8.2, which some in 10^16 would pass.
    middles = (generator.words(_SUMMANDS * count) + 0.5) * 2.0**-_BITS
    return torch.special.ndtri(middles).reshape(_SUMMANDS, count).sum(0) / math.sqrt(_SUMMANDS)

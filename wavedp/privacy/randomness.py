"""Random generators of noise and sampling: seeded, for repeatable studies, or keyed by secrets of the system.

A generator is a torch.Generator on the CPU, or a `SecureGenerator` in its place.

    case                       seeded (torch.Generator)             secure (SecureGenerator)
    predictable for            anyone with the seed                 anyone with the 256-bit key, which the operating
                                                                    system draws; it is in no seed, artifact or ledger,
                                                                    but it is in a checkpoint
    the same fit run again     the same noise: the same release     other noise: another release, with another id
    resumed from a checkpoint  continues its stream                 continues its stream
    normal numbers             torch's                              (x1 + x2 + x3 + x4) / 2 of four independent ones

Formal guarantee of `secure`. Distinguishing its stream from true randomness means distinguishing SHAKE-256 (FIPS 202)
of a secret key and a counter from a random function. Each normal number is a sum of four, of which an attacker sees
only the sum, so that their rounding errors are too costly to enumerate (Holohan & Braghin, 2021, arXiv 2107.10138).
This is not an exact discrete mechanism.

We wrote it because PyTorch's generator of this kind (torchcsprng) is no longer maintained; the cipher is Python's own.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Iterable

import torch
from torch import Tensor

_BLOCK = 1 << 20
"""Most numbers drawn from one digest, to bound memory."""
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
        """float64 [count]: whole numbers of 52 random bits, few enough that adding 1/2 is exact."""
        self._counter += 1
        stream = hashlib.shake_256(self._key + self._counter.to_bytes(8, "little")).digest(8 * count)
        return (torch.frombuffer(bytearray(stream), dtype=torch.int64) & ((1 << _BITS) - 1)).double()

    def get_state(self) -> Tensor:
        """uint8 [40]: the key and the number of its uses. Keep it as secret as the records."""
        return torch.tensor(list(self._key + self._counter.to_bytes(8, "little")), dtype=torch.uint8)

    def set_state(self, state: Tensor) -> None:
        """Continue the stream from where `get_state` was called."""
        data = bytes(state.tolist())
        self._key, self._counter = data[:_KEY_BYTES], int.from_bytes(data[_KEY_BYTES:], "little")

    def name(self) -> str:
        """An id of this stream that reveals nothing of it: SHA-256 of the key."""
        return hashlib.sha256(b"name" + self._key).hexdigest()


Generator = torch.Generator | SecureGenerator


class Drawn:
    """Normal numbers that were drawn earlier, in place of the generator that they came from: `normal` hands them out,
    each once and in their order."""

    def __init__(self, numbers: Iterable[Tensor]) -> None:
        self._left = iter(numbers)

    def take(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """The next ones. Raises RuntimeError if none are left, or if they were drawn for another tensor."""
        numbers = next(self._left, None)
        if numbers is None or (numbers.shape, numbers.dtype) != (shape, dtype):
            found = "none are left" if numbers is None else f"the next have {tuple(numbers.shape)}, {numbers.dtype}"
            raise RuntimeError(f"noise of {tuple(shape)}, {dtype} was asked for and {found}")
        return numbers


def twin(generator: Generator) -> Generator:
    """Another generator that goes on as this one would."""
    other = type(generator)()
    other.set_state(generator.get_state())
    return other


def uniform(count: int, generator: Generator) -> Tensor:
    """float64 [count] in [0, 1), in steps of at most 2^-52; count >= 1."""
    if isinstance(generator, torch.Generator):
        return torch.rand(count, generator=generator, dtype=torch.float64)
    return torch.cat([generator.words(part) * 2.0**-_BITS for part in _parts(count)])


def normal(shape: torch.Size, dtype: torch.dtype, generator: Generator | Drawn) -> Tensor:
    """Independent standard normal numbers of this shape, one or more, on the generator's device."""
    if isinstance(generator, Drawn):
        return generator.take(shape, dtype)
    if isinstance(generator, torch.Generator):
        return torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)
    parts = [_normal(part, generator) for part in _parts(math.prod(shape))]
    return torch.cat(parts).reshape(shape).to(dtype)


def _parts(count: int) -> list[int]:
    return [min(_BLOCK, count - done) for done in range(0, count, _BLOCK)]


def _normal(count: int, generator: SecureGenerator) -> Tensor:
    # By the inverse distribution function, at midpoints: |x| < 8.2, which a true normal exceeds a few times in 10^16.
    middles = (generator.words(_SUMMANDS * count) + 0.5) * 2.0**-_BITS
    return torch.special.ndtri(middles).reshape(_SUMMANDS, count).sum(0) / math.sqrt(_SUMMANDS)

"""Read the two kinds of pickle that datasets come in, without running anything of them.

A pickle is a program: it may name any function of Python and call it. Here a name is looked up in a short table, never
imported, and every other name is refused, so that no code of the file's choosing runs.

    strings     a list of str: the file lists of text-to-image sets, written by Python 2 or 3
    arrays      a dict of str, int, lists of them and uint8 arrays: the batches of CIFAR-10. The four names with which
                an array is written stand for classes of this file, which check what they are given
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from wavedp.errors import UserError


def strings(file: Path) -> list[str]:
    """The list in `file`. Raises UserError for a damaged file, one that names a function or class, and one that holds
    anything but a list of str."""
    found = _load(file, {})
    if type(found) is not list or not all(type(item) is str for item in found):
        raise _other(file, found, "a list of strings")
    return found


def arrays(file: Path) -> dict[str, Any]:
    """The dict in `file`; arrays are uint8. Raises UserError as `strings`."""
    found = _load(file, _stand_ins())
    if type(found) is not dict or not all(type(name) is str for name in found):
        raise _other(file, found, "a dict with names")
    values = {name: value.values if isinstance(value, _Array) else value for name, value in found.items()}
    for name, value in values.items():
        items = value if type(value) is list else [value]
        if not all(type(item) in (str, int) or type(value) is np.ndarray for item in items):
            raise _other(file, value, f"text, numbers or an array of uint8 as {name!r}")
    return values


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows the given names only."""

    def __init__(self, opened: Any, known: dict[tuple[str, str], Any]) -> None:
        super().__init__(opened, encoding="latin1")  # a str of Python 2 is bytes; latin1 keeps every one of them
        self.known = known

    def find_class(self, module: str, name: str) -> Any:
        """Asked for every name in the file."""
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a list of data has no use for")
        return self.known[module, name]


def _load(file: Path, known: dict[tuple[str, str], Any]) -> Any:
    try:
        with open(file, "rb") as opened:
            return _Unpickler(opened, known).load()
    except Exception as error:  # a damaged or malicious stream makes the unpickler raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{file} is not read ({reason}), and nothing in it was run: replace it by the published file, or by a text "
            "file."
        ) from error


def _other(file: Path, found: Any, wanted: str) -> UserError:
    return UserError(
        f"{file} holds {type(found).__name__} where {wanted} was expected: replace it by the published file."
    )


def _stand_ins() -> dict[tuple[str, str], Any]:
    """What stands for the names with which numpy writes an array. They have no attributes that a file could set."""
    packages = ("numpy.core.multiarray", "numpy._core.multiarray")  # of numpy 1 and 2
    return {
        **{(package, "_reconstruct"): _Maker(_Array) for package in packages},
        ("numpy", "ndarray"): "ndarray",
        ("numpy", "dtype"): _Maker(_Type),
        ("_codecs", "encode"): _Bytes(),  # Python 3 writes bytes so in the older protocols
    }


class _Maker:
    """Called as numpy's functions are; gives an empty object whose state follows in the file."""

    __slots__ = ("_made",)

    def __init__(self, made: type) -> None:
        self._made = made

    def __call__(self, *arguments: Any) -> Any:
        return self._made(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


class _Bytes:
    """Stands for the call that makes bytes of a text."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        return str(text).encode("latin1")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


class _Type:
    """Stands for a numpy type; only uint8 is taken."""

    __slots__ = ()

    def __init__(self, code: str, *rest: Any) -> None:
        if code != "u1":
            raise pickle.UnpicklingError(f"an array is of type {code!r}, not uint8")

    def __setstate__(self, state: Any) -> None:
        """A byte has no order of bytes: there is nothing to set."""


class _Array:
    """Stands for an array, whose state is (version, shape, type, in Fortran's order, bytes)."""

    __slots__ = ("values",)
    values: np.ndarray

    def __init__(self, *arguments: Any) -> None:
        """An empty array; numpy's arguments say nothing that the state does not say again."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        if not isinstance(kind, _Type) or fortran or not all(type(side) is int for side in shape):
            raise pickle.UnpicklingError("an array is not of uint8 in C's order")
        raw = content.encode("latin1") if isinstance(content, str) else bytes(memoryview(content))
        self.values = np.frombuffer(raw, np.uint8).reshape(shape)

"""A file system that is away for a while: calls to an object store are tried again until it is back.

case                                            result
the network or the store fails for a while      the call is tried again, after longer and longer pauses, for PATIENCE
                                                seconds; the first failure is said in the log
it fails for longer                             the last error
an answer: no such object, there is one         at once, as it is
    already, not allowed, no credentials
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Any

from fsspec import AbstractFileSystem

PATIENCE = 180.0  # seconds; a store that restarts takes one or two minutes
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
CALLS = frozenset({"cat_file", "exists", "find", "ls", "pipe_file", "rm", "rm_file"})
ANSWERS = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
    ImportError,
    TypeError,
    ValueError,
)
UNASKED = (
    "NoCredentials",
    "PartialCredentials",
    "InvalidAccessKey",
    "SignatureDoesNotMatch",
)  # parts of botocore's names

LOG = logging.getLogger(__name__)


class Patient:
    """The same file system, whose calls wait for it to come back. raw: the file system itself."""

    def __init__(self, raw: AbstractFileSystem) -> None:
        self.raw = raw

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.raw, name)
        return _patient(found) if name in CALLS else found


def _patient(call: Callable[..., Any]) -> Callable[..., Any]:
    def tried_again(*arguments: Any, **options: Any) -> Any:
        until, pause = time.monotonic() + PATIENCE, FIRST_PAUSE
        while True:
            try:
                return call(*arguments, **options)
            except Exception as error:
                if is_answer(error) or time.monotonic() > until:
                    raise
                if pause == FIRST_PAUSE:
                    LOG.warning(
                        "the store does not answer (%s: %s): trying for %g s.", type(error).__name__, error, PATIENCE
                    )
                time.sleep(pause * random.SystemRandom().uniform(0.5, 1.5))  # also where random was seeded
                pause = min(2 * pause, LONGEST_PAUSE)

    return tried_again


def is_answer(error: Exception) -> bool:
    """Whether the store has answered, so that asking again is no use."""
    names = f"{type(error).__name__} {error}"
    return isinstance(error, ANSWERS) or any(name in names for name in UNASKED)

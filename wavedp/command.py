"""What every command does at its start and its end, so that it ends in a status and at most one sentence."""

from __future__ import annotations

import codecs
import contextlib
import functools
import io
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator
from typing import ParamSpec

from wavedp import extras
from wavedp.errors import UserError

REFUSED, INTERRUPTED, NO_READER = 2, 130, 141  # the last two as a shell reports SIGINT and SIGPIPE
PLAIN = {"×": "x", "≥": ">=", "≤": "<=", "±": "+-", "→": "->", "–": "-", "—": "-", "−": "-", "…": "...", "≈": "~"}
PLAIN |= {"²": "^2", "√": "sqrt", "∞": "inf", "─": "-", "·": ".", "↓": "v", "↑": "^"}

Arguments = ParamSpec("Arguments")


def command(main: Callable[Arguments, int | None]) -> Callable[Arguments, int]:
    """Decorator of a command's `main`; it then returns the exit status.

    What the terminal's encoding lacks is printed in plain letters. A UserError, or the lack of an optional package
    (wavedp.extras), becomes one sentence and status 2, Ctrl-C one sentence and status 130; a reader that closed the
    pipe (`| head`) ends the command in silence.
    """

    @functools.wraps(main)
    def run(*args: Arguments.args, **options: Arguments.kwargs) -> int:
        print_anywhere()
        try:
            try:
                return main(*args, **options) or 0
            finally:
                sys.stdout.flush()
        except UserError as error:
            print(f"Error: {error}", file=sys.stderr)
            return REFUSED
        except ImportError as error:
            said = extras.of_import(error)
            if said is None:
                raise
            print(f"Error: {said}", file=sys.stderr)
            return REFUSED
        except KeyboardInterrupt:
            print("Interrupted: start the same command again to go on.", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
            )  # or Python complains when it flushes at exit
            return NO_READER

    return run


@contextlib.contextmanager
def imports() -> Iterator[None]:
    """Around a command's imports of optional packages: without one, it ends in one sentence and status 2."""
    try:
        yield
    except ImportError as error:
        said = extras.of_import(error)
        if said is None:
            raise
        print(f"Error: {said}", file=sys.stderr)
        sys.exit(REFUSED)


def print_anywhere() -> None:
    """Let stdout and stderr take any text, whatever the locale is."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="wavedp.plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: ε becomes epsilon, ≥ becomes >=, anything else its escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_letters, error.object[error.start : error.end])), error.end


def _letters(character: str) -> str:
    *kind, name = unicodedata.name(character, "").split() or [""]
    if kind == ["GREEK", "SMALL", "LETTER"]:
        return name.lower()
    return PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode()


codecs.register_error("wavedp.plain", _plain)

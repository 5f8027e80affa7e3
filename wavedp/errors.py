"""Errors that users can fix: the message gives one sentence of cause and one of remedy."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A problem that the user can fix; the message names the offending value and the remedy.

    Commands print only the message (no traceback) and exit with status 2.
    """


class InfeasibleError(UserError):
    """A trial whose privacy budget no noise level can meet, or that does not fit in the study's budget; a sweep records
    it as `infeasible` and continues."""


def nearest(name: str, known: Iterable[str], before: str = "", other: str = "") -> str:
    """The rest of a sentence about an unknown name: the known one that it resembles, or all. before: what stands before
    each of them, such as `privacy.`. other: what else may be given than one of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {before}{near[0]}?" if near else f"use one of {', '.join(names)}{other and f', or {other}'}."

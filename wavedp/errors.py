"""Errors that users can fix: the message gives one sentence of cause and one of remedy."""


class UserError(Exception):
    """A problem that the user can fix; the message names the offending value and the remedy.

    Commands print only the message (no traceback) and exit with status 2.
    """


class InfeasibleError(UserError):
    """A trial whose privacy budget no noise level can meet, or that does not fit in the study's budget; a sweep records
    it as `infeasible` and continues."""

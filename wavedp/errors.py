"""Errors that a user can act on: one sentence of cause, one of remedy."""


class UserError(Exception):
    """A problem the user can mend; its text names the offending value and the remedy.

    Commands print the text alone (no traceback) and exit with status 2.
    """


class InfeasibleError(UserError):
    """A trial whose privacy budget no noise level can meet, or that the study's budget has no room for; a sweep records
    it as `infeasible` and goes on."""

"""How long work tells how far it is."""

from collections.abc import Callable

Report = Callable[[int, int], None]
"""report(done, total): called often, cheap, and allowed to raise in order to stop the work."""


def silent(done: int, total: int) -> None:
    """A report that nobody reads."""

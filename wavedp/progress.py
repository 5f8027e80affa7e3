"""Progress reports of long work, which may also stop it."""

import sys
import time
from collections.abc import Callable

Report = Callable[[int, int], None]
"""report(done, total): called after each step, cheap, and allowed to raise in order to stop the work."""


class OutOfTime(Exception):
    """Raised by a `report` in order to stop the work, never by the work itself.

    Whoever runs work under a time limit (a batch job, a borrowed GPU) raises it in the report that it hands down, and
    catches it outside. wavedp.resume.steps and wavedp.privacy.training.fit_private write their checkpoint before they
    let it pass, as they do for any other exception of a report, so that the next run goes on from there.
    """


def silent(done: int, total: int) -> None:
    """A report that does nothing."""


def printed(label: str, every: float = 10.0) -> Report:
    """A report on stderr: at most one line in `every` seconds and one at the end, with the seconds left at the pace
    since the first call. label: name of the work, such as "training"."""
    start = told = 0.0
    before = 0

    def report(done: int, total: int) -> None:
        nonlocal start, told, before
        now = time.monotonic()
        if not start:
            start, told, before = now, now, done
        if done < total and now - told < every:
            return
        told = now
        pace = (now - start) / (done - before) if done > before else 0.0
        left = f", about {pace * (total - done):.0f} s left" if pace and done < total else ""
        print(f"{label}: {done} of {total}{left}", file=sys.stderr, flush=True)

    return report

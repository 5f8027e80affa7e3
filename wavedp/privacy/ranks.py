"""Processes that share one piece of work, one a GPU: started, watched, and ended together.

`together` starts R processes that all run the same function on the same plain arguments; a private fit inside it finds
the others by itself (wavedp.privacy.rank_sums). The process that calls `together` computes nothing: it hears rank 0's
progress and gets its result, and it is the one that notices a death, which the backends of torch.distributed do late or
by taking their own process down.

    case                                         result
    a rank raises an error                       raised here; all others are ended
    a rank dies, as of a signal or of memory     UserError; all others are ended
    a rank hangs                                 UserError once the others have waited `patience` seconds for it
    `report` raises, Ctrl-C                      rank 0's report raises OutOfTime, so that its work writes its
                                                 checkpoint; then all are ended, and the exception goes on
    SIGTERM or SIGINT to the whole group         ignored by the ranks: the calling process decides
    the calling process dies                     the ranks end themselves
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

import torch

from wavedp.errors import UserError
from wavedp.privacy.rank_sums import RankLost, joined
from wavedp.progress import OutOfTime, Report, silent

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = 600.0
"""Seconds for which a rank waits for the others in one exchange, as torch does for GPUs."""
LAST_WORDS = 3.0
"""Seconds in which other ranks may say more than the first that failed: who loses a partner hears of it first."""
STOPPING = 120.0
"""Seconds for the step that is running when the work is stopped, and for its checkpoint."""

START = multiprocessing.get_context("spawn")
"""How processes start: CUDA does not survive a fork."""


class Died(Exception):
    """A process ended without a word."""


@dataclass(frozen=True)
class Done:
    """The end of a rank's work. result: of rank 0. warned: what it warned of."""

    result: Any = None
    warned: list[str] = field(default_factory=list)


def together(
    of: int, work: Callable[[T, Report], R], given: T, device: str, report: Report = silent, patience: float = PATIENCE
) -> R:
    """What `work(given, report)` returns on rank 0 of `of` processes that all run it.

    work: a function of a module. given, and what it returns: plain, as processes send them to each other. device: cpu,
    or cuda, where rank k gets GPU k. Raises what a rank raises, and UserError for ranks that die, or for which this
    machine has no GPUs.
    """
    require_room(of, device)
    processes, pipes = [], []
    with tempfile.TemporaryDirectory(prefix="wavedp-ranks-") as folder:
        try:
            for number in range(of):
                ours, theirs = START.Pipe()
                place = (Path(folder, "meeting"), number, of, device, patience)
                arguments = (place, torch.get_num_threads(), work, given, theirs)
                process = START.Process(target=_rank, args=arguments, name=f"wavedp-rank-{number}", daemon=True)
                process.start()
                theirs.close()
                processes.append(process)
                pipes.append(ours)
            words = _listen(pipes, report)
        finally:
            for process in processes:
                process.kill()
                process.join()
            for pipe in pipes:
                pipe.close()
    done = words.get(0)
    if len(words) == of and all(isinstance(word, Done) for word in words.values()) and isinstance(done, Done):
        for text in done.warned:
            warnings.warn(text, stacklevel=2)
        return done.result
    raise _reason(words, [process.exitcode for process in processes])


def require_room(of: int, device: str) -> None:
    """Raises UserError for a number of processes that cannot share a fit on this machine."""
    if of < 1:
        raise UserError(f"ranks={of} processes do no work: use 1 or more.")
    if not torch.distributed.is_available():
        raise UserError(f"ranks={of} processes cannot share a fit, as this torch has no torch.distributed: use 1.")
    if device == "cuda" and of > torch.cuda.device_count():
        raise UserError(
            f"{of} processes were asked to share a fit, one a GPU, and this machine has {torch.cuda.device_count()} "
            "GPUs: ask for fewer (ray.stages.private_fit.num_gpus, --ranks)."
        )


def _listen(pipes: Sequence[Connection], report: Report) -> dict[int, Done | Exception]:
    """The last words of the ranks: of all of them, or of those that spoke soon after one had failed."""
    words: dict[int, Done | Exception] = {}
    until: float | None = None
    try:
        while len(words) < len(pipes):
            numbers = {pipe: number for number, pipe in enumerate(pipes) if number not in words}
            ready = wait(list(numbers), None if until is None else max(0.0, until - time.monotonic()))
            if not ready:
                break
            for pipe in ready:
                assert isinstance(pipe, Connection)
                word = _heard(pipe)
                if isinstance(word, tuple):
                    report(*word)
                    pipe.send(True)
                    continue
                words[numbers[pipe]] = word
                if not isinstance(word, Done) and until is None:
                    until = time.monotonic() + LAST_WORDS
    except BaseException:  # of the report, or Ctrl-C
        _stop(pipes[0])
        raise
    return words


def _heard(pipe: Connection) -> tuple[int, int] | Done | Exception:
    """Progress, or a last word."""
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return Died()


def _stop(pipe: Connection) -> None:
    """Let rank 0 write its checkpoint at its next report."""
    end = time.monotonic() + STOPPING
    with suppress(OSError):
        pipe.send(False)
        while pipe.poll(max(0.0, end - time.monotonic())) and isinstance(_heard(pipe), tuple):
            pass


def _reason(words: dict[int, Done | Exception], exit_codes: Sequence[int | None]) -> Exception:
    """The error of the rank that failed; the others only say that they lost one."""
    failed = {number: word for number, word in words.items() if isinstance(word, Exception)}
    for word in failed.values():
        if not isinstance(word, Died | RankLost):
            return word
    for number, word in failed.items():
        if isinstance(word, Died):
            code = exit_codes[number] or 0
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
            return UserError(
                f"Process {number} of the {len(exit_codes)} that share this fit ended {how}: start the same command "
                "again, and the fit goes on from its checkpoint; ask for fewer processes if memory ran out."
            )
    number, word = next(iter(failed.items()))
    return UserError(
        f"Process {number} of the {len(exit_codes)} that share this fit lost the others ({str(word).rstrip('.')}): "
        "start the same command again, and the fit goes on from its checkpoint."
    )


def _rank(
    place: tuple[Path, int, int, str, float],
    threads: int,
    work: Callable[[Any, Report], Any],
    given: Any,
    pipe: Connection,
) -> None:
    """What each process runs."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    meeting, rank, of, device, patience = place
    torch.set_num_threads(threads)  # as without ranks, so that the CPU rounds alike
    if device == "cuda":
        torch.cuda.set_device(rank)
    for loopback in [name for _, name in socket.if_nameindex() if name.startswith("lo")][:1]:
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = loopback

    def report(done: int, total: int) -> None:
        pipe.send((done, total))
        if not pipe.recv():
            raise OutOfTime

    try:
        with warnings.catch_warnings(record=True) as said, joined(meeting, rank, of, device, patience):
            warnings.simplefilter("always", UserWarning)
            result = work(given, silent if rank else report)
        warned = [str(item.message) for item in said if issubclass(item.category, UserWarning)]
        pipe.send(Done() if rank else Done(result, warned))
    except Exception as error:
        error.add_note(f"in process {rank} of {of}:\n{traceback.format_exc()}")
        pipe.send(_plain(error))


def _plain(error: Exception) -> Exception:
    """The error, or its text where it cannot be sent."""
    with suppress(Exception):
        pickler = multiprocessing.reduction.ForkingPickler
        pickler.loads(pickler.dumps(error))
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)

"""What every entrypoint does around its own few lines: exit codes, messages, other processes."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout

from jaxnet import ending, locks
from jaxnet.cluster import activity, join, watchdog
from jaxnet.errors import (
    CheckpointError,
    EndedError,
    InputError,
    NonFiniteError,
    PeerError,
    UsageError,
)

DONE = 0
FAILED = 1
WRONG_USAGE = 2
# The run was asked to end, and saved where it was.
PREEMPTED = ending.CODE
LOST_PEER = watchdog.LOST_PEER
_FULL = (errno.ENOSPC, errno.EDQUOT)


def run(command: Callable[[], int]) -> int:
    """Run a command and turn what goes wrong into a message and an exit code.

    Where a launcher started several processes (`jaxnet.cluster.join`), they are brought together
    first and leave together; process 0 alone prints.

    Errors that a user can act on are printed without a traceback (`JAXNET_TRACEBACK=1` shows it).
    SIGTERM and Ctrl-C end with `PREEMPTED` at any moment (`jaxnet.ending`).

    Returns:
        `DONE`, `FAILED`, `WRONG_USAGE`, `PREEMPTED` or `LOST_PEER`.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("jaxnet.layout").setLevel(logging.INFO)  # what a device holds
    logging.getLogger("jaxnet.chosen").setLevel(logging.INFO)  # which parameters patterns match
    logging.getLogger("jaxnet.resume").setLevel(logging.INFO)  # where a run goes on
    with ending.handling():
        try:
            watch = join.initialize()
        except (UsageError, PeerError, EndedError) as error:
            return _reported(error)
        ending.at_once("preparing", watch and watch.ask)
        if watch is None:
            return _outcome(command, lambda: None)
        if watch.me.process:
            logging.disable(logging.WARNING)
        with redirect_stdout(_Nowhere()) if watch.me.process else nullcontext():
            return _together(command, watch)


def run_alone(command: Callable[[], int]) -> int:
    """As `run`, for a command that isn't for several processes, or starts them itself.

    A signal is an exception in it, so that it can end what it has started.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    with ending.handling():
        try:
            with ending.raising():
                return _outcome(command, lambda: None)
        except ending.Ended as end:
            print(f"ended by {end}: {ending.AGAIN}", file=sys.stderr)
            return PREEMPTED


class _Nowhere(io.TextIOBase):
    """Where that goes what process 0 prints for all."""

    def write(self, text: str) -> int:
        return len(text)


def _together(command: Callable[[], int], watch: watchdog.Watch) -> int:
    """Run a command as one of several processes."""
    try:
        code = _outcome(command, watch.explain)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        watch.explain()
        traceback.print_exc()
        code = FAILED
    if code == WRONG_USAGE:
        watch.refuse()
    well = code in (DONE, PREEMPTED) and not activity.own.left_early
    join.leave(watch, code, well=well)
    return code


def _outcome(command: Callable[[], int], explain: Callable[[], None]) -> int:
    try:
        return command()
    except (InputError, NonFiniteError, OSError, PeerError) as error:
        if not isinstance(error, UsageError):
            explain()
        return _reported(error)
    finally:
        locks.release()


def _advice(error: BaseException) -> str:
    """What to do about a disk that is full, if that is the cause of an error."""
    if isinstance(error, CheckpointError):  # which says so itself
        return ""
    # Libraries in C++ have it in their words.
    causes = (error, error.__cause__)
    if any(os.strerror(number) in str(cause) for number in _FULL for cause in causes):
        return (
            "Make room there and give the same command again: it goes on from the newest "
            "checkpoint. Or choose another --run-dir."
        )
    return ""


def _reported(error: Exception) -> int:
    """Print an error; the exit code that belongs to it."""
    if os.environ.get("JAXNET_TRACEBACK"):
        traceback.print_exc()
    if isinstance(error, EndedError):
        print(error, file=sys.stderr)
        return PREEMPTED
    advice = _advice(error)
    said = f"{str(error).rstrip('.')}. {advice}" if advice else str(error)
    print("\n".join([f"error: {said}", *getattr(error, "__notes__", ())]), file=sys.stderr)
    if isinstance(error, PeerError):
        return LOST_PEER
    return WRONG_USAGE if isinstance(error, UsageError) else FAILED

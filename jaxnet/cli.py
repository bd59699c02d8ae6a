"""What every entrypoint does around its own few lines: exit codes, messages, the log."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable

from jaxnet.errors import InputError, NonFiniteError, UsageError

DONE = 0
FAILED = 1
WRONG_USAGE = 2
# EX_TEMPFAIL of sysexits.h, "try again later": the run was asked to end and saved where it was.
PREEMPTED = 75


def run(command: Callable[[], int]) -> int:
    """Run a command and turn what goes wrong into a message and an exit code.

    Errors that a user can act on are printed without a traceback (`JAXNET_TRACEBACK=1` shows it).

    Returns:
        `DONE`, `FAILED`, `WRONG_USAGE` or `PREEMPTED`.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        return command()
    except (InputError, NonFiniteError, OSError) as error:
        if os.environ.get("JAXNET_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USAGE if isinstance(error, UsageError) else FAILED

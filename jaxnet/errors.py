"""Errors that a user can act on.

Every message says what was expected, what came instead, where, and what to do about it.
The command line prints them without a traceback; anything else is a bug and shows one.
"""

from __future__ import annotations


class InputError(ValueError):
    """The data, a file or a value that came from outside is not what it has to be."""


class UsageError(InputError):
    """A name, an option or a configuration is wrong: nothing was started."""


class CheckpointError(InputError):
    """A checkpoint could not be written or read; the message names the file."""


class NonFiniteError(ArithmeticError):
    """Training met a NaN or an infinity; the message names the step and the first bad layer."""


class EndedError(RuntimeError):
    """This job was asked to end, by a signal to one of its processes."""


class PeerError(RuntimeError):
    """Other processes of this job are missing or lost; the message says which."""

"""Folders that one process at a time may write.

The lock is the operating system's, on a byte of the file `.lock` in the folder (POSIX,
`fcntl.lockf`): it ends with its process however that ends, and holds between machines that share
the folder over NFS 4, where that of a machine that is gone ends some 90 seconds later. The file
names the holder, for the message.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from jaxnet.errors import InputError, UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

log = logging.getLogger("jaxnet")

# What a file system that has no locks answers.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}

# Within a process the operating system's lock keeps nobody out, and ends when the file is closed
# anywhere: so each file is opened once.
_guard = threading.Lock()
_kept: dict[Path, IO[str]] = {}
_alone: dict[Path, IO[str]] = {}


def keep(folder: Path, advice: str) -> None:
    """Take a folder for this process, until `release` or the end of the process.

    To take it again is fine.

    Args:
        folder: has to be there.
        advice: what to do where another process has it, as the end of a sentence.

    Raises:
        UsageError: another process has it; the message names it.
        InputError: the folder can't be written.
    """
    with _guard:
        place = folder.resolve()
        if place not in _kept:
            _kept[place] = _taken(place, advice)


def release() -> None:
    """Give back all folders that this process keeps."""
    with _guard:
        while _kept:
            _kept.popitem()[1].close()


@contextmanager
def alone(folder: Path, advice: str) -> Iterator[None]:
    """Take a folder for a block of code, which no other may enter, in this process neither.

    Arguments and errors are those of `keep`.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with alone(folder, "wait"), alone(folder, "wait until it has ended"):
        ...     pass
        Traceback (most recent call last):
        ...
        jaxnet.errors.UsageError: ... is in use by this process: wait until it has ended
    """
    place = folder.resolve()
    with _guard:
        if place in _alone:
            raise UsageError(f"{folder} is in use by this process: {advice}")
        _alone[place] = _taken(place, advice)
    try:
        yield
    finally:
        with _guard:
            _alone.pop(place).close()


def _taken(folder: Path, advice: str) -> IO[str]:
    path = folder / ".lock"
    try:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115, the lock lasts while it is open
    except OSError as error:
        raise InputError(
            f"{path}: can't be written: {error.strerror or error}. Choose a folder that you may "
            "write."
        ) from error
    try:
        if _locked(file, path):
            file.truncate(0)
            json.dump({"process": os.getpid(), "host": socket.gethostname(), "since": _now()}, file)
            file.flush()
            return file
        file.seek(0)
        holder = _described(file.read())
    except BaseException:
        file.close()
        raise
    file.close()
    raise UsageError(f"{folder} is in use by {holder}: {advice}")


def _locked(file: IO[str], path: Path) -> bool:
    """Whether this process has the lock now, or there can't be one."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            return False
        log.warning(
            "%s: this file system has no locks (%s): see to it yourself that no other run writes "
            "into this folder",
            path,
            error.strerror,
        )
    return True


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _described(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['process']} on {holder['host']} since {holder['since']}"
    except (KeyError, TypeError, ValueError):
        return "another process"

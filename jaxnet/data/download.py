"""Files from the network, checked against a checksum and kept in the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from jaxnet.cache import data_folder
from jaxnet.errors import InputError, UsageError
from jaxnet.files import expanded

log = logging.getLogger("jaxnet")

_BLOCK = 1 << 20
_TIMEOUT = 30.0
_AGAIN_SOON = (408, 425, 429)


@dataclass(frozen=True)
class _Checksum:
    algorithm: str
    expected: str

    def of(self, file: Path) -> str:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, self.algorithm).hexdigest()


class _Interrupted(Exception):
    """What has come so far is kept, and the rest can be asked for."""


class _Refused(Exception):
    """Asking again at the same address won't help."""


def download(
    url: str,
    *mirrors: str,
    sha256: str | None = None,
    md5: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    name: str | None = None,
    attempts: int = 4,
    pause: float = 1.0,
    progress: bool | None = None,
) -> Path:
    """The local copy of a file on the network, fetched when it isn't there yet.

    A download that was cut short goes on where it stopped, in this process or in the next. The
    file takes its name only when it is complete and has the right checksum, which is looked at each
    time: a copy that was changed is downloaded again. Processes that want the same file wait for
    one another.

    Args:
        url: where the file is, http or https.
        mirrors: other addresses of the same file, which are tried in turn.
        sha256: the file's SHA-256, in hexadecimal digits; preferred.
        md5: its MD5, where its publisher tells no better: that guards against accidents and not
            against an attacker.
        folder: where to keep it; by default `data` in the user's cache folder, see `jaxnet.cache`.
        name: what to call it; by default as the address does.
        attempts: how often to ask each address while the network fails, with a growing pause.
        pause: the first pause, in seconds.
        progress: whether to show a progress bar; None shows it where the screen is a terminal.

    Raises:
        UsageError: no checksum, or no folder to put the file into.
        InputError: the file can't be had; the message says which file to put where by hand.

    Example:
        >>> download("file:///cats.tar", sha256="77af")
        Traceback (most recent call last):
        ...
        jaxnet.errors.UsageError: expected an address with http:// or https://, got 'file:///cats.tar'
    """
    checksum = _checksum(url, sha256, md5)
    home = default_folder() if folder is None else expanded(folder)
    file = home / (name or os.path.basename(urlsplit(url).path))
    file.parent.mkdir(parents=True, exist_ok=True)
    with _locked(file):
        if file.exists():
            if checksum.of(file) == checksum.expected:
                return file
            log.warning("%s isn't what it has to be, going by its checksum: fetching it anew", file)
        reasons = []
        for address in (url, *mirrors):
            try:
                _fetch(address, file, checksum, attempts, pause, progress)
                return file
            except (_Interrupted, _Refused) as error:
                reasons.append(f"{address}: {error}")
    raise InputError(
        f"{file.name} can't be downloaded:\n  " + "\n  ".join(reasons) + "\n"
        f"Fetch it yourself ({checksum.algorithm} {checksum.expected}) and put it there: {file}"
    )


def _checksum(url: str, sha256: str | None, md5: str | None) -> _Checksum:
    if urlsplit(url).scheme not in ("http", "https"):
        raise UsageError(f"expected an address with http:// or https://, got {url!r}")
    if sha256 is None and md5 is None:
        raise UsageError(
            f"{url}: expected sha256=... (or md5=...), so that the file can be checked"
        )
    given = ("sha256", sha256) if sha256 else ("md5", md5 or "")
    return _Checksum(given[0], given[1].lower())


def default_folder() -> Path:
    """Where downloads are kept.

    Raises:
        UsageError: the cache is switched off.
    """
    folder = data_folder()
    if folder is None:
        raise UsageError(
            "there is no folder for downloads, because JAXNET_CACHE_DIR switches the cache off; "
            "set it to a folder, or fetch the files yourself and give their folder (--data-dir)"
        )
    return folder


def _fetch(
    url: str, file: Path, checksum: _Checksum, attempts: int, pause: float, progress: bool | None
) -> None:
    """Fetch one address, with several attempts; each goes on where the one before it stopped."""
    part = file.with_name(f"{file.name}.part")
    for attempt in range(1, attempts + 1):
        try:
            whole = not part.exists()
            whole &= _append(url, part, progress)
            found = checksum.of(part)
            if found == checksum.expected:
                os.replace(part, file)
                return
            part.unlink()
            # Two halves may belong to different files; a whole one won't be better next time.
            raise (_Refused if whole else _Interrupted)(
                f"the file was damaged or changed: its {checksum.algorithm} is {found}, "
                f"expected {checksum.expected}"
            )
        except _Interrupted as error:
            if attempt == attempts:
                raise
            log.info("%s: %s; trying again", url, error)
            time.sleep(pause * 2 ** (attempt - 1))


def _append(url: str, part: Path, progress: bool | None) -> bool:
    """Append what is missing of the file to `part`; True where the server said how much it is."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "jaxnet", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT
        ) as response:
            begin = _begin(response)
            length = response.headers.get("Content-Length")
            total = begin + int(length) if length else None
            with open(part, "r+b" if begin else "wb") as opened:
                opened.seek(begin)
                opened.truncate()
                for block in _shown(_blocks(response), part.stem, begin, total, progress):
                    opened.write(block)
                come = opened.tell()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # there is no such range: nothing is missing, or all of it is wrong
            return False
        known = error.code >= 500 or error.code in _AGAIN_SOON
        raise (_Interrupted if known else _Refused)(f"{error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise _Interrupted(str(reason) or type(error).__name__) from error
    if total is not None and come < total:
        raise _Interrupted(f"the connection ended after {come} of {total} bytes")
    return total is not None


def _begin(response: http.client.HTTPResponse) -> int:
    """From which byte on the answer is: 0, unless the server agreed to go on."""
    if response.status != 206:
        return 0
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if match is None:
        raise _Refused("an answer with part of the file that doesn't say which part")
    return int(match[1])


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while block := response.read(_BLOCK):
        yield block


def _shown(
    blocks: Iterator[bytes], name: str, begin: int, total: int | None, progress: bool | None
) -> Iterator[bytes]:
    """The blocks, with a progress bar."""
    if not (sys.stderr.isatty() if progress is None else progress):
        yield from blocks
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total, completed=begin)
        for block in blocks:
            yield block
            bar.advance(task, len(block))


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One process at a time; where the system knows no such lock, the checksum alone guards."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(file.with_name(f".{file.name}.lock"), "w") as lock:
        # A network's file system may have no locks.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield

"""Files that are either whole or not there, and texts in the encoding that they announce."""

from __future__ import annotations

import codecs
import errno
import gzip
import io
import json
import math
import os
import re
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from jaxnet import ending
from jaxnet.errors import InputError, UsageError

# The longer mark first: that of UTF-16 is its beginning.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_CONVERT = "convert the file first, for instance with iconv -f cp1252 -t utf-8"

# What `write_atomically` calls a file that isn't complete: its name and the process's number.
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path that a user gave, where `~` and `~NAME` are home folders, as in a shell.

    A shell expands them where they begin a word; in a TOML file, in Python and in
    `--data-dir=~/DIR` they arrive as they are.

    Raises:
        InputError: there is no such user.

    Example:
        >>> expanded("~/digits") == Path.home() / "digits"
        True
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{path}: there is no home folder that this stands for. Write the path out, or begin "
            "it with ./ if a folder is called so."
        ) from error


@contextmanager
def write_atomically(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing that takes its name only when it is complete.

    Of several processes, which all come to the same, the first one writes; what the others write
    goes nowhere.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with write_atomically(path) as file:
        ...     _ = file.write("all of it")
        >>> path.read_text()
        'all of it'
    """
    if not _writes():
        yield io.BytesIO() if "b" in mode else io.StringIO()
        return
    path = expanded(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with ending.whole():
        try:
            with _errors_name(path), open(temporary, mode, **_text(mode)) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def appending(path: Path) -> Iterator[IO[Any]]:
    """Open a text that is there already, to add to its end.

    Raises:
        FileNotFoundError: it isn't there any more.
    """
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "was removed while it was written", str(path))
    with ending.whole(), _errors_name(path), open(path, "a", **_text("a")) as file:
        yield file


def sweep(folder: Path) -> None:
    """Delete what killed processes left of `write_atomically`, here and two folders down."""
    for pattern in (".*.tmp", "*/.*.tmp", "*/*/.*.tmp"):
        for path in folder.glob(pattern):
            if _TEMPORARY.fullmatch(path.name):
                with suppress(OSError):
                    path.unlink()


def _text(mode: str) -> dict[str, Any]:
    return {} if "b" in mode else {"encoding": "utf-8", "newline": ""}


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """An error in writing says which file: that of a full disk doesn't by itself."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _writes() -> bool:
    # Asked of JAX only where it is at work: by itself the question would start it.
    jax = sys.modules.get("jax")
    return jax is None or not jax.distributed.is_initialized() or jax.process_index() == 0


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file, atomically; see `json_text`."""
    with write_atomically(path) as file:
        file.write(json_text(values, indent=2) + "\n")


def json_text(values: Any, indent: int | None = None) -> str:
    """JSON that every parser takes: a NaN or an infinity, which JSON doesn't have, is null.

    Python's own `json` writes `NaN`, at which browsers, jq and most other languages stop.

    Raises:
        TypeError: a value has no form in JSON.

    Example:
        >>> json_text({"loss": float("nan"), "folds": (0.5, float("inf"))})
        '{"loss": null, "folds": [0.5, null]}'
    """
    return json.dumps(_finite(values), indent=indent, allow_nan=False)


def _finite(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {name: _finite(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def marked_encoding(start: bytes) -> str | None:
    """The encoding that a byte order mark at the start of a file announces, if there is one.

    Example:
        >>> marked_encoding("text".encode("utf-16")), marked_encoding(b"text")
        ('utf-16', None)
    """
    return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), None)


def read_text(path: Path, encoding: str | None = None, advice: str = _CONVERT) -> str:
    r"""A text in UTF-8, or in what its byte order mark announces, with lines that end in `\n`.

    Args:
        path: the file; one that ends in `.gz` is unpacked.
        encoding: that of a file without a byte order mark, by default UTF-8.
        advice: what to do about a file in another encoding, for the message.

    Raises:
        InputError: the file can't be read, or isn't a text.
        UsageError: there is no such encoding.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> _ = path.write_bytes("one\r\ntwo".encode("utf-16"))
        >>> read_text(path)
        'one\ntwo'
    """
    opened: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return decoded(content, str(path), encoding, advice)


def decoded(content: bytes, where: str, encoding: str | None = None, advice: str = _CONVERT) -> str:
    """The text of a file's bytes, as `read_text` reads them; `where` begins the message.

    Raises:
        InputError: these bytes aren't a text.
        UsageError: there is no such encoding.
    """
    encoding = marked_encoding(content) or encoding or "utf-8"
    try:
        text = content.decode(encoding)
    except LookupError as error:
        raise UsageError(
            f"unknown encoding {encoding!r}: expected utf-8, latin-1, cp1252, ..."
        ) from error
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise InputError(
            f"{where}: expected {name}, got byte {content[error.start]:#x} at {error.start}; "
            f"{advice}"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")

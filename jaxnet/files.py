"""Files that are either whole or not there."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from jaxnet.errors import InputError


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
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with open(temporary, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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

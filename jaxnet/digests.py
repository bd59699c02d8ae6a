"""Digests: 32 hexadecimal digits by which values are known again.

They are the same in every process, on every machine and in every version of Python.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

_AT_ONCE = 16 << 20


def digest(*parts: bytes) -> str:
    """32 hexadecimal digits for some bytes; where one part ends and the next begins counts."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(len(part).to_bytes(8, "little") + part)
    return hashed.hexdigest()[:32]


def json_digest(value: Any) -> str:
    """The digest of a value that JSON can hold; the order of a mapping's keys doesn't matter.

    Example:
        >>> json_digest({"a": 1, "b": [2]}) == json_digest({"b": (2,), "a": 1})
        True
    """
    return digest(json.dumps(value, sort_keys=True).encode())


def array_digest(array: np.ndarray, most_bytes: int | None = None) -> str:
    """The digest of an array: its type, its shape and its values.

    Args:
        array: any numbers.
        most_bytes: of larger arrays rows of this size are hashed, evenly spread.
    """
    hashed = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    if most_bytes is not None and array.nbytes > most_bytes:
        kept = max(1, most_bytes * len(array) // array.nbytes)
        array = array[np.linspace(0, len(array) - 1, kept).astype(np.int64)]
    rows = np.atleast_1d(array)
    step = max(1, _AT_ONCE * len(rows) // max(rows.nbytes, 1))
    for start in range(0, len(rows), step):
        part = np.ascontiguousarray(rows[start : start + step])
        hashed.update(part.reshape(-1).view(np.uint8).data)
    return hashed.hexdigest()[:32]


def texts_digest(texts: Iterable[str]) -> str:
    """The digest of texts in their order."""
    return digest(*(text.encode(errors="surrogatepass") for text in texts))

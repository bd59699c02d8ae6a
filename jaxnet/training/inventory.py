"""The inventory of a checkpoint: sizes and checksums of its files, to detect damage."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jaxnet.data.sources import reading_threads
from jaxnet.errors import CheckpointError
from jaxnet.files import write_json

_INVENTORY = "inventory.json"
# Files are read in parts of this many bytes by several threads; each part has a checksum.
PART = 16 << 20


class Unreadable(CheckpointError):
    """A damaged checkpoint; the message names the file."""


def write_inventory(folder: Path, *items: str) -> None:
    """Write the sizes and checksums of all files in some sub-folders of a checkpoint.

    Args:
        folder: the checkpoint; they are written to its `inventory.json`.
        items: the names of the sub-folders.
    """
    files = [path for item in items for path in sorted((folder / item).rglob("*"))]
    files = [path for path in files if path.is_file()]
    sizes = [path.stat().st_size for path in files]
    checksums = _checksums([(path, size, PART) for path, size in zip(files, sizes, strict=True)])
    inventory = {
        str(path.relative_to(folder)): [size, *parts]
        for path, size, parts in zip(files, sizes, checksums, strict=True)
    }
    write_json(folder / _INVENTORY, inventory)


def check_inventory(folder: Path) -> None:
    """Verify the files of a checkpoint against its inventory.

    Raises:
        Unreadable: a file is missing, or its size or a checksum differs.
    """
    inventory = folder / _INVENTORY
    try:
        noted = json.loads(inventory.read_text())
        expected = {name: (size, parts) for name, (size, *parts) in noted.items()}
    except OSError as error:
        raise Unreadable(f"{inventory}: {error.strerror or error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise Unreadable(f"{inventory} is damaged: {error}") from error
    if not expected:
        raise Unreadable(f"{inventory} is empty")
    for name, (size, _) in expected.items():
        file = folder / name
        if not file.exists():
            raise Unreadable(f"{file} is missing")
        if (found := file.stat().st_size) != size:
            raise Unreadable(f"{file} has {found} bytes instead of {size}")
    # Earlier versions wrote a single checksum per file, whatever its size.
    work = [
        (folder / name, size, PART if len(parts) > 1 else max(size, PART))
        for name, (size, parts) in expected.items()
    ]
    try:
        checksums = _checksums(work)
    except OSError as error:
        raise Unreadable(f"{error.filename or folder}: {error.strerror or error}") from error
    for (name, (_, parts)), found in zip(expected.items(), checksums, strict=True):
        if parts != found:
            raise Unreadable(f"{folder / name} was changed: its checksum is wrong")


def _checksums(files: Sequence[tuple[Path, int, int]]) -> list[list[int]]:
    """The CRC-32 of the parts of each file, read by several threads.

    Args:
        files: each with its size and the size of a part, in bytes.
    """
    with ThreadPoolExecutor(reading_threads(), "jaxnet-checksums") as pool:
        futures = [
            [pool.submit(_checksum, file, begin, part) for begin in range(0, max(size, 1), part)]
            for file, size, part in files
        ]
        return [[future.result() for future in parts] for parts in futures]


def _checksum(file: Path, begin: int, length: int) -> int:
    """The CRC-32 of `length` bytes; reading and summing release the interpreter lock."""
    checksum, buffer = 0, memoryview(bytearray(min(length, 1 << 20)))
    with open(file, "rb", buffering=0) as opened:
        opened.seek(begin)
        while length and (got := opened.readinto(buffer[:length])):
            checksum = zlib.crc32(buffer[:got], checksum)
            length -= got
    return checksum

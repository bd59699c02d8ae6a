"""Examples that are read when they are wanted, by several threads: data larger than the memory.

A source is two functions, and what takes a dataset in memory takes a source as well: `split`,
`Trainer.fit`, `evaluate`. `jaxnet.data.ImageFolder` and `jaxnet.data.Records` are sources; one of
your own needs no base class.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jaxnet.data.arrays import Arrays
from jaxnet.data.columns import is_input
from jaxnet.data.order import SPLIT_STREAM, permutation
from jaxnet.errors import InputError

# What one thread reads at a time: enough to outweigh handing it over, little enough that all
# threads have work on a single batch.
_ROWS_AT_ONCE = 16


@runtime_checkable
class Source(Protocol):
    """Examples by number, each a dict of arrays."""

    @property
    def name(self) -> str:
        """What to call the data in messages."""
        ...

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of one example, which has at least `inputs`."""
        ...

    def read(self, rows: np.ndarray, epoch: int) -> Mapping[str, np.ndarray]:
        """The examples at `rows`, an integer array (m,), with the example as leading axis.

        Several threads call it at once. The result depends on nothing but the arguments: `epoch`,
        counted from 0, is for sources that change an example at random each time it is seen.
        """
        ...


@dataclass(frozen=True)
class InputsOnly:
    """A source without its labels, to predict them.

    Attributes:
        source: what to read; it may have labels.
    """

    source: Source

    @property
    def name(self) -> str:
        """What to call the data in messages."""
        return self.source.name

    def __len__(self) -> int:
        return len(self.source)

    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shape and type of one example's inputs."""
        return _inputs(self.source.spec())

    def read(self, rows: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
        """The inputs at `rows`."""
        return _inputs(self.source.read(rows, epoch))


def _inputs(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {path: column for path, column in columns.items() if is_input(path)}


def available_cores() -> int:
    """How many processors this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return cores or 1


def reading_threads() -> int:
    """How many threads read by default: some wait for the disk while the others compute."""
    return min(32, 2 * available_cores())


def read_into(
    columns: Mapping[str, np.ndarray],
    source: Source,
    rows: np.ndarray,
    epoch: int,
    pool: ThreadPoolExecutor,
) -> list[Future[None]]:
    """Start reading: row `i` of `columns` gets the example at `rows[i]`.

    Args:
        columns: an array for each entry of the source's `spec`, at least as long as `rows`.
        source: where to read.
        rows: (m,) integers.
        epoch: counted from 0.
        pool: the threads that read.

    Returns:
        What to wait for; each gives None, or raises what reading raised.
    """

    def fill(begin: int) -> None:
        part = slice(begin, min(begin + _ROWS_AT_ONCE, len(rows)))
        read = source.read(rows[part], epoch)
        for name, column in columns.items():
            values = read[name]
            if values.shape != column[part].shape or values.dtype != column.dtype:
                raise InputError(
                    f"{source.name}: expected {name} {column.dtype} {column[part].shape}, as the "
                    f"spec of the source says, but read gave {values.dtype} {values.shape}"
                )
            column[part] = values

    return [pool.submit(fill, begin) for begin in range(0, len(rows), _ROWS_AT_ONCE)]


def empty_columns(source: Source, rows: int) -> dict[str, np.ndarray]:
    """Zeros for `rows` examples of the source."""
    return {name: np.zeros((rows, *leaf.shape), leaf.dtype) for name, leaf in source.spec().items()}


def size_in_memory(source: Source) -> int:
    """The bytes that all examples of the source would take."""
    row = sum(leaf.dtype.itemsize * int(np.prod(leaf.shape)) for leaf in source.spec().values())
    return row * len(source)


def load(source: Source, rows: np.ndarray | None = None, threads: int | None = None) -> Arrays:
    """Read a source into memory.

    Args:
        source: what to read; its examples have `inputs` and `labels`, and perhaps `weights`.
        rows: (m,) integers, the examples to read; by default all in their order.
        threads: how many threads read.

    Raises:
        InputError: an example can't be read.
    """
    rows = np.arange(len(source)) if rows is None else rows
    columns = empty_columns(source, len(rows))
    pool = ThreadPoolExecutor(threads or reading_threads(), "jaxnet-reader")
    try:
        for future in read_into(columns, source, rows, 0, pool):
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)
    named: dict[str, Any] = {**columns, "class_names": getattr(source, "class_names", None)}
    return Arrays(**named, name=source.name)


def sample(data: Arrays | Source, most: int = 4096, seed: int = 0) -> Arrays:
    """A random sample of at most `most` examples of a source: enough to fit a scale on.

    Arrays are given back whole.
    """
    if isinstance(data, Arrays):
        return data
    rows = np.sort(permutation(seed, SPLIT_STREAM, len(data))[:most])
    return load(data, rows)

"""Collective operations between the processes of a job.

Every process runs the same Python code, and a program over all their devices only runs if all start
it. So whatever decides what is started (a clock, a signal, a folder's contents) must be the same
for all: process 0 looks, and the others take its word. With one process, nothing of this costs
anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxnet.errors import InputError, UsageError

PyTree = Any
JSON = Any

# Messages are padded to a multiple of this, so that few lengths are compiled.
_UNIT = 1024


def several() -> bool:
    """Whether there are other processes."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def from_first(look: Callable[[], JSON]) -> JSON:
    """Broadcast the result of `look`, called in process 0 only; a collective call.

    Args:
        look: gives a value that JSON can hold.

    Example:
        >>> from_first(lambda: {"steps": [10, 20]})
        {'steps': [10, 20]}
    """
    if not several():
        return look()
    from jax.experimental import multihost_utils

    said = json.dumps(look()).encode() if is_first() else b""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(said))))
    padded = np.zeros(-(-length // _UNIT) * _UNIT, np.uint8)
    padded[: len(said)] = np.frombuffer(said, np.uint8)
    heard = multihost_utils.broadcast_one_to_all(padded)
    return json.loads(np.asarray(heard)[:length].tobytes())


def gathered(value: JSON) -> list[JSON]:
    """All-gather the values of all processes, in rank order; a collective call.

    Example:
        >>> gathered({"seed": 0})
        [{'seed': 0}]
    """
    if not several():
        return [value]
    from jax.experimental import multihost_utils

    said = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.int32(len(said))))
    padded = np.zeros(-(-int(lengths.max()) // _UNIT) * _UNIT, np.uint8)
    padded[: len(said)] = said
    heard = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(row[:n].tobytes()) for row, n in zip(heard, lengths, strict=True)]


def by_first(action: Callable[[], Any]) -> None:
    """Run `action` in process 0; its errors are raised in all processes. A collective call.

    Raises:
        InputError: process 0 raised it; a UsageError is raised as such.
    """

    def refusal() -> list[Any] | None:
        try:
            action()
        except InputError as error:
            return [isinstance(error, UsageError), str(error)]
        return None

    if refused := from_first(refusal):
        raise (UsageError if refused[0] else InputError)(refused[1])


def where(here: bool) -> list[int]:
    """The ranks of the processes in which `here` is true; a collective call.

    Example:
        >>> where(True), where(False)
        ([0], [])
    """
    if not several():
        return [0] if here else []
    from jax.experimental import multihost_utils

    said = np.asarray(multihost_utils.process_allgather(np.int32(here)))
    return np.flatnonzero(said).tolist()


def on_host(arrays: PyTree) -> PyTree:
    """Gather sharded arrays as numpy arrays in each process; a collective call.

    Random keys, which NumPy doesn't know, are arrays of this process alone.

    Example:
        >>> on_host({"kernel": jax.numpy.ones(2)})
        {'kernel': array([1., 1.], dtype=float32)}
    """
    if not several():
        return jax.device_get(arrays)
    from jax.experimental import multihost_utils

    def whole(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            numbers = whole(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf))
        spread = isinstance(leaf, jax.Array) and not (
            leaf.is_fully_addressable or leaf.is_fully_replicated
        )
        if not spread:
            return jax.device_get(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(whole, arrays)

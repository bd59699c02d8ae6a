"""Stacks of batches that threads fill in the host's memory and that are sent to the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np

from jaxnet.data.pipeline.device_batches import Chunk, Streamed
from jaxnet.data.pipeline.prefetch import ahead

# A stack of batches on its way to the device is at most this large.
STAGED_BYTES = 64 << 20
# Stacks that may wait for the device: one in use, one ready.
READY_STACKS = 2
# Stacks that are being filled and may wait to be finished, besides the one at which that is.
BEGUN_STACKS = 1


class Stack(NamedTuple):
    """A stack of batches that threads are filling; what it holds beyond `count` is left over.

    Attributes:
        batches: the arrays, (steps, batch, ...).
        count: the number of batches.
        parts: what the threads are at.
        complete: what is left to do when they are done; stacks are completed in their order.
    """

    batches: dict[str, np.ndarray]
    count: int
    parts: list[Future[None]]
    complete: Callable[[], None] = lambda: None


def most_steps(spec: Mapping[str, jax.ShapeDtypeStruct], capacity: int) -> int:
    """How many batches of this `spec` make a stack, at most `capacity`."""
    batch = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in spec.values())
    return max(1, min(capacity, STAGED_BYTES // batch))


def sent_ahead(
    pieces: Iterator[tuple[int, np.ndarray]],
    begin: Callable[[int, np.ndarray, ThreadPoolExecutor], Stack],
    threads: int,
    send: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]] = jax.device_put,
) -> Iterator[Chunk]:
    """The chunks of an epoch, on the device before they are asked for.

    Asking for the next piece may wait until the chunks before it are used (the pace of several
    processes does), so that one thread begins stacks and another one finishes and sends them: what
    is begun is handed over, however long the next piece takes.

    Args:
        pieces: the step at which each chunk begins, and the rows of its batches.
        begin: starts to fill the stack for a piece, with the threads of the pool.
        threads: how many threads fill stacks.
        send: puts a stack where it is needed.
    """
    return ahead(_sent(pieces, begin, threads, send), READY_STACKS)


def _sent(
    pieces: Iterator[tuple[int, np.ndarray]],
    begin: Callable[[int, np.ndarray, ThreadPoolExecutor], Stack],
    threads: int,
    send: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]],
) -> Iterator[Chunk]:
    """The chunks. While one is finished and sent, the threads are at the next."""
    pool = ThreadPoolExecutor(threads, "jaxnet-reader")
    begun = ahead((begin(*piece, pool) for piece in pieces), BEGUN_STACKS)
    try:
        for stack in begun:
            yield _finished(stack, send)
    finally:
        begun.close()
        pool.shutdown(cancel_futures=True)


def _finished(stack: Stack, send: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]]) -> Chunk:
    for part in stack.parts:
        part.result()
    stack.complete()
    return Chunk(Streamed(send(stack.batches)), stack.count)

"""From arrays to stretches of batches on the device, so that the device never waits.

The loop asks a pipeline for an epoch and gets stretches: a feed, which is a pytree that the
compiled program can cut into batches, and how many steps to take from it. There are two feeds.
`Resident` has the whole data on the device and is given only the order of the rows; `Staged` has a
stack of batches that a thread has put together while the device was busy.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxnet.data.arrays import Arrays
from jaxnet.data.order import batches, epoch_order, steps_per_epoch
from jaxnet.errors import InputError, UsageError

Batch = dict[str, jax.Array]
Placement = Literal["auto", "device", "host"]

# Data up to this size is kept on an accelerator; a fraction of the smallest common card.
RESIDENT_BYTES = 2 << 30
# A stack of batches on its way to the device is at most this large.
STAGED_BYTES = 64 << 20
# Stacks that may wait for the device: one in use, one ready.
READY_STACKS = 2


@struct.dataclass
class Resident:
    """Data that lives on the device, and the order in which to take it.

    Attributes:
        columns: the arrays, with the example as leading axis; rows past the last example are never
            in the order.
        order: int32 (steps, batch) row numbers; a row `r` that merely pads a batch stands as `~r`.
    """

    columns: dict[str, jax.Array]
    order: jax.Array

    @property
    def capacity(self) -> int:
        """The number of batches in this feed."""
        return self.order.shape[0]

    def batch(self, step: jax.Array) -> Batch:
        """The batch of one step of this feed, with its `mask`."""
        order = self.order[step]
        mask = order >= 0
        rows = jnp.where(mask, order, ~order)
        taken = {
            name: column.at[rows].get(mode="promise_in_bounds")
            for name, column in self.columns.items()
        }
        return {**taken, "mask": mask}


@struct.dataclass
class Staged:
    """A stack of batches, each of its arrays (steps, batch, ...)."""

    stack: Batch

    @property
    def capacity(self) -> int:
        """The number of batches in this feed."""
        return self.stack["mask"].shape[0]

    def batch(self, step: jax.Array) -> Batch:
        """The batch of one step of this feed."""
        return {name: values[step] for name, values in self.stack.items()}


Feed = Resident | Staged


class Stretch(NamedTuple):
    """`count` steps, to be taken from the beginning of `feed`."""

    feed: Any
    count: int


class Pipeline(Protocol):
    """What the loop needs of data; write your own for data that no `Arrays` can hold."""

    @property
    def name(self) -> str:
        """What to call the data in messages."""
        ...

    @property
    def examples(self) -> int:
        """The number of examples an epoch."""
        ...

    @property
    def steps(self) -> int:
        """The number of batches an epoch."""
        ...

    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes and types of a batch, which has at least `inputs` and `mask`."""
        ...

    def stretches(
        self, seed: int, epoch: int, start: int, size: Callable[[int], int]
    ) -> Iterator[Stretch]:
        """The batches of an epoch from step `start` on, as a pure function of the arguments.

        `size(position)` is the number of steps wanted next; a stretch may have fewer.
        """
        ...


@dataclass(frozen=True, eq=False)
class ArrayPipeline:
    """Batches of arrays in memory.

    The order of an epoch is a pure function of (seed, epoch), so that a resumed run seeks in O(1).
    The last, smaller batch is padded with other rows, which its mask takes out: one shape, one
    compile, and statistics over the batch see real examples only.

    Attributes:
        columns: the arrays by name, with the example as leading axis.
        name: what to call the data in messages.
        batch_size: rows a batch.
        shuffle: whether each epoch has an order of its own.
        resident: whether the data lives on the device (`Resident`) or is sent there (`Staged`).
        capacity: the largest number of steps in a stretch.
    """

    columns: Mapping[str, np.ndarray]
    name: str
    batch_size: int
    shuffle: bool
    resident: bool
    capacity: int

    @property
    def examples(self) -> int:
        """The number of examples."""
        return len(self.columns["inputs"])

    @property
    def steps(self) -> int:
        """The number of batches an epoch."""
        return steps_per_epoch(self.examples, self.batch_size)

    @property
    def bytes(self) -> int:
        """The memory that the arrays take."""
        return sum(column.nbytes for column in self.columns.values())

    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes and types of a batch."""
        columns = {
            name: jax.ShapeDtypeStruct((self.batch_size, *column.shape[1:]), column.dtype)
            for name, column in self.columns.items()
        }
        return {**columns, "mask": jax.ShapeDtypeStruct((self.batch_size,), jnp.bool_)}

    def stretches(
        self, seed: int, epoch: int, start: int, size: Callable[[int], int]
    ) -> Iterator[Stretch]:
        """The batches of an epoch from step `start` on."""
        order = epoch_order(seed, epoch, self.examples, shuffle=self.shuffle)
        pieces = _pieces(
            batches(order, self.batch_size), start, lambda step: min(size(step), self._capacity)
        )
        if self.resident:
            return map(self._take_resident, pieces)
        return _ahead(map(self._take_staged, pieces))

    @cached_property
    def _capacity(self) -> int:
        if self.resident:
            return self.capacity
        row = sum(column[:1].nbytes for column in self.columns.values())
        return max(1, min(self.capacity, STAGED_BYTES // (row * self.batch_size)))

    @cached_property
    def _on_device(self) -> dict[str, jax.Array]:
        # Padded to a rounded length, so that data of about the same size shares one program.
        rows = rounded_up(self.examples)
        padded = {}
        for name, column in self.columns.items():
            filler = np.zeros((rows - len(column), *column.shape[1:]), column.dtype)
            padded[name] = jax.device_put(np.concatenate([column, filler]))
        return padded

    def _take_resident(self, order: np.ndarray) -> Stretch:
        return Stretch(Resident(self._on_device, jax.device_put(self._full(order))), len(order))

    def _take_staged(self, order: np.ndarray) -> Stretch:
        order_ = self._full(order)
        rows = np.where(order_ < 0, ~order_, order_)
        stack = {name: np.take(column, rows, axis=0) for name, column in self.columns.items()}
        return Stretch(Staged(jax.device_put({**stack, "mask": order_ >= 0})), len(order))

    def _full(self, order: np.ndarray) -> np.ndarray:
        """The order with as many rows as a stretch can have, so that all share one shape."""
        full = np.full((self._capacity, self.batch_size), ~0, np.int32)
        full[: len(order)] = order
        return full


def pipeline(
    data: Arrays | tuple[Any, Any] | Pipeline,
    batch_size: int,
    *,
    shuffle: bool,
    placement: Placement = "auto",
    capacity: int = 1,
) -> Pipeline:
    """A pipeline over `data`: arrays, a pair `(inputs, labels)`, or a pipeline of your own.

    Args:
        data: what to train on or to evaluate.
        batch_size: examples a batch.
        shuffle: whether each epoch has an order of its own.
        placement: `"device"` keeps the data there, `"host"` sends batches from a thread; `"auto"`
            keeps it there up to `RESIDENT_BYTES`.
        capacity: the largest number of steps in a stretch.

    Raises:
        UsageError: an impossible value.
        InputError: no data, or arrays that can't be trained on; see `Arrays`.
    """
    if placement not in ("auto", "device", "host"):
        raise UsageError(f"expected placement 'auto', 'device' or 'host', got {placement!r}")
    arrays = checked(data)
    if not isinstance(arrays, Arrays):
        return arrays
    made = ArrayPipeline(arrays.columns(), arrays.name, batch_size, shuffle, False, capacity)
    resident = placement == "device" or (placement == "auto" and made.bytes <= RESIDENT_BYTES)
    return replace(made, resident=resident)


def checked(data: Any) -> Arrays | Pipeline:
    """What may stand for data: a pair `(inputs, labels)` as `Arrays`, all else as it is.

    Raises:
        InputError: it is something else, or arrays that can't be trained on.
    """
    if isinstance(data, Arrays) or hasattr(data, "stretches"):
        return data
    if isinstance(data, tuple) and len(data) == 2:
        return Arrays(*data)
    got = f"a tuple of {len(data)}" if isinstance(data, tuple) else type(data).__name__
    raise InputError(
        f"expected Arrays, a pair (inputs, labels) or a Pipeline, got {got}. "
        "Weights of examples go into Arrays(inputs, labels, weights)."
    )


def rounded_up(n: int) -> int:
    """The next number at or above `n` with 5 significant bits: at most 1/16 larger.

    Example:
        >>> rounded_up(60_000), rounded_up(1_257)
        (61440, 1280)
    """
    unit = 1 << max(0, n.bit_length() - 5)
    return -(-n // unit) * unit


def _pieces(order: np.ndarray, start: int, size: Callable[[int], int]) -> Iterator[np.ndarray]:
    """The rows of `order` in stretches, until there are none or none are wanted."""
    while start < len(order) and (count := size(start)) > 0:
        yield order[start : start + count]
        start += count


def _ahead(items: Iterator[Stretch]) -> Iterator[Stretch]:
    """The items, made by a thread that runs ahead; it ends when the consumer does."""
    ready: queue.Queue[Any] = queue.Queue(READY_STACKS)
    stopped = threading.Event()

    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=produce, name="jaxnet-pipeline", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()

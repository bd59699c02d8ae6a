"""From arrays to chunks of batches on the device, so that the device never waits.

A pipeline yields chunks of an epoch: batches on the device (a feed, see
`jaxnet.data.pipeline.device_batches`), and how many steps to take from them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.data.arrays import Arrays
from jaxnet.data.batches import Batches
from jaxnet.data.columns import first_column
from jaxnet.data.named_arrays import NamedArrays
from jaxnet.data.order import batches, epoch_draws, epoch_order, steps_per_epoch
from jaxnet.data.padding import Padding
from jaxnet.data.pipeline.accepted import checked
from jaxnet.data.pipeline.batch_stream import BatchStream
from jaxnet.data.pipeline.device_batches import ONE_DEVICE, BatchPlacement, Chunk, OnDevice
from jaxnet.data.pipeline.host_augmentation import Fill, HostAugmentation
from jaxnet.data.pipeline.memory import Memory
from jaxnet.data.pipeline.protocol import Pipeline
from jaxnet.data.pipeline.stacks import Stack, most_steps, sent_ahead
from jaxnet.data.sources import (
    Source,
    available_cores,
    read_into,
    reading_threads,
)
from jaxnet.errors import UsageError

log = logging.getLogger("jaxnet")

Placement = Literal["auto", "device", "host"]

# Data up to this size is kept on an accelerator; a fraction of the smallest common card.
RESIDENT_BYTES = 2 << 30
# Threads that copy rows into a stack; more would wait for the memory. They share it in so many
# parts, so that none waits long for the others.
COPYING_THREADS = min(4, available_cores())
PARTS = 4 * COPYING_THREADS
# The maximum batches of a stack that is read: reading a batch takes far longer than the
# dispatch that a larger stack would save.
READ_STEPS = 4


class _Batches:
    """What the batches of arrays and of sources have in common."""

    batch_size: int
    capacity: int
    places: BatchPlacement

    @property
    def examples(self) -> int:
        """The number of examples."""
        raise NotImplementedError

    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes and types of an example."""
        raise NotImplementedError

    @property
    def steps(self) -> int:
        """The number of batches an epoch."""
        return steps_per_epoch(self.examples, self.batch_size)

    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes and types of a batch."""
        columns = {
            name: jax.ShapeDtypeStruct((self.batch_size, *leaf.shape), leaf.dtype)
            for name, leaf in self.example().items()
        }
        return {**columns, "mask": jax.ShapeDtypeStruct((self.batch_size,), jnp.bool_)}

    def _send(self, batches: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        return self.places.shard_batch(batches, self.batch_size)

    @cached_property
    def _capacity(self) -> int:
        return most_steps(self.spec(), self.capacity)

    @cached_property
    def _memory(self) -> Memory:
        return Memory()


@dataclass(frozen=True, eq=False)
class ArrayPipeline(_Batches):
    """Batches of arrays in memory.

    The order of an epoch is a pure function of (seed, epoch), so that a resumed run seeks in O(1).
    The last, smaller batch is padded with other rows, which its mask takes out: one shape, one
    compile, and statistics over the batch see real examples only.

    Attributes:
        columns: the arrays by name, with the example as leading axis.
        name: what to call the data in messages.
        batch_size: rows a batch.
        shuffle: whether each epoch has an order of its own.
        resident: whether the data lives on the device (`OnDevice`) or is sent there (`Streamed`).
        capacity: the largest number of steps in a chunk.
        augment: how to vary inputs that are sent to the device, such as `CropFlip`.
        places: where batches go.
    """

    columns: Mapping[str, np.ndarray]
    name: str
    batch_size: int
    shuffle: bool
    resident: bool
    capacity: int
    augment: HostAugmentation | None = None
    places: BatchPlacement = ONE_DEVICE

    @property
    def examples(self) -> int:
        """The number of examples."""
        return len(first_column(self.columns))

    @property
    def bytes(self) -> int:
        """The memory that the arrays take."""
        return sum(column.nbytes for column in self.columns.values())

    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes and types of an example."""
        return {
            name: jax.ShapeDtypeStruct(column.shape[1:], column.dtype)
            for name, column in self.columns.items()
        }

    def chunks(
        self, seed: int, epoch: int, start: int, size: Callable[[int], int]
    ) -> Iterator[Chunk]:
        """The batches of an epoch from step `start` on."""
        order = epoch_order(seed, epoch, self.examples, shuffle=self.shuffle)
        pieces = _pieces(batches(order, self.batch_size), start, size, self._capacity)
        if self.resident:
            return (self._take_resident(order) for _, order in pieces)
        draws = None
        if self.augment:
            draws = epoch_draws(seed, epoch, self.steps * self.batch_size)
            draws = draws.reshape(self.steps, self.batch_size)

        def begin(start: int, order: np.ndarray, pool: ThreadPoolExecutor) -> Stack:
            # This process fills the rows of its own devices; others fill theirs.
            own = self.places.rows(self.batch_size)
            stack = self._memory.stack(_rows_of(self.spec(), own), self._capacity)
            chosen = None if draws is None else draws[start : start + len(order), own]
            order = order[:, own]
            cuts = np.linspace(0, len(order), min(len(order), PARTS) + 1).astype(int)
            fill = partial(self._fill, stack, order, chosen)
            return Stack(stack, len(order), [pool.submit(fill, *c) for c in pairwise(cuts)])

        return sent_ahead(pieces, begin, COPYING_THREADS, self._send)

    @cached_property
    def _capacity(self) -> int:
        if self.resident:
            return self.capacity
        return most_steps(self.spec(), self.capacity)

    @cached_property
    def _on_device(self) -> dict[str, jax.Array]:
        # Padded to a rounded length, so that data of about the same size shares one program.
        rows = rounded_up(self.examples)
        padded = {}
        for name, column in self.columns.items():
            filler = np.zeros((rows - len(column), *column.shape[1:]), column.dtype)
            padded[name] = self.places.replicate(np.concatenate([column, filler]))
        return padded

    def _take_resident(self, order: np.ndarray) -> Chunk:
        full = _full(order, self._capacity)
        return Chunk(
            OnDevice(self._on_device, self.places.shard_batch(full, self.batch_size)), len(order)
        )

    def _fill(
        self,
        stack: dict[str, np.ndarray],
        order: np.ndarray,
        draws: np.ndarray | None,
        begin: int,
        end: int,
    ) -> None:
        """Write the batches from step `begin` to `end`."""
        order, part = order[begin:end], slice(begin, end)
        stack["mask"][part] = order >= 0
        rows = np.where(order < 0, ~order, order)
        for name, column in self.columns.items():
            if draws is None or name != "inputs":
                # The rows are in range: "clip" only spares NumPy a buffer.
                np.take(column, rows, axis=0, out=stack[name][part], mode="clip")
        if draws is not None:
            self._vary(stack["inputs"][part], rows, draws[part])

    @cached_property
    def _vary(self) -> Fill:
        assert self.augment is not None
        return self.augment.open(self.columns["inputs"])


@dataclass(frozen=True, eq=False)
class SourcePipeline(_Batches):
    """Batches of a source, read while the device computes.

    Several threads read and decode, one more puts stacks of batches together, and both run ahead.
    Order, padding and mask are those of `ArrayPipeline`: a source and the same data in arrays give
    the same batches. Padding is copied and not read, and a resumed run reads nothing but what it
    still needs.

    Attributes:
        source: where to read.
        batch_size: examples a batch.
        shuffle: whether each epoch has an order of its own.
        capacity: the largest number of steps in a chunk.
        threads: how many threads read; None takes two for each processor.
        places: where batches go.
    """

    source: Source
    batch_size: int
    shuffle: bool = True
    capacity: int = READ_STEPS
    threads: int | None = None
    places: BatchPlacement = ONE_DEVICE

    @property
    def name(self) -> str:
        """What to call the data in messages."""
        return self.source.name

    @property
    def examples(self) -> int:
        """The number of examples."""
        return len(self.source)

    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes and types of an example."""
        return dict(self.source.spec())

    def chunks(
        self, seed: int, epoch: int, start: int, size: Callable[[int], int]
    ) -> Iterator[Chunk]:
        """The batches of an epoch from step `start` on."""
        order = epoch_order(seed, epoch, self.examples, shuffle=self.shuffle)
        order = batches(order, self.batch_size)
        own = self.places.rows(self.batch_size)
        pieces = _pieces(order, start, size, self._capacity)
        padding = Padding(order[:, own], self.examples, start)

        def begin(step: int, order: np.ndarray, pool: ThreadPoolExecutor) -> Stack:
            stack = self._memory.stack(_rows_of(self.spec(), own), self._capacity)
            order = order[:, own]
            stack["mask"][: len(order)] = order >= 0
            columns = {
                name: stack[name].reshape(-1, *leaf.shape)
                for name, leaf in self.source.spec().items()
            }
            rows = order.ravel()
            wanted = rows[: padding.to_read(rows)]
            wanted = np.where(wanted < 0, ~wanted, wanted)
            parts = read_into(columns, self.source, wanted, epoch, pool)
            return Stack(stack, len(order), parts, partial(padding.fill, columns, rows, step))

        return sent_ahead(pieces, begin, self.threads or reading_threads(), self._send)


def pipeline(
    data: Any,
    batch_size: int,
    *,
    shuffle: bool,
    placement: Placement = "auto",
    capacity: int = 1,
    augment: HostAugmentation | None = None,
    places: BatchPlacement = ONE_DEVICE,
    steps: int | None = None,
    passes: int | None = None,
    counted: bool = True,
) -> Pipeline:
    """A pipeline over `data`.

    Args:
        data: what to train on or to evaluate; see `checked` for what it may be.
        batch_size: examples per batch; an iterable of batches has its own.
        shuffle: whether each epoch has an order of its own.
        placement: `"device"` keeps the data there, `"host"` sends batches from a thread; `"auto"`
            keeps it there up to `RESIDENT_BYTES`.
        capacity: the largest number of steps in a chunk.
        augment: how to vary inputs on the host, for `placement="host"` (see
            `jaxnet.data.pipeline.host_augmentation.CropFlip`); on the device
            `jaxnet.training.augment` does it.
        places: where batches go; a pipeline of your own goes there when it is used.
        steps: batches per epoch, of an iterable of batches that doesn't know them.
        passes: how often the data will be read, where that is known: an iterator can be once.
        counted: whether the number of batches of an iterable has to be known beforehand.

    Raises:
        UsageError: an impossible value.
        InputError: no data, or arrays that can't be trained on; see `Arrays`.
    """
    if placement not in ("auto", "device", "host"):
        raise UsageError(f"expected placement 'auto', 'device' or 'host', got {placement!r}")
    if augment is not None and placement != "host":
        raise UsageError(
            f"augment={augment} varies data on the host, and with placement={placement!r} it may "
            "live on the device: take placement='host', or jaxnet.training.augment(task, ...)"
        )
    arrays = checked(data)
    if augment is not None and not isinstance(arrays, Arrays):
        raise UsageError(
            f"augment={augment} is for arrays in memory, and {arrays.name} is read as it is used: "
            "take jaxnet.training.augment(task, ...)"
        )
    if isinstance(arrays, Batches):
        stream = BatchStream.of(arrays, capacity, places, steps, passes, counted)
        rows = stream.spec()["mask"].shape[0]
        if counted and rows != batch_size:
            log.info("%s: batches of %d rows, as it yields them", stream.name, rows)
        return stream
    if isinstance(arrays, Source):
        steps = min(capacity, READ_STEPS)
        return SourcePipeline(arrays, batch_size, shuffle, steps, places=places)
    if not isinstance(arrays, Arrays | NamedArrays):
        return arrays
    made = ArrayPipeline(
        arrays.columns(), arrays.name, batch_size, shuffle, False, capacity, augment, places
    )
    resident = placement == "device" or (placement == "auto" and made.bytes <= RESIDENT_BYTES)
    return replace(made, resident=resident)


def _rows_of(
    spec: Mapping[str, jax.ShapeDtypeStruct], rows: slice
) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a part of a batch."""
    count = rows.stop - rows.start
    return {
        name: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype)
        for name, leaf in spec.items()
    }


def rounded_up(n: int) -> int:
    """The next number at or above `n` with 5 significant bits: at most 1/16 larger.

    Example:
        >>> rounded_up(60_000), rounded_up(1_257)
        (61440, 1280)
    """
    unit = 1 << max(0, n.bit_length() - 5)
    return -(-n // unit) * unit


def _full(order: np.ndarray, steps: int) -> np.ndarray:
    """The order with as many steps as a chunk can have, so that all share one shape."""
    full = np.full((steps, order.shape[1]), ~0, np.int32)
    full[: len(order)] = order
    return full


def _pieces(
    order: np.ndarray, start: int, size: Callable[[int], int], most: int
) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of `order` in chunks and where each begins, until none are left or wanted."""
    while start < len(order) and (count := min(size(start), most)) > 0:
        yield start, order[start : start + count]
        start += count

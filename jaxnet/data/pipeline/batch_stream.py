"""A pipeline over an iterable of batches, which a thread reads ahead."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.data.batches import Batches
from jaxnet.data.columns import first_column
from jaxnet.data.pipeline.device_batches import ONE_DEVICE, BatchPlacement, Chunk, Streamed
from jaxnet.data.pipeline.memory import Memory
from jaxnet.data.pipeline.prefetch import ahead
from jaxnet.data.pipeline.stacks import READY_STACKS, most_steps
from jaxnet.errors import InputError, UsageError

Columns = dict[str, np.ndarray]

log = logging.getLogger("jaxnet")

# A chunk of batches is dispatched when this time has passed, although there is room for more.
CHUNK_SECONDS = 0.05


@dataclass
class _Reader:
    """Reads an iterable of batches from any position.

    Attributes:
        data: the batches.
        steps: batches per epoch.
    """

    data: Batches
    steps: int
    _iterator: Iterator[Columns] | None = field(default=None, init=False)
    _position: int = field(default=0, init=False)
    _looked_at: Columns | None = field(default=None, init=False)

    def first(self) -> Columns:
        """The first batch, which an iterator still yields afterwards."""
        if self._looked_at is None:
            batches = self._pass(0)
            self._looked_at = next(batches, None)
            if self._looked_at is None:
                raise InputError(f"{self.data.name}: expected at least one batch, got none")
            if not self.data.once and isinstance(batches, Generator):
                batches.close()
        return self._looked_at

    def read(self, epoch: int, start: int) -> Iterator[Columns]:
        """The batches of an epoch from step `start` on.

        Raises:
            InputError: an iterator would have to be restarted, or there are too few batches.
        """
        if self.data.once:
            yield from self._continued(epoch * self.steps + start)
            return
        if start:
            self._tell(epoch, start)
        batches = self._pass(epoch)
        try:
            for step in range(self.steps):
                batch = next(batches, None)
                if batch is None:
                    self._end(step)
                elif step >= start:
                    yield batch
        finally:
            if isinstance(batches, Generator):
                batches.close()

    def _continued(self, position: int) -> Iterator[Columns]:
        """The batches of an iterator from a position on that it hasn't passed."""
        if position < self._position:
            raise InputError(
                f"{self.data.name}: an iterator can't be restarted, and is asked for batch "
                f"{position + 1} after batch {self._position}. Pass the function that makes it, "
                "or a list of the batches"
            )
        if position > self._position:
            self._tell(*divmod(position, self.steps))
        first, batches = self.first(), self._pass(0)
        while True:
            batch = first if self._position == 0 else next(batches, None)
            if batch is None:
                self._end(self._position)
                return
            self._position += 1
            if self._position > position:
                yield batch

    def _pass(self, epoch: int) -> Iterator[Columns]:
        if not self.data.once:
            return self.data.read(epoch)
        self._iterator = self._iterator or self.data.read(0)
        return self._iterator

    def _tell(self, epoch: int, start: int) -> None:
        how = "the epoch decides its order"
        if not self.data.exact:
            how = "the result is that of an uninterrupted run if it yields the same batches again"
        log.info("%s: skips %d batches of epoch %d: %s.", self.data.name, start, epoch + 1, how)

    def _end(self, step: int) -> None:
        raise InputError(
            f"{self.data.name}: expected {self.steps} batches, got {step}. Say their number: "
            f"jaxnet.data.Batches(..., steps={max(step, 1)})"
        )


@dataclass(frozen=True, eq=False)
class BatchStream:
    """A pipeline over an iterable of batches, which a thread reads ahead.

    Attributes:
        reader: reads the batches.
        examples: examples per epoch; where it wasn't counted, that of full batches.
        capacity: the maximum number of steps per chunk.
        places: the placement of the batches.
    """

    reader: _Reader
    examples: int
    capacity: int
    places: BatchPlacement = ONE_DEVICE

    @staticmethod
    def of(
        data: Batches, capacity: int, places: BatchPlacement, steps: int | None = None
    ) -> BatchStream:
        """The pipeline over some batches.

        Args:
            data: the batches.
            capacity: the maximum number of steps per chunk.
            places: the placement of the batches.
            steps: batches per epoch where they aren't known; None counts them, in a pass of its
                own.

        Raises:
            InputError: there are no batches.
            UsageError: several processes train together.
        """
        known, examples = data.known_steps() or steps, None
        if known is None:
            log.info(
                "%s: reads all batches once to count them; jaxnet.data.Batches(..., steps=N) "
                "spares that.",
                data.name,
            )
            rows = [len(first_column(columns)) for columns in data.read(0)]
            known, examples = len(rows), sum(rows)
        reader = _Reader(data, max(known, 1))
        rows = len(first_column(reader.first()))
        if places.rows(rows) != slice(0, rows):
            raise UsageError(
                f"{data.name}: batches of an iterable can't be sharded over processes, each of "
                "which would read all of them: train on jaxnet.data.Records or a Source"
            )
        return BatchStream(reader, examples or known * rows, capacity, places)

    @property
    def name(self) -> str:
        """The name of the data in messages."""
        return self.reader.data.name

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return self.reader.steps

    @cached_property
    def _spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        first = self.reader.first()
        columns = {
            path: jax.ShapeDtypeStruct(column.shape, column.dtype) for path, column in first.items()
        }
        rows = len(first_column(first))
        return {**columns, "mask": jax.ShapeDtypeStruct((rows,), jnp.bool_)}

    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes and types of a batch: those of the first one."""
        return self._spec

    def chunks(
        self, seed: int, epoch: int, start: int, size: Callable[[int], int]
    ) -> Iterator[Chunk]:
        """The batches of an epoch from step `start` on; their order is that of the iterable."""
        return ahead(self._chunks(epoch, start, size), READY_STACKS)

    def _chunks(self, epoch: int, start: int, size: Callable[[int], int]) -> Iterator[Chunk]:
        batches, position = self.reader.read(epoch, start), start
        capacity = most_steps(self.spec(), self.capacity)
        while position < self.steps and (count := min(size(position), capacity)) > 0:
            stack, filled = self._memory.stack(self.spec(), capacity), 0
            due = time.monotonic() + CHUNK_SECONDS
            for filled in range(1, min(count, self.steps - position) + 1):
                self._fill(stack, filled - 1, next(batches), position + filled)
                if time.monotonic() > due:
                    break
            yield Chunk(Streamed(self.places.shard_batch(stack, len(stack["mask"][0]))), filled)
            position += filled

    def _fill(self, stack: Columns, step: int, batch: Columns, number: int) -> None:
        """Write a batch into a stack, padded with copies of its rows."""
        spec = self.spec()
        if batch.keys() != (expected := spec.keys() - {"mask"}):
            raise InputError(
                f"{self.name}: expected {', '.join(sorted(expected))} in every batch, "
                f"as in the first, got {', '.join(sorted(batch))} in batch {number}"
            )
        count = len(first_column(batch))
        for path, column in batch.items():
            like = spec[path]
            fits = column.shape[1:] == like.shape[1:] and column.dtype == like.dtype
            if not fits or len(column) != count or not 0 < count <= like.shape[0]:
                raise InputError(
                    f"{self.name}: expected {path} of {like.dtype} {like.shape} in every "
                    f"batch, as in the first, or with fewer rows, got {column.dtype} "
                    f"{column.shape} in batch {number}"
                )
            filled = stack[path][step]
            filled[:count] = column
            if count < len(filled):
                filled[count:] = column[np.arange(len(filled) - count) % count]
        stack["mask"][step] = np.arange(len(stack["mask"][step])) < count

    @cached_property
    def _memory(self) -> Memory:
        return Memory()

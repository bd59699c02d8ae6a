"""A pipeline over an iterable of batches, which a thread reads ahead."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

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
# The maximum bytes of an iterator of unknown length, which is read into memory.
MOST_READ_AHEAD = 1 << 30


@dataclass
class _Reader:
    """Reads an iterable of batches from any position.

    Attributes:
        data: the batches.
        steps: batches per epoch; None reads to the end.
    """

    data: Batches
    steps: int | None
    _iterator: Iterator[Columns] | None = field(default=None, init=False)
    _read_ahead: deque[Columns] = field(default_factory=deque, init=False)
    _position: int = field(default=0, init=False)
    _in_pass: int = field(default=0, init=False)
    _pass_length: int | None = field(default=None, init=False)
    _first: Columns | None = field(default=None, init=False)
    _told: bool = field(default=False, init=False)

    def first(self) -> Columns:
        """The first batch, which an iterator still yields afterwards."""
        if self._first is None:
            batches = self._iterator = self.data.read(0)
            self._first = next(batches, None)
            if self._first is None:
                used = ", or it has been read already" if self.data.once else ""
                raise InputError(f"{self.data.name}: expected at least one batch, got none{used}")
            if self.data.once:
                self._read_ahead.append(self._first)
            else:
                self._close()
        return self._first

    def read_whole(self) -> int:
        """Read an iterator to its end, into memory. Returns the number of its batches.

        Raises:
            InputError: it is too large for that.
        """
        size = sum(column.nbytes for column in self.first().values())
        for batch in self._iterator or ():
            self._read_ahead.append(batch)
            size += sum(column.nbytes for column in batch.values())
            if size > MOST_READ_AHEAD:
                raise InputError(
                    f"{self.data.name}: an iterator of unknown length, of which "
                    f"{len(self._read_ahead)} batches take {size >> 20} MB: say steps=N, or pass "
                    "the function that makes it"
                )
        return len(self._read_ahead)

    def read(self, epoch: int, start: int) -> Iterator[Columns]:
        """The batches of an epoch from step `start` on.

        Raises:
            InputError: an iterator would have to be restarted, or there are too few batches.
        """
        if self.data.once or (self.data.steps is not None and not self.data.exact):
            yield from self._continued(epoch * (self.steps or 0) + start)
            return
        if (epoch or start) and not self._position:
            self._tell(start)
        batches = self.data.read(epoch)
        try:
            for step in range(self.steps or sys.maxsize):
                batch = next(batches, None)
                if batch is None:
                    if self.steps is not None:
                        self._end(step)
                    return
                self._position += 1
                if step >= start:
                    yield batch
            if next(batches, None) is not None:
                self._warn_of_rest()
        finally:
            if isinstance(batches, Generator):
                batches.close()

    def _continued(self, position: int) -> Iterator[Columns]:
        """The batches from a position on, counted over all epochs: each takes the next ones."""
        if self._iterator is None or (position < self._position and not self.data.once):
            self._close()
            self._iterator = self.data.read(0)
            self._position = self._in_pass = 0
        if position < self._position:
            raise InputError(
                f"{self.data.name}: an iterator can't be restarted, and is asked for batch "
                f"{position + 1} after batch {self._position}. Pass the function that makes it"
            )
        if position > self._position:
            self._tell(position)
        while (batch := self._next()) is not None:
            self._position += 1
            if self._position > position:
                yield batch
            elif self._pass_length and self._in_pass == 1:
                # Whole passes needn't be read to be skipped.
                left = position - self._position
                self._position += left - left % self._pass_length

    def _next(self) -> Columns | None:
        """The next batch, of the next pass where one has ended; None at the end of all."""
        if self._read_ahead:
            batch = self._read_ahead.popleft()
        else:
            batch = next(self._iterator or iter(()), None)
        if batch is None and self.steps is not None:
            if self.data.once:
                raise InputError(
                    f"{self.data.name}: the iterator ended after {self._position} batches, which "
                    f"is within an epoch of {self.steps}: train for fewer epochs or steps, or pass "
                    "the function that makes it"
                )
            if self._in_pass < self.steps:
                self._end(self._in_pass)
            self._pass_length, self._in_pass = self._in_pass, 0
            self._iterator = self.data.read(0)
            batch = next(self._iterator, None)
            if batch is None:
                raise InputError(
                    f"{self.data.name}: can't be restarted: its second pass yields no batch. Pass "
                    "a function that makes a new iterator each time"
                )
        self._in_pass += 1
        return batch

    def _close(self) -> None:
        if isinstance(self._iterator, Generator):
            self._iterator.close()
        self._iterator = None

    def _tell(self, skipped: int) -> None:
        how = "the epoch decides its order, so that the run resumes exactly"
        if not self.data.exact:
            how = (
                "weights, optimizer and step are exact; the batches are those of an uninterrupted "
                "run if each pass yields the same (a shuffled DataLoader doesn't: a method "
                "set_epoch, or a function that takes epoch, would decide its order)"
            )
        log.info("%s: resumes, skipping %d batches: %s.", self.data.name, skipped, how)

    def _warn_of_rest(self) -> None:
        if not self._told:
            self._told = True
            log.warning(
                "%s: a pass yields more than %d batches, its length: the others are left out of "
                "each epoch",
                self.data.name,
                self.steps,
            )

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
        data: Batches,
        capacity: int,
        places: BatchPlacement,
        steps: int | None = None,
        passes: int | None = None,
        counted: bool = True,
    ) -> BatchStream:
        """The pipeline over some batches.

        Args:
            data: the batches.
            capacity: the maximum number of steps per chunk.
            places: the placement of the batches.
            steps: batches per epoch where they aren't known; None counts them, in a pass of its
                own.
            passes: how often all batches will be read, where that is known.
            counted: whether the number of steps matters; if not, a pass ends where it ends.

        Raises:
            InputError: there are no batches, or an iterator would be read more than once.
            UsageError: several processes train together.
        """
        known, examples = data.known_steps() or steps, None
        unknown = data.steps is None and steps is None
        if data.once and passes != 1 and (unknown or not counted):
            raise InputError(
                f"{data.name}: an iterator ({type(data.batches).__name__}) can be read once: pass "
                "the function that makes it; or train with epochs=1 or steps=N; or say "
                "jaxnet.data.Batches(iterator, steps=N), of which an epoch takes the next N"
            )
        reader = _Reader(data, known)
        if known is None and data.once and counted:
            reader.steps = reader.read_whole()
        elif known is None and counted:
            rows = _counted(data)
            reader.steps, examples = max(len(rows), 1), sum(rows)
        rows = len(first_column(reader.first()))
        if places.rows(rows) != slice(0, rows):
            raise UsageError(
                f"{data.name}: batches of an iterable can't be sharded over processes, each of "
                "which would read all of them: train on jaxnet.data.Records or a Source"
            )
        return BatchStream(reader, examples or (reader.steps or 1) * rows, capacity, places)

    @property
    def name(self) -> str:
        """The name of the data in messages."""
        return self.reader.data.name

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return self.reader.steps or sys.maxsize

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
            for batch in islice(batches, min(count, self.steps - position)):
                self._fill(stack, filled, batch, position + filled + 1)
                filled += 1
                if time.monotonic() > due:
                    break
            if not filled:
                return
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


def _counted(data: Batches) -> list[int]:
    """The rows of each batch of a pass."""
    log.info(
        "%s: reads all batches once to count them; jaxnet.data.Batches(..., steps=N) spares that.",
        data.name,
    )
    rows = []
    for columns in data.read(0):
        rows.append(len(first_column(columns)))
        if len(rows) in (10_000, 100_000, 1_000_000):
            log.warning(
                "%s: %d batches so far, and still counting. If it never ends, say how many make an "
                "epoch: jaxnet.data.Batches(..., steps=N)",
                data.name,
                len(rows),
            )
    return rows

"""What the training loop needs of data: chunks of batches, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import jax

from jaxnet.data.pipeline.device_batches import Chunk


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

    def chunks(
        self, seed: int, epoch: int, start: int, size: Callable[[int], int]
    ) -> Iterator[Chunk]:
        """The batches of an epoch from step `start` on, as a pure function of the arguments.

        `size(position)` is the number of steps wanted next; a chunk may have fewer. Where several
        processes train together, it may wait until the steps before that position are taken: a
        pipeline that works ahead hands over what it has before or while it asks.
        """
        ...

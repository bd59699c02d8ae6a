"""Batches on the device: pytrees with a chunk of an epoch, from which compiled programs take them.

`OnDevice` holds the whole data on the device and is given only the order of the rows; `Streamed`
holds a stack of batches that a thread has put together while the device was busy.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import struct

Batch = dict[str, jax.Array]


class BatchPlacement(Protocol):
    """Where the arrays of a feed go."""

    def replicate(self, arrays: Any) -> Any:
        """Arrays of which any part may be needed anywhere."""
        ...

    def rows(self, batch: int) -> slice:
        """The rows of a batch of this size that this process needs."""
        ...

    def shard_batch(self, arrays: Any, batch: int) -> Any:
        """Arrays (steps, batch, ...), of which each device needs its part of the batch.

        Args:
            arrays: with all rows of the batches, or with `rows(batch)` of them.
            batch: the number of all rows.
        """
        ...


class OneDevice:
    """Everything goes to the one device."""

    def replicate(self, arrays: Any) -> Any:
        """See `BatchPlacement`."""
        return jax.device_put(arrays)

    def rows(self, batch: int) -> slice:
        """See `BatchPlacement`."""
        return slice(0, batch)

    def shard_batch(self, arrays: Any, batch: int) -> Any:
        """See `BatchPlacement`."""
        return jax.device_put(arrays)


ONE_DEVICE = OneDevice()


@struct.dataclass
class OnDevice:
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

    def placed(self, places: BatchPlacement) -> OnDevice:
        """The same feed elsewhere."""
        return OnDevice(
            places.replicate(self.columns), places.shard_batch(self.order, self.order.shape[1])
        )


@struct.dataclass
class Streamed:
    """A stack of batches, each of its arrays (steps, batch, ...)."""

    stack: Batch

    @property
    def capacity(self) -> int:
        """The number of batches in this feed."""
        return self.stack["mask"].shape[0]

    def batch(self, step: jax.Array) -> Batch:
        """The batch of one step of this feed."""
        return {name: values[step] for name, values in self.stack.items()}

    def placed(self, places: BatchPlacement) -> Streamed:
        """The same feed elsewhere."""
        return Streamed(places.shard_batch(self.stack, self.stack["mask"].shape[1]))


class Chunk(NamedTuple):
    """`count` steps, to be taken from the beginning of `feed`."""

    feed: Any
    count: int

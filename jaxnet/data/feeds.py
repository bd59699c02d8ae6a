"""What compiled programs cut batches from: pytrees with a stretch of an epoch in them.

`Resident` has the whole data on the device and is given only the order of the rows; `Staged` has a
stack of batches that a thread has put together while the device was busy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

Batch = dict[str, jax.Array]


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


class Stretch(NamedTuple):
    """`count` steps, to be taken from the beginning of `feed`."""

    feed: Any
    count: int

"""What compiled programs cut batches from: pytrees with a stretch of an epoch in them.

`Resident` has the whole data on the device and is given only the order of the rows; `Staged` has a
stack of batches that a thread has put together while the device was busy.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import struct

Batch = dict[str, jax.Array]


class Places(Protocol):
    """Where the arrays of a feed go."""

    def whole(self, arrays: Any) -> Any:
        """Arrays of which any part may be needed anywhere."""
        ...

    def rows(self, batch: int) -> slice:
        """The rows of a batch of so many that this process has to have."""
        ...

    def stack(self, arrays: Any, batch: int) -> Any:
        """Arrays (steps, batch, ...), of which each device needs its part of the batch.

        Args:
            arrays: with all rows of the batches, or with `rows(batch)` of them.
            batch: the number of all rows.
        """
        ...


class OneDevice:
    """Everything goes to the one device."""

    def whole(self, arrays: Any) -> Any:
        """See `Places`."""
        return jax.device_put(arrays)

    def rows(self, batch: int) -> slice:
        """See `Places`."""
        return slice(0, batch)

    def stack(self, arrays: Any, batch: int) -> Any:
        """See `Places`."""
        return jax.device_put(arrays)


ONE_DEVICE = OneDevice()


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

    def placed(self, places: Places) -> Resident:
        """The same feed elsewhere."""
        return Resident(places.whole(self.columns), places.stack(self.order, self.order.shape[1]))


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

    def placed(self, places: Places) -> Staged:
        """The same feed elsewhere."""
        return Staged(places.stack(self.stack, self.stack["mask"].shape[1]))


class Stretch(NamedTuple):
    """`count` steps, to be taken from the beginning of `feed`."""

    feed: Any
    count: int

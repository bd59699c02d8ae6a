"""A layout on a mesh of devices: placement and sharding constraints of a run's arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnet.parallel.axes import BATCH_AXES
from jaxnet.parallel.layout import Layout

PyTree = Any


def global_arrays(host: PyTree, shardings: PyTree, batch: int | None = None) -> PyTree:
    """Create global arrays; each process transfers the shards of its own devices.

    Args:
        host: numpy arrays, complete in each process; or JAX arrays, which are resharded.
        shardings: the sharding of all arrays, or a tree with one for each.
        batch: the global length of axis 1, if a process may have only its own rows: those from its
            first device's on.
    """

    def send(array: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(array, jax.Array):
            return jax.device_put(array, sharding)
        shape, first = np.shape(array), 0
        if batch is not None and shape[1] != batch:
            shape = (shape[0], batch, *shape[2:])
            first = own_part(sharding, shape, 1).start

        def part(index: Any) -> np.ndarray:
            if first:
                start, stop, _ = index[1].indices(shape[1])
                index = (index[0], slice(start - first, stop - first), *index[2:])
            return np.asarray(array)[index]

        return jax.make_array_from_callback(shape, sharding, part)

    if isinstance(shardings, NamedSharding):
        return jax.tree.map(lambda array: send(array, shardings), host)
    return jax.tree.map(send, host, shardings)


def own_part(sharding: NamedSharding, shape: tuple[int, ...], axis: int) -> slice:
    """The range along an axis that covers the shards of this process's devices."""
    indices = sharding.addressable_devices_indices_map(shape).values()
    parts = [index[axis].indices(shape[axis]) for index in indices if index is not None]
    return slice(min(part[0] for part in parts), max(part[1] for part in parts))


@dataclass(frozen=True)
class MeshLayout:
    """A layout bound to a mesh.

    Attributes:
        layout: the layout, without -1.
        mesh: its mesh.
    """

    layout: Layout
    mesh: Mesh

    @staticmethod
    def of(layout: Layout) -> MeshLayout | None:
        """The layout on the available devices; None for one device, which needs no mesh.

        Raises:
            UsageError: see `Layout.mesh`.
        """
        if layout.one_device:
            return None
        mesh = layout.mesh()
        return MeshLayout(layout.filled(mesh.size), mesh)

    @cached_property
    def everywhere(self) -> NamedSharding:
        """The sharding of an array that is replicated on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def shares(self) -> int:
        """The number of shards of a batch's examples."""
        return math.prod(self.mesh.shape[name] for name in BATCH_AXES)

    def replicate(self, arrays: PyTree) -> PyTree:
        """Replicate arrays on every device."""
        return global_arrays(arrays, self.everywhere)

    def rows(self, batch: int) -> slice:
        """The rows of a batch of this size that this process has to load; see `BatchPlacement`.

        Raises:
            UsageError: the batch can't be sharded evenly.
        """
        sharding = self.layout.batch(jax.ShapeDtypeStruct((batch,), np.bool_), self.mesh)
        return own_part(sharding, (batch,), 0)

    def shard_batch(self, arrays: PyTree, batch: int) -> PyTree:
        """Shard the batch axis of arrays (steps, batch, ...).

        Raises:
            UsageError: the batch can't be sharded evenly.
            InputError: the tokens can't be sharded evenly; see `Layout.batch`.
        """
        shapes = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((batch, *a.shape[2:]), a.dtype), arrays
        )
        shardings = jax.tree.map(
            lambda sharding: NamedSharding(self.mesh, PartitionSpec(None, *sharding.spec)),
            self.layout.batch(shapes, self.mesh),
        )
        return global_arrays(arrays, shardings, batch)

    def state(self, state: PyTree) -> PyTree:
        """The sharding of each leaf of a training state; see `Layout.specs`."""
        return self.layout.shardings(state, self.mesh)

    def shapes(self, state: PyTree) -> PyTree:
        """The state's shapes, with shardings."""
        return _with_shardings(state, self.state(state))

    def batch(self, batch: PyTree) -> PyTree:
        """A batch's shapes, with shardings."""
        return _with_shardings(batch, self.layout.batch(batch, self.mesh))

    def put(self, state: PyTree) -> PyTree:
        """Move a state to its shardings; arrays that have them already are not copied."""
        return jax.device_put(state, self.state(state))

    def feed(self, feed: Any) -> Any:
        """Move a feed to this mesh, unless it is there already."""
        leaves = jax.tree.leaves(feed)
        if leaves and all(_mesh(leaf) == self.mesh for leaf in leaves):
            return feed
        # A user-defined feed that doesn't say which axis is the batch is replicated.
        return feed.placed(self) if hasattr(feed, "placed") else self.replicate(feed)

    # Within a compiled program:

    def pinned(self, state: PyTree) -> PyTree:
        """Constrain a state to its shardings, whatever the compiler would choose."""
        return jax.lax.with_sharding_constraint(state, self.state(state))

    def cut(self, batch: PyTree) -> PyTree:
        """Constrain a batch to its sharding."""
        return jax.lax.with_sharding_constraint(batch, self.layout.batch(batch, self.mesh))


def _mesh(leaf: Any) -> Mesh | None:
    return getattr(getattr(leaf, "sharding", None), "mesh", None)


def _with_shardings(tree: PyTree, shardings: PyTree) -> PyTree:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )

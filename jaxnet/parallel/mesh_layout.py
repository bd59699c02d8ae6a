"""A layout on a mesh of devices: where the arrays of a run go, and that they stay there."""

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
    """Arrays over all devices of all processes, each of which sends its devices their parts.

    Args:
        host: numpy arrays, all of them in each process; or arrays of JAX, which are moved.
        shardings: how each lies; one for all of them, or a tree of its own.
        batch: the length of axis 1, of which a process may have its own rows alone: those from its
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
    """From the first to the last place along an axis that this process's devices hold."""
    indices = sharding.addressable_devices_indices_map(shape).values()
    parts = [index[axis].indices(shape[axis]) for index in indices if index is not None]
    return slice(min(part[0] for part in parts), max(part[1] for part in parts))


@dataclass(frozen=True)
class MeshLayout:
    """A layout on its mesh.

    Attributes:
        layout: the layout, without -1.
        mesh: its mesh.
    """

    layout: Layout
    mesh: Mesh

    @staticmethod
    def of(layout: Layout) -> MeshLayout | None:
        """The layout on the devices that there are; None for one device, which needs no mesh.

        Raises:
            UsageError: see `Layout.mesh`.
        """
        if layout.one_device:
            return None
        mesh = layout.mesh()
        return MeshLayout(layout.filled(mesh.size), mesh)

    @cached_property
    def everywhere(self) -> NamedSharding:
        """How an array lies that is whole on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def shares(self) -> int:
        """The number of parts into which the examples of a batch are cut."""
        return math.prod(self.mesh.shape[name] for name in BATCH_AXES)

    def replicate(self, arrays: PyTree) -> PyTree:
        """The arrays, replicated on every device."""
        return global_arrays(arrays, self.everywhere)

    def rows(self, batch: int) -> slice:
        """The rows of a batch of so many that this process has to have; see `BatchPlacement`.

        Raises:
            UsageError: the batch can't be shared out.
        """
        lies = self.layout.batch(jax.ShapeDtypeStruct((batch,), np.bool_), self.mesh)
        return own_part(lies, (batch,), 0)

    def shard_batch(self, arrays: PyTree, batch: int) -> PyTree:
        """Arrays (steps, batch, ...), whose batch axis is sharded.

        Raises:
            UsageError: the batch can't be shared out.
            InputError: the tokens can't; see `Layout.batch`.
        """
        shapes = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((batch, *a.shape[2:]), a.dtype), arrays
        )
        lies = jax.tree.map(
            lambda sharding: NamedSharding(self.mesh, PartitionSpec(None, *sharding.spec)),
            self.layout.batch(shapes, self.mesh),
        )
        return global_arrays(arrays, lies, batch)

    def state(self, state: PyTree) -> PyTree:
        """How each leaf of a training state lies; see `Layout.specs`."""
        return self.layout.shardings(state, self.mesh)

    def shapes(self, state: PyTree) -> PyTree:
        """The state's shapes, each with how it lies."""
        return _laid_out(state, self.state(state))

    def batch(self, batch: PyTree) -> PyTree:
        """A batch's shapes, each with how it lies."""
        return _laid_out(batch, self.layout.batch(batch, self.mesh))

    def put(self, state: PyTree) -> PyTree:
        """A state from anywhere, laid out; one that is already stays as it is."""
        return jax.device_put(state, self.state(state))

    def feed(self, feed: Any) -> Any:
        """A feed on this mesh; one that is there already stays as it is."""
        leaves = jax.tree.leaves(feed)
        if leaves and all(_mesh(leaf) == self.mesh for leaf in leaves):
            return feed
        # A feed of somebody's own, that can't say which of its axes is which, is whole everywhere.
        return feed.placed(self) if hasattr(feed, "placed") else self.replicate(feed)

    # Within a compiled program:

    def pinned(self, state: PyTree) -> PyTree:
        """A state that lies as it should, whatever the compiler would have chosen."""
        return jax.lax.with_sharding_constraint(state, self.state(state))

    def cut(self, batch: PyTree) -> PyTree:
        """A batch of which each device has its part."""
        return jax.lax.with_sharding_constraint(batch, self.layout.batch(batch, self.mesh))


def _mesh(leaf: Any) -> Mesh | None:
    return getattr(getattr(leaf, "sharding", None), "mesh", None)


def _laid_out(tree: PyTree, lies: PyTree) -> PyTree:
    return jax.tree.map(
        lambda leaf, lies: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=lies), tree, lies
    )

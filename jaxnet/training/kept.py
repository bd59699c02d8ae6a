"""A copy of the training state, on the device or, if large, in host memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

PyTree = Any

# A state up to this size per device is copied on the device, which is fast. A larger one is copied
# to host memory: over PCI Express that takes a second for some ten gigabytes.
ON_DEVICE_BYTES = 1 << 30


@dataclass(frozen=True)
class Kept:
    """A copy of a state.

    Attributes:
        leaves: arrays on their devices, or in host memory.
    """

    leaves: PyTree

    @staticmethod
    def of(state: PyTree, copy: Callable[[PyTree], PyTree]) -> Kept:
        """Copy a state, on its devices if it is small.

        Args:
            state: arrays on devices; they may be donated afterwards.
            copy: copies a state on its devices.

        Example:
            >>> state = {"kernel": jax.numpy.ones(3)}
            >>> Kept.of(state, lambda same: same).state()["kernel"].tolist()
            [1.0, 1.0, 1.0]
        """
        if _bytes_per_device(state) <= ON_DEVICE_BYTES:
            return Kept(copy(state))
        return Kept(jax.tree.map(_OnHost.of, state))

    def state(self) -> PyTree:
        """The state on its devices, with its original sharding."""

        def back(leaf: Any) -> Any:
            return leaf.array() if isinstance(leaf, _OnHost) else leaf

        return jax.tree.map(back, self.leaves, is_leaf=lambda leaf: isinstance(leaf, _OnHost))


@dataclass(frozen=True, eq=False)
class _OnHost:
    """The addressable shards of an array in host memory, without duplicates.

    Attributes:
        shape: of the global array.
        sharding: its sharding.
        shards: numpy arrays, by their indices into the global array.
        key: the implementation of random keys, if it is an array of keys.
    """

    shape: tuple[int, ...]
    sharding: jax.sharding.Sharding
    shards: dict[Any, np.ndarray]
    key: Any

    @staticmethod
    def of(leaf: jax.Array) -> _OnHost:
        key = None
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            key, leaf = jax.random.key_impl(leaf), jax.random.key_data(leaf)
        shards = {}
        for shard in leaf.addressable_shards:
            place = _place(shard.index, leaf.shape)
            if place not in shards:
                # A copy: on CPUs NumPy would share the array's buffer, which is donated later.
                shards[place] = np.array(shard.data)
        return _OnHost(leaf.shape, leaf.sharding, shards, key)

    def array(self) -> jax.Array:
        indices = self.sharding.addressable_devices_indices_map(self.shape)
        parts = [
            jax.device_put(self.shards[_place(index, self.shape)], device)
            for device, index in indices.items()
        ]
        array = jax.make_array_from_single_device_arrays(self.shape, self.sharding, parts)
        return array if self.key is None else jax.random.wrap_key_data(array, impl=self.key)


def _place(index: Any, shape: tuple[int, ...]) -> tuple[tuple[int, int, int], ...]:
    """A shard's range along each axis; slices aren't hashable before Python 3.12."""
    return tuple(part.indices(size) for part, size in zip(index, shape, strict=True))


def _bytes_per_device(state: PyTree) -> int:
    leaves = [leaf for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)]
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf in leaves
    )

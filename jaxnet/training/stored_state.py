"""States in the form in which checkpoints hold them: random keys as numbers, shapes as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from jaxnet import trees

PyTree = Any


def as_stored(state: PyTree) -> PyTree:
    """The state with random keys converted to integers, which files can store."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, state)


def from_stored(stored: PyTree, like: PyTree) -> PyTree:
    """The inverse of `as_stored`.

    Args:
        stored: what a file held.
        like: the state, or its shapes, with random keys.
    """

    def typed(values: jax.Array, leaf: Any) -> jax.Array:
        if not _is_key(leaf):
            return values
        impl = jax.random.key_impl(jax.numpy.empty((), leaf.dtype))
        return jax.random.wrap_key_data(values, impl=impl)

    return jax.tree.map(typed, stored, like)


def stored_shapes(like: PyTree) -> PyTree:
    """Shapes, types and shardings of a state as it is stored, for the devices of this process."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def abstract(leaf: Any, stored: Any) -> jax.ShapeDtypeStruct:
        # The integers of a key have an axis more, at the end, and lie as the key does.
        sharding = getattr(leaf, "sharding", None) or here
        return jax.ShapeDtypeStruct(stored.shape, stored.dtype, sharding=sharding)

    return jax.tree.map(abstract, like, jax.eval_shape(as_stored, like))


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def describe(tree: PyTree) -> dict[str, list[Any]]:
    """Type and shape of each leaf by its path, as JSON."""
    return {path: [leaf.dtype.name, list(leaf.shape)] for path, leaf in trees.named(tree).items()}


def from_description(described: Mapping[str, list[Any]]) -> dict[str, jax.ShapeDtypeStruct]:
    """The inverse of `describe`."""
    return {
        path: jax.ShapeDtypeStruct(tuple(shape), jax.numpy.dtype(dtype))
        for path, (dtype, shape) in described.items()
    }

"""Random numbers derived from each example, for reproducible evaluation."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# 2^32 over the golden ratio: its multiples are far apart.
_GOLDEN = 2654435769


def example_keys(key: jax.Array, inputs: jax.Array) -> jax.Array:
    """Random keys (B,), each a function of `key` and one example of `inputs` (B, ...).

    Numbers sampled with them in evaluation depend neither on the order of the examples nor on the
    batch size. Equal examples get equal keys.

    Example:
        >>> images = jnp.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
        >>> first, second, third = example_keys(jax.random.key(0), images)
        >>> bool(first == third), bool(first == second)
        (True, False)
    """
    flat = inputs.astype(jnp.float32).reshape(len(inputs), -1)
    bits = jax.lax.bitcast_convert_type(flat, jnp.uint32)
    # Mixed with the position first: a weighted sum of the values alone would be the same for many
    # images of two colours.
    places = jnp.arange(flat.shape[1], dtype=jnp.uint32) * jnp.uint32(_GOLDEN)
    digests = _mixed(bits + places[None]).sum(axis=1, dtype=jnp.uint32)
    return jax.vmap(lambda digest: jax.random.fold_in(key, digest))(digests)


def _mixed(bits: jax.Array) -> jax.Array:
    """A hash of each uint32 (Wellons's lowbias32)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits = (bits ^ (bits >> jnp.uint32(shift))) * jnp.uint32(factor)
    return bits ^ (bits >> jnp.uint32(16))


def normal(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal samples (B, *shape), one block for each of the `keys` (B,)."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)

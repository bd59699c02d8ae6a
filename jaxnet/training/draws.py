"""Random numbers that belong to an example, for an evaluation that is the same each time."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Knuth's multiplier of hashing, 2^32 over the golden ratio.
_GOLDEN = 2654435761


def example_keys(key: jax.Array, inputs: jax.Array) -> jax.Array:
    """(B,) random keys, each a function of `key` and of one example of `inputs` (B, ...).

    What an evaluation draws with them depends neither on the order of the examples nor on the size
    of the batches. Equal examples draw the same.

    Example:
        >>> images = jnp.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
        >>> first, second, third = example_keys(jax.random.key(0), images)
        >>> bool(first == third), bool(first == second)
        (True, False)
    """
    flat = inputs.astype(jnp.float32).reshape(len(inputs), -1)
    bits = jax.lax.bitcast_convert_type(flat, jnp.uint32)
    # Round numbers have zeros in their low bits, which a product would leave there.
    bits = bits ^ (bits >> jnp.uint32(15))
    places = 2 * jnp.arange(flat.shape[1], dtype=jnp.uint32) + 1
    digests = (bits * (places * jnp.uint32(_GOLDEN))[None]).sum(axis=1, dtype=jnp.uint32)
    return jax.vmap(lambda digest: jax.random.fold_in(key, digest))(digests)


def normal(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal numbers (B, *shape), those of each of the `keys` (B,)."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)

"""What attention keeps from call to call, so that a token costs no more than itself.

A language model's cache is a dict with the batch as leading axis everywhere:

    seen     int32 (batch,), how many tokens went in
    layers   what each block keeps, KeyValues say

Tokens lie at their positions, padding nowhere. So prompts of different lengths, padded on the left,
leave the same as each of them alone, and rows can be picked out and put together.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxnet.errors import InputError
from jaxnet.layers.positions import token_positions

Cache = dict[str, Any]


class KeyValues(NamedTuple):
    """Keys and values of tokens, ready to be attended to.

    Attributes:
        key: `(batch, kv_heads, length, head_dim)`.
        value: likewise.
    """

    key: jax.Array
    value: jax.Array

    @staticmethod
    def empty(
        batch_size: int, num_heads: int, length: int, head_dim: int, dtype: Any = jnp.float32
    ) -> KeyValues:
        """Room for `length` tokens, for `MultiHeadAttention` to fill.

        Example:
            >>> KeyValues.empty(2, 4, 10, 8).key.shape
            (2, 4, 10, 8)
        """
        zeros = jnp.zeros((batch_size, num_heads, length, head_dim), dtype)
        return KeyValues(zeros, zeros)

    def insert(self, new: KeyValues, positions: Int[Array, "batch time"]) -> KeyValues:
        """These with new tokens at their positions; those at -1 (padding) are left out.

        So are those beyond the end. Positions are known only when a compiled program runs, and
        there nothing can be raised: make the cache as long as all tokens that are going to come.

        Raises:
            InputError: there are more new tokens than the whole cache has room for.
        """
        length = self.key.shape[2]
        if positions.shape[1] > length:
            raise InputError(
                f"expected at most {length} tokens, for which the cache has room, got "
                f"{positions.shape[1]}: make it longer, with init_cache"
            )
        # An index beyond the end is dropped, while -1 would be the last one.
        slots = jnp.where(positions < 0, length, positions)
        rows = jnp.arange(len(slots))[:, None]

        def put(old: jax.Array, new: jax.Array) -> jax.Array:
            new = new.swapaxes(1, 2).astype(old.dtype)
            return old.at[rows, :, slots].set(new, mode="drop")

        return KeyValues(put(self.key, new.key), put(self.value, new.value))


def new_positions(
    tokens: Int[Array, "batch time"], mask: Bool[Array, "batch time"] | None, cache: Cache
) -> Int[Array, "batch time"]:
    """The positions of tokens that go in after what a cache holds, -1 for padding.

    Args:
        tokens: of which only the shape matters.
        mask: False where a token is padding; None if all are real.
        cache: the cache.

    Example:
        >>> cache = {"seen": jnp.array([4, 0])}
        >>> new_positions(jnp.zeros((2, 2), jnp.int32), None, cache).tolist()
        [[4, 5], [0, 1]]
    """
    real = jnp.ones(tokens.shape, bool) if mask is None else mask
    return token_positions(real, cache["seen"])


def advanced(cache: Cache, positions: Int[Array, "batch time"], layers: Any) -> Cache:
    """The cache after tokens at these positions, with what its layers keep now."""
    seen = jnp.maximum(cache["seen"], positions.max(axis=1) + 1)
    return {**cache, "seen": seen, "layers": layers}
